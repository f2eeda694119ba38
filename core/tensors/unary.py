"""Elementwise functions of one tensor."""

from __future__ import annotations

import builtins
import math
from collections.abc import Callable
from typing import Any

import numpy as np

from .. import dtypes
from ..errors import DtypeError
from ..ops import activation, complex_numbers, elementwise, special, trigonometric
from .graph import apply
from .promote import cast, not_a_tensor

__all__ = [
    "abs",
    "absolute",
    "acos",
    "acosh",
    "angle",
    "arccos",
    "arccosh",
    "arcsin",
    "arcsinh",
    "arctan",
    "arctanh",
    "asin",
    "asinh",
    "atan",
    "atanh",
    "ceil",
    "cos",
    "cosh",
    "deg2rad",
    "digamma",
    "erf",
    "erfc",
    "erfinv",
    "exp",
    "exp2",
    "expm1",
    "fix",
    "floor",
    "frac",
    "lgamma",
    "log",
    "log1p",
    "log2",
    "log10",
    "logit",
    "mvlgamma",
    "nan_to_num",
    "neg",
    "negative",
    "polygamma",
    "positive",
    "rad2deg",
    "reciprocal",
    "round",
    "rsqrt",
    "sgn",
    "sigmoid",
    "sign",
    "sin",
    "sinc",
    "sinh",
    "sqrt",
    "square",
    "tan",
    "tanh",
    "trunc",
]

_INTEGRAL = "iub"


def _real_only(name: str) -> DtypeError:
    return DtypeError(f"{name}: not defined for complex numbers; take .real, .imag or .abs()")


def _unary(
    op_class: Callable[[], Any], name: str, floating: bool = True, real: bool = False
) -> Callable[..., Any]:
    """The function that applies an op.

    Args:
        op_class: makes the op.
        name: the function's name.
        floating: integers become the default floating type first.
        real: refuse complex numbers.
    """

    def function(input: Any) -> Any:
        try:
            kind = input._array.dtype.kind
        except AttributeError:
            raise not_a_tensor(name, input) from None
        if floating and kind in _INTEGRAL:
            input = cast(input, dtypes.get_default_dtype().numpy)
        elif real and kind == "c":
            raise _real_only(name)
        return apply(op_class(), input)

    function.__name__ = function.__qualname__ = name
    function.__doc__ = op_class.__doc__
    return function


exp = _unary(elementwise.Exp, "exp")
exp2 = _unary(trigonometric.Exp2, "exp2")
expm1 = _unary(elementwise.Expm1, "expm1")
log = _unary(elementwise.Log, "log")
log2 = _unary(elementwise.Log2, "log2")
log10 = _unary(elementwise.Log10, "log10")
log1p = _unary(elementwise.Log1p, "log1p")
sqrt = _unary(elementwise.Sqrt, "sqrt")
rsqrt = _unary(elementwise.Rsqrt, "rsqrt")
reciprocal = _unary(elementwise.Reciprocal, "reciprocal")
sin = _unary(elementwise.Sin, "sin")
cos = _unary(elementwise.Cos, "cos")
tan = _unary(elementwise.Tan, "tan")
asin = _unary(trigonometric.Asin, "asin")
acos = _unary(trigonometric.Acos, "acos")
atan = _unary(trigonometric.Atan, "atan")
sinh = _unary(trigonometric.Sinh, "sinh")
cosh = _unary(trigonometric.Cosh, "cosh")
tanh = _unary(elementwise.Tanh, "tanh")
asinh = _unary(trigonometric.Asinh, "asinh")
acosh = _unary(trigonometric.Acosh, "acosh")
atanh = _unary(trigonometric.Atanh, "atanh")
sinc = _unary(special.Sinc, "sinc")
sigmoid = _unary(activation.Sigmoid, "sigmoid")
erf = _unary(activation.Erf, "erf", real=True)
erfc = _unary(special.Erfc, "erfc", real=True)
erfinv = _unary(special.Erfinv, "erfinv", real=True)
lgamma = _unary(special.Lgamma, "lgamma", real=True)
digamma = _unary(special.Polygamma, "digamma", real=True)
angle = _unary(complex_numbers.Angle, "angle")
abs = _unary(elementwise.Abs, "abs", floating=False)
arccos, arccosh, arcsin, arcsinh = acos, acosh, asin, asinh
arctan, arctanh, absolute = atan, atanh, abs


