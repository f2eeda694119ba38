"""Elementwise functions of tensors, as functions, methods and operators."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from .. import dtypes
from ..errors import ArgumentError, DtypeError, OptionError, ShapeError
from ..ops import activation, elementwise, linear
from . import graph, promote
from .graph import TensorBase, absorb_relu, apply, can_absorb, defer
from .inplace import assign, check_in_place
from .logic import lt, ne
from .promote import binary, cast, operator_of, plain

__all__ = [
    "abs",
    "add",
    "bmm",
    "ceil",
    "clamp",
    "cos",
    "div",
    "dot",
    "erf",
    "exp",
    "expm1",
    "floor",
    "floor_divide",
    "fmod",
    "log",
    "log1p",
    "log2",
    "log10",
    "matmul",
    "maximum",
    "minimum",
    "mm",
    "mul",
    "neg",
    "pow",
    "reciprocal",
    "relu",
    "relu_",
    "remainder",
    "round",
    "rsqrt",
    "sigmoid",
    "sign",
    "sin",
    "sqrt",
    "square",
    "sub",
    "tan",
    "tanh",
    "trunc",
    "where",
]


def add(input: Any, other: Any, *, alpha: float = 1) -> Any:
    """input + alpha * other, broadcast."""
    if (
        alpha == 1
        and isinstance(input, TensorBase)
        and isinstance(other, TensorBase)
        and (input._requires_grad or other._requires_grad)
        and _same_activation(input, other)
    ):
        return defer(activation.AddActivations(), input, other)
    return binary(elementwise.Add(alpha), "add", input, other)


def _same_activation(a: TensorBase, b: TensorBase) -> bool:
    """Two float activations (N, C, ...) of one shape: their sum may meet a ReLU."""
    x, y = a._array, b._array
    return (
        x.ndim >= 3
        and x.shape == y.shape
        and x.dtype == y.dtype
        and x.dtype.kind in dtypes.FLOATING
    )


def sub(input: Any, other: Any, *, alpha: float = 1) -> Any:
    """input - alpha * other, broadcast."""
    _refuse_bool("sub", input, other)
    return binary(elementwise.Sub(alpha), "sub", input, other)


def _refuse_bool(name: str, *values: Any) -> None:
    """Raise if one of the values is bool."""
    for v in values:
        if isinstance(v, bool) or (isinstance(v, TensorBase) and v._array.dtype.kind == "b"):
            raise DtypeError(f"{name}: not defined for bool; use logical operations, or cast it")


def _refuse_two_bools(name: str, a: Any, b: Any) -> None:
    """Raise if both values are bool: the result would have no numeric type."""
    if promote.result_dtype(a, b).kind == "b":
        _refuse_bool(name, a, b)


def rsub(input: Any, other: Any, *, alpha: float = 1) -> Any:
    """other - alpha * input."""
    return sub(other, input, alpha=alpha)


def mul(input: Any, other: Any) -> Any:
    """input * other, broadcast."""
    return binary(elementwise.Mul(), "mul", input, other)


def div(input: Any, other: Any, *, rounding_mode: str | None = None) -> Any:
    """input / other, broadcast; integers give the default floating type.

    Args:
        rounding_mode: None, "floor", or "trunc".
    """
    if rounding_mode == "floor":
        return floor_divide(input, other)
    if rounding_mode == "trunc":
        return _divide_towards_zero(input, other)
    if rounding_mode is not None:
        raise OptionError.unknown("rounding_mode of div", rounding_mode, (None, "trunc", "floor"))
    return binary(elementwise.Div(), "div", input, other, floating=True)


def _divide_towards_zero(a: Any, b: Any) -> Any:
    _refuse_two_bools("div", a, b)
    if promote.result_dtype(a, b).kind in dtypes.FLOATING:
        return trunc(binary(elementwise.Div(), "div", a, b))
    quotient = floor_divide(a, b)  # exact, unlike the floating division
    below = ne(mul(quotient, b), a).logical_and(lt(quotient, 0))
    return add(quotient, cast(below, quotient._array.dtype))


def rdiv(input: Any, other: Any) -> Any:
    """other / input."""
    return div(other, input)


def floor_divide(input: Any, other: Any) -> Any:
    """input / other rounded down; no gradient.

    Raises:
        ZeroDivisionError: integer division by zero.
    """
    _refuse_two_bools("floor_divide", input, other)
    a, b = promote.operands("floor_divide", input, other)
    _refuse_zero("floor_divide", a, b)
    return plain(np.floor_divide, "floor_divide", a, b)


def _refuse_zero(name: str, a: Any, b: Any) -> None:
    """Raise if integers are to be divided by 0."""
    divisor = b._array if isinstance(b, TensorBase) else np.asarray(b)
    if promote.result_dtype(a, b).kind in "iu" and not np.all(divisor):
        raise ZeroDivisionError(f"{name}: integer division by zero")


def remainder(input: Any, other: Any) -> Any:
    """Remainder with the sign of `other` (Python's %)."""
    return _remainder(np.remainder, np.floor_divide, "remainder", input, other)


def fmod(input: Any, other: Any) -> Any:
    """Remainder with the sign of `input` (C's fmod)."""
    return _remainder(np.fmod, lambda a, b: np.trunc(np.divide(a, b)), "fmod", input, other)


def _remainder(function: Any, quotient: Any, name: str, a: Any, b: Any) -> Any:
    """input - quotient * other, the quotient being constant for the gradient."""
    _refuse_two_bools(name, a, b)
    _refuse_zero(name, a, b)
    if any(isinstance(v, TensorBase) and v._requires_grad for v in (a, b)):
        return sub(a, mul(plain(quotient, name, a, b), b))
    return plain(function, name, a, b)


def pow(input: Any, exponent: Any) -> Any:
    """input ** exponent, broadcast."""
    if isinstance(exponent, int | float) and isinstance(input, TensorBase):
        if (
            exponent == 2
            and not isinstance(exponent, bool)
            and input._array.dtype.kind in dtypes.DIFFERENTIABLE
        ):
            return apply(elementwise.Square(), input)
        negative = isinstance(exponent, int) and exponent < 0
        if input._array.dtype.kind in "iu" and negative:
            raise DtypeError("pow: integers to negative integer powers are not allowed")
    _refuse_two_bools("pow", input, exponent)
    return binary(elementwise.Pow(), "pow", input, exponent)


def maximum(input: Any, other: Any) -> Any:
    """Elementwise larger one."""
    return binary(elementwise.Maximum(), "maximum", input, other)


def minimum(input: Any, other: Any) -> Any:
    """Elementwise smaller one."""
    return binary(elementwise.Minimum(), "minimum", input, other)


def where(condition: Any, input: Any = None, other: Any = None) -> Any:
    """`input` where `condition` holds, else `other`, broadcast.

    With `condition` alone: the indices of its true elements, a tuple of one tensor per axis.
    """
    if input is None and other is None:
        return tuple(condition._new(i) for i in np.nonzero(condition._array))
    if condition._array.dtype.kind != "b":
        raise TypeError(f"where: expected a bool condition, came {condition.dtype}")
    if isinstance(input, TensorBase) or isinstance(other, TensorBase):
        a, b = promote.operands("where", input, other)
    else:
        to = promote.result_dtype(input, other)
        a, b = to.type(input), to.type(other)
    try:
        return apply(elementwise.Where(), condition, a, b)
    except ValueError as err:
        raise promote.mismatch("where", err, condition, a, b) from err


def clamp(input: Any, min: Any = None, max: Any = None) -> Any:
    """Limit every element to [min, max]; bounds are numbers or tensors."""
    if min is None and max is None:
        raise ArgumentError("clamp: at least one of min and max must be given")
    if isinstance(min, TensorBase) or isinstance(max, TensorBase):
        y = input if min is None else maximum(input, min)
        return y if max is None else minimum(y, max)
    for bound in (min, max):
        if isinstance(bound, float) and input._array.dtype.kind in "iub":
            input = cast(input, dtypes.get_default_dtype().numpy)
    return apply(elementwise.Clamp(min, max), input)


def _unary(op_class: Callable[[], Any], name: str, floating: bool = True) -> Callable[..., Any]:
    def function(input: Any) -> Any:
        if floating and input._array.dtype.kind in "iub":
            input = cast(input, dtypes.get_default_dtype().numpy)
        return apply(op_class(), input)

    function.__name__ = function.__qualname__ = name
    function.__doc__ = op_class.__doc__
    return function


exp = _unary(elementwise.Exp, "exp")
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
tanh = _unary(elementwise.Tanh, "tanh")
sigmoid = _unary(activation.Sigmoid, "sigmoid")
erf = _unary(activation.Erf, "erf")
square = _unary(elementwise.Square, "square", floating=False)
abs = _unary(elementwise.Abs, "abs", floating=False)


def neg(input: Any) -> Any:
    """-input."""
    _refuse_bool("neg", input)
    return apply(elementwise.Neg(), input)


def relu(input: Any) -> Any:
    """max(input, 0)."""
    if input._pending is not None and can_absorb(input):
        return absorb_relu(input)
    return apply(activation.ReLU(), input)


def relu_(input: Any) -> Any:
    """max(input, 0) in place."""
    if can_absorb(input) and (graph.mode.enabled or not input._requires_grad):
        fused = absorb_relu(input)
        input._pending = None
        input._array, input._node = fused._array, fused._node
        input._version = fused._version
        return input
    return assign(input, relu(input), "relu_")


def _flat(function: Any, name: str) -> Callable[..., Any]:
    def rounded(input: Any) -> Any:
        if input._array.dtype.kind in "iub":
            return input.clone()
        return apply(elementwise.Flat(function), input)

    rounded.__name__ = rounded.__qualname__ = name
    rounded.__doc__ = f"Elementwise {name}; its gradient is 0."
    return rounded


floor = _flat(np.floor, "floor")
ceil = _flat(np.ceil, "ceil")
round = _flat(np.round, "round")
trunc = _flat(np.trunc, "trunc")


def sign(input: Any) -> Any:
    """-1, 0 or 1; its gradient is 0."""
    if input._array.dtype.kind == "b":
        return input.clone()
    return apply(elementwise.Flat(np.sign), input)


def matmul(input: Any, other: Any) -> Any:
    """Matrix product as Python's @: vectors, matrices, or stacks of matrices.

    Raises:
        ShapeError: the inner dimensions differ, or the stacks do not broadcast.
        RuntimeError: the dtypes differ.
    """
    a, b = input._array, other._array
    inner = b.shape[-2] if b.ndim > 1 else b.shape[-1:][0] if b.ndim else None
    if not a.ndim or inner is None or a.shape[-1] != inner:
        raise ShapeError(
            f"matmul: expected the last size of the first to match the rows of the second, came "
            f"{a.shape} and {b.shape}"
        )
    if a.dtype != b.dtype:
        raise DtypeError(
            f"matmul: expected both tensors of one dtype, came {input.dtype} and {other.dtype}"
        )
    op = linear.MatMul() if a.ndim > 1 and b.ndim > 1 else linear.Dot()
    try:
        return apply(op, input, other)
    except ValueError as err:
        raise promote.mismatch("matmul", err, input, other) from err


def mm(input: Any, mat2: Any) -> Any:
    """Matrix product of two matrices."""
    if input.ndim != 2 or mat2.ndim != 2:
        raise ShapeError(
            f"mm: expected two matrices, came {tuple(input.shape)} and {tuple(mat2.shape)}"
        )
    return matmul(input, mat2)


def bmm(input: Any, mat2: Any) -> Any:
    """Products of matrices in two stacks (B, M, K) and (B, K, N)."""
    if input.ndim != 3 or mat2.ndim != 3 or input.shape[0] != mat2.shape[0]:
        raise ShapeError(
            f"bmm: expected (B, M, K) and (B, K, N), came {tuple(input.shape)} and "
            f"{tuple(mat2.shape)}"
        )
    return matmul(input, mat2)


def dot(input: Any, other: Any) -> Any:
    """Product of two vectors."""
    if input.ndim != 1 or other.ndim != 1:
        raise ShapeError(
            f"dot: expected two vectors, came {tuple(input.shape)} and {tuple(other.shape)}"
        )
    return matmul(input, other)


def in_place(function: Callable[..., Any]) -> Callable[..., Any]:
    """The method that stores the result of `function` in its first argument."""
    name = f"{function.__name__}_"

    def method(self: Any, *args: Any, **kwargs: Any) -> Any:
        check_in_place(self, name)
        return assign(self, function(self, *args, **kwargs), name)

    method.__name__ = method.__qualname__ = name
    method.__doc__ = f"`{function.__name__}` in place; returns self."
    return method


class ArithmeticMethods:
    """Elementwise methods and operators of Tensor."""

    add, sub, mul, div, pow = add, sub, mul, div, pow
    subtract, multiply, divide, true_divide = sub, mul, div, div
    floor_divide, remainder, fmod = floor_divide, remainder, fmod
    maximum, minimum, clamp, clip = maximum, minimum, clamp, clamp
    exp, expm1, log, log2, log10, log1p = exp, expm1, log, log2, log10, log1p
    sqrt, rsqrt, reciprocal, square = sqrt, rsqrt, reciprocal, square
    sin, cos, tan, tanh, sigmoid, erf = sin, cos, tan, tanh, sigmoid, erf
    abs, absolute, neg, negative, relu, relu_ = abs, abs, neg, neg, relu, relu_
    floor, ceil, round, trunc, sign = floor, ceil, round, trunc, sign
    matmul, mm, bmm, dot = matmul, mm, bmm, dot

    add_, sub_, mul_, div_ = in_place(add), in_place(sub), in_place(mul), in_place(div)
    pow_, clamp_, exp_, log_ = in_place(pow), in_place(clamp), in_place(exp), in_place(log)
    sqrt_, tanh_, sigmoid_ = in_place(sqrt), in_place(tanh), in_place(sigmoid)
    abs_, neg_, floor_, ceil_ = in_place(abs), in_place(neg), in_place(floor), in_place(ceil)
    round_, reciprocal_, square_ = in_place(round), in_place(reciprocal), in_place(square)

    def where(self, condition: Any, other: Any) -> Any:
        """self where `condition` holds, else `other`."""
        return where(condition, self, other)

    __add__, __radd__ = operator_of(add), operator_of(add)
    __sub__, __rsub__ = operator_of(sub), operator_of(sub, swap=True)
    __mul__, __rmul__ = operator_of(mul), operator_of(mul)
    __truediv__, __rtruediv__ = operator_of(div), operator_of(div, swap=True)
    __floordiv__ = operator_of(floor_divide)
    __rfloordiv__ = operator_of(floor_divide, swap=True)
    __mod__, __rmod__ = operator_of(remainder), operator_of(remainder, swap=True)
    __pow__, __rpow__ = operator_of(pow), operator_of(pow, swap=True)
    __matmul__ = operator_of(matmul)
    __neg__, __abs__ = neg, abs
    __iadd__, __isub__ = operator_of(in_place(add)), operator_of(in_place(sub))
    __imul__, __itruediv__ = operator_of(in_place(mul)), operator_of(in_place(div))
