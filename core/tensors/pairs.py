"""Elementwise functions of two or three tensors beyond the operators of `arithmetic.py`."""

from __future__ import annotations

import builtins
from collections import namedtuple
from typing import Any

import numpy as np

from .. import dtypes
from ..errors import DtypeError
from ..ops import pairs
from . import promote
from .arithmetic import add, div, mul, pow, sub  # noqa: A004 - PyTorch's spelling
from .graph import TensorBase, apply
from .promote import binary, cast, need_tensors, plain

__all__ = [
    "addcdiv",
    "addcmul",
    "arctan2",
    "atan2",
    "copysign",
    "float_power",
    "fmax",
    "fmin",
    "frexp",
    "gcd",
    "heaviside",
    "hypot",
    "lcm",
    "ldexp",
    "lerp",
    "logaddexp",
    "logaddexp2",
    "nextafter",
    "xlogy",
]

MantissaAndExponent = namedtuple("MantissaAndExponent", ["mantissa", "exponent"])


def _need(name: str, kinds: str, meaning: str, *values: Any) -> None:
    """Raise unless every tensor among `values` has a dtype of one of `kinds`."""
    for v in values:
        if isinstance(v, TensorBase) and v._array.dtype.kind not in kinds:
            raise DtypeError(f"{name}: expected {meaning}, came {v.dtype}")


def atan2(input: Any, other: Any) -> Any:
    """The angle of the point (other, input), in -pi..pi, broadcast; 0 has the gradient 0.

    >>> import allgrad as ag
    >>> ag.atan2(ag.tensor([1.0, -1.0]), ag.tensor([1.0, -1.0]))
    tensor([ 0.7854, -2.3562])
    """
    need_tensors("atan2", input, other)
    promote.refuse_complex("atan2", input, other)
    return binary(pairs.Atan2(), "atan2", input, other, floating=True)


arctan2 = atan2


def hypot(input: Any, other: Any) -> Any:
    """sqrt(input**2 + other**2), broadcast, without overflow."""
    need_tensors("hypot", input, other)
    _need("hypot", dtypes.FLOATING, "floating point tensors", input, other)
    return binary(pairs.Hypot(), "hypot", input, other)


def logaddexp(input: Any, other: Any) -> Any:
    """log(exp(input) + exp(other)), broadcast, without overflow."""
    need_tensors("logaddexp", input, other)
    _need("logaddexp", dtypes.FLOATING, "floating point tensors", input, other)
    return binary(pairs.LogAddExp(), "logaddexp", input, other)


def logaddexp2(input: Any, other: Any) -> Any:
    """log2(2**input + 2**other), broadcast, without overflow."""
    need_tensors("logaddexp2", input, other)
    _need("logaddexp2", dtypes.FLOATING, "floating point tensors", input, other)
    return binary(pairs.LogAddExp2(), "logaddexp2", input, other)


def copysign(input: Any, other: Any) -> Any:
    """The magnitude of input with the sign of other (a tensor or number), broadcast."""
    promote.refuse_complex("copysign", input, other)
    return binary(pairs.CopySign(), "copysign", input, other, floating=True)


def fmax(input: Any, other: Any) -> Any:
    """Elementwise larger one; a number wins over nan."""
    need_tensors("fmax", input, other)
    promote.refuse_complex("fmax", input, other)
    return binary(pairs.Fmax(), "fmax", input, other)


def fmin(input: Any, other: Any) -> Any:
    """Elementwise smaller one; a number wins over nan."""
    need_tensors("fmin", input, other)
    promote.refuse_complex("fmin", input, other)
    return binary(pairs.Fmin(), "fmin", input, other)


def xlogy(input: Any, other: Any) -> Any:
    """input * log(other), broadcast; 0 where input is 0, unless other is nan.

    >>> import allgrad as ag
    >>> ag.xlogy(ag.tensor([0.0, 2.0]), ag.tensor([0.0, 1.0]))
    tensor([0., 0.])
    """
    promote.refuse_complex("xlogy", input, other)
    return binary(pairs.XLogY(), "xlogy", input, other, floating=True)


def heaviside(input: Any, values: Any) -> Any:
    """0 where input is negative, 1 where it is positive, `values` where it is 0.

    Raises:
        RuntimeError: the dtypes differ, or are complex.
    """
    need_tensors("heaviside", input, values)
    promote.refuse_complex("heaviside", input, values)
    if input._array.dtype != values._array.dtype:
        raise DtypeError(
            f"heaviside: expected both tensors of one dtype, came {input.dtype} and {values.dtype}"
        )
    return plain(
        lambda x, v: np.where(x == 0, v, (x > 0).astype(v.dtype)), "heaviside", input, values
    )