def square(input: Any) -> Any:
    """input * input; bools count as integers."""
    if _kind(input, "square") == "b":
        input = cast(input, dtypes.int64.numpy)
    return apply(elementwise.Square(), input)


def neg(input: Any) -> Any:
    """-input."""
    if _kind(input, "neg") == "b":
        raise DtypeError("neg: not defined for bool; use logical_not, or cast it")
    return apply(elementwise.Neg(), input)


negative = neg


def positive(input: Any) -> Any:
    """input itself, as Python's unary plus."""
    if _kind(input, "positive") == "b":
        raise DtypeError("positive: not defined for bool; cast it")
    return input


def _kind(input: Any, name: str) -> str:
    try:
        return str(input._array.dtype.kind)
    except AttributeError:
        raise not_a_tensor(name, input) from None


def _flat(function: Any, name: str) -> Callable[..., Any]:
    def rounded(input: Any) -> Any:
        kind = _kind(input, name)
        if kind == "c":
            raise _real_only(name)
        if kind in _INTEGRAL:
            return input.clone()
        return apply(elementwise.Flat(function), input)

    rounded.__name__ = rounded.__qualname__ = name
    rounded.__doc__ = f"Elementwise {name}; its gradient is 0."
    return rounded


floor = _flat(np.floor, "floor")
ceil = _flat(np.ceil, "ceil")
trunc = _flat(np.trunc, "trunc")
_round = _flat(np.round, "round")
fix = trunc


def round(input: Any, *, decimals: int = 0) -> Any:
    """Rounded to `decimals` digits, halves to the even neighbour; its gradient is 0.

    Args:
        input: any shape; integers come back as they are.
        decimals: digits after the point; a negative number rounds to tens, hundreds, ...

    >>> import allgrad as ag
    >>> ag.round(ag.tensor([0.5, 1.5, 2.347]), decimals=1)
    tensor([0.5000, 1.5000, 2.3000])
    """
    if not decimals or _kind(input, "round") not in dtypes.FLOATING:
        return _round(input)
    scale = 10.0 ** builtins.abs(decimals)
    if decimals > 0:
        return apply(elementwise.Flat(lambda x: np.rint(x * scale) / scale), input)
    return apply(elementwise.Flat(lambda x: np.rint(x / scale) * scale), input)


def sign(input: Any) -> Any:
    """-1, 0 or 1; its gradient is 0."""
    kind = _kind(input, "sign")
    if kind == "c":
        raise DtypeError("sign: not defined for complex numbers; use sgn")
    return input.clone() if kind == "b" else apply(elementwise.Flat(_sign), input)


def _sign(x: np.ndarray) -> np.ndarray:
    """-1, 0 or 1; 0 for nan, unlike NumPy's."""
    return np.greater(x, 0).astype(x.dtype) - np.less(x, 0)


def sgn(input: Any) -> Any:
    """`sign` of real numbers, input / abs(input) of complex ones; 0 for 0."""
    return apply(complex_numbers.Sgn(), input) if _kind(input, "sgn") == "c" else sign(input)


def frac(input: Any) -> Any:
    """The part behind the decimal point, with the sign of input.

    >>> import allgrad as ag
    >>> ag.frac(ag.tensor([1.5, -2.25]))
    tensor([ 0.5000, -0.2500])
    """
    if _kind(input, "frac") not in dtypes.FLOATING:
        raise DtypeError(f"frac: expected a floating point tensor, came {input.dtype}")
    return apply(elementwise.Sub(), input, trunc(input.detach()))


def _scaled(factor: float, name: str, meaning: str) -> Callable[..., Any]:
    def scaled(input: Any) -> Any:
        kind = _kind(input, name)
        if kind == "c":
            raise _real_only(name)
        if kind in _INTEGRAL:
            input = cast(input, dtypes.get_default_dtype().numpy)
        return apply(elementwise.Mul(), input, factor)

    scaled.__name__ = scaled.__qualname__ = name
    scaled.__doc__ = meaning
    return scaled