def nextafter(input: Any, other: Any) -> Any:
    """The next floating point number after input in the direction of other, broadcast."""
    need_tensors("nextafter", input, other)
    _need("nextafter", dtypes.FLOATING, "floating point tensors", input, other)
    return plain(np.nextafter, "nextafter", input, other)


def gcd(input: Any, other: Any) -> Any:
    """Greatest common divisor of integers, broadcast."""
    need_tensors("gcd", input, other)
    _need("gcd", "iu", "integer tensors", input, other)
    return plain(np.gcd, "gcd", input, other)


def lcm(input: Any, other: Any) -> Any:
    """Least common multiple of integers, broadcast."""
    need_tensors("lcm", input, other)
    _need("lcm", "iu", "integer tensors", input, other)
    return plain(np.lcm, "lcm", input, other)


def ldexp(input: Any, other: Any) -> Any:
    """input * 2**other, broadcast."""
    need_tensors("ldexp", input, other)
    return mul(input, pow(2.0, other))


def frexp(input: Any) -> Any:
    """(mantissa, exponent) with input = mantissa * 2**exponent and 0.5 <= |mantissa| < 1.

    >>> import allgrad as ag
    >>> ag.frexp(ag.tensor([8.0, 3.0])).exponent
    tensor([4, 2], dtype=allgrad.int32)
    """
    need_tensors("frexp", input)
    _need("frexp", dtypes.FLOATING, "a floating point tensor", input)
    exponent = np.frexp(input._array)[1]
    return MantissaAndExponent(apply(pairs.Mantissa(), input), input._new(exponent))


def float_power(input: Any, exponent: Any) -> Any:
    """input ** exponent, broadcast, computed in float64 (complex128 for complex numbers)."""
    to = promote.result_dtype(input, exponent)
    wide = np.dtype(np.complex128 if to.kind == "c" else np.float64)
    a, b = (cast(v, wide) if isinstance(v, TensorBase) else v for v in (input, exponent))
    return pow(a, b)


def _one_dtype(name: str, input: Any, **others: Any) -> None:
    for label, v in others.items():
        if isinstance(v, TensorBase) and v._array.dtype != input._array.dtype:
            raise DtypeError(f"{name}: expected {label} of {input.dtype} as input, came {v.dtype}")


def lerp(input: Any, end: Any, weight: Any) -> Any:
    """input + weight * (end - input), broadcast.

    Args:
        input, end: tensors of one floating dtype.
        weight: a tensor of that dtype, or a number.

    Raises:
        RuntimeError: the dtypes differ, or the shapes do not broadcast.

    >>> import allgrad as ag
    >>> ag.lerp(ag.tensor([0.0, 10.0]), ag.tensor([10.0, 20.0]), 0.25)
    tensor([ 2.5000, 12.5000])
    """
    need_tensors("lerp", input, end)
    _need("lerp", dtypes.DIFFERENTIABLE, "floating point tensors", input)
    _one_dtype("lerp", input, end=end, weight=weight)
    promote.check_broadcast("lerp", input, end, weight)
    change = sub(end, input)
    if isinstance(weight, TensorBase):
        return add(input, mul(change, weight))
    if builtins.abs(weight) < 0.5:
        return add(input, change, alpha=weight)
    return sub(end, change, alpha=1 - weight)  # exactly `end` for the weight 1


def addcmul(input: Any, tensor1: Any, tensor2: Any, *, value: Any = 1) -> Any:
    """input + value * tensor1 * tensor2, broadcast."""
    need_tensors("addcmul", input, tensor1, tensor2)
    promote.check_broadcast("addcmul", input, tensor1, tensor2)
    return add(input, mul(tensor1, tensor2), alpha=value)


def addcdiv(input: Any, tensor1: Any, tensor2: Any, *, value: Any = 1) -> Any:
    """input + value * tensor1 / tensor2, broadcast.

    Raises:
        RuntimeError: both tensors to be divided hold integers.
    """
    need_tensors("addcdiv", input, tensor1, tensor2)
    promote.check_broadcast("addcdiv", input, tensor1, tensor2)
    if promote.result_dtype(tensor1, tensor2).kind in "iub":
        raise DtypeError(
            f"addcdiv: integer division is not supported, came {tensor1.dtype} and "
            f"{tensor2.dtype}; cast one to a floating dtype"
        )
    return add(input, div(tensor1, tensor2), alpha=value)


class PairMethods:
    """Elementwise methods of Tensor with two or three operands."""

    atan2, arctan2, hypot, copysign, xlogy = atan2, atan2, hypot, copysign, xlogy
    logaddexp, logaddexp2, fmax, fmin = logaddexp, logaddexp2, fmax, fmin
    heaviside, nextafter, gcd, lcm, ldexp, frexp = heaviside, nextafter, gcd, lcm, ldexp, frexp
    float_power, lerp, addcmul, addcdiv = float_power, lerp, addcmul, addcdiv