deg2rad = _scaled(math.pi / 180, "deg2rad", "Angles in degrees to radians.")
rad2deg = _scaled(180 / math.pi, "rad2deg", "Angles in radians to degrees.")


def logit(input: Any, eps: float | None = None) -> Any:
    """log(input / (1 - input)), the inverse of `sigmoid`.

    Args:
        input: numbers within 0..1; beyond, the result is nan.
        eps: limit input to [eps, 1 - eps] first; the gradient beyond is 0.

    >>> import allgrad as ag
    >>> ag.logit(ag.tensor([0.5, 1.0]), eps=1e-6)
    tensor([ 0.0000, 13.8023])
    """
    return _unary(lambda: special.Logit(eps), "logit", real=True)(input)


def polygamma(n: int, input: Any) -> Any:
    """The derivative of order `n` of `digamma`; of order 0, digamma itself.

    Raises:
        RuntimeError: `n` is negative.
    """
    if n < 0:
        raise DtypeError(f"polygamma: expected an order n >= 0, came {n}")
    return _unary(lambda: special.Polygamma(n), "polygamma", real=True)(input)


def mvlgamma(input: Any, p: int) -> Any:
    """Logarithm of the multivariate gamma function of dimension `p`, without the constant's sign.

    Source: Muirhead 1982, "Aspects of Multivariate Statistical Theory", theorem 2.1.12.

    Raises:
        RuntimeError: `p` is below 1.
    """
    if p < 1:
        raise DtypeError(f"mvlgamma: expected p >= 1, came {p}")
    total = lgamma(input) + p * (p - 1) / 4 * math.log(math.pi)
    for j in range(1, p):
        total = total + lgamma(input - j / 2)
    return total


def nan_to_num(
    input: Any, nan: float | None = 0.0, posinf: float | None = None, neginf: float | None = None
) -> Any:
    """Numbers in the place of nan and the infinities.

    Args:
        input: any shape; integers come back as they are.
        nan: the number for nan; 0 by default.
        posinf, neginf: the numbers for the infinities; by default the dtype's largest and
            smallest.

    >>> import allgrad as ag
    >>> ag.nan_to_num(ag.tensor([float("nan"), 1.0, float("inf")]), posinf=9.0)
    tensor([0., 1., 9.])
    """
    if _kind(input, "nan_to_num") in _INTEGRAL:
        return input.clone()
    if input.dtype.is_floating_point and input.itemsize == 2:  # the op computes in float32
        limit = dtypes.finfo(input.dtype).max
        posinf = limit if posinf is None else posinf
        neginf = -limit if neginf is None else neginf
    return apply(special.NanToNum(0.0 if nan is None else nan, posinf, neginf), input)


class UnaryMethods:
    """Elementwise methods of Tensor that take no second tensor."""

    exp, exp2, expm1, log, log2, log10, log1p = exp, exp2, expm1, log, log2, log10, log1p
    sqrt, rsqrt, reciprocal, square = sqrt, rsqrt, reciprocal, square
    sin, cos, tan, asin, acos, atan = sin, cos, tan, asin, acos, atan
    sinh, cosh, tanh, asinh, acosh, atanh = sinh, cosh, tanh, asinh, acosh, atanh
    arcsin, arccos, arctan = asin, acos, atan
    arcsinh, arccosh, arctanh = asinh, acosh, atanh
    sinc, sigmoid, logit, erf, erfc, erfinv = sinc, sigmoid, logit, erf, erfc, erfinv
    lgamma, digamma, mvlgamma = lgamma, digamma, mvlgamma
    abs, absolute, neg, negative, positive = abs, abs, neg, neg, positive
    floor, ceil, trunc, fix, round, frac = floor, ceil, trunc, fix, round, frac
    sign, sgn, angle, nan_to_num = sign, sgn, angle, nan_to_num
    deg2rad, rad2deg = deg2rad, rad2deg

    def polygamma(self, n: int) -> Any:
        """The derivative of order `n` of digamma."""
        return polygamma(n, self)

    __neg__, __pos__, __abs__ = neg, positive, abs
