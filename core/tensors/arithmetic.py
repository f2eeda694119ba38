"""Elementwise functions of tensors, as functions, methods and operators."""

from __future__ import annotations

from typing import Any

import numpy as np

from .. import dtypes
from ..backend.arrays import as_array
from ..errors import ArgumentError, DtypeError
from ..ops import activation, elementwise
from . import graph, promote
from .graph import TensorBase, absorb_relu, apply, can_absorb, defer
from .inplace import assign
from .logic import lt, ne
from .promote import binary, cast, operator_of, plain
from .unary import trunc

__all__ = [
    "add",
    "clamp",
    "clamp_max",
    "clamp_min",
    "clip",
    "div",
    "divide",
    "floor_divide",
    "fmod",
    "maximum",
    "minimum",
    "mul",
    "multiply",
    "pow",
    "relu",
    "relu_",
    "remainder",
    "rsub",
    "sub",
    "subtract",
    "true_divide",
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
    if alpha != 1:
        _check_alpha("add", alpha, input, other)
    return binary(elementwise.Add(alpha), "add", input, other)


def _check_alpha(name: str, alpha: Any, *values: Any) -> None:
    """Raise if the factor is of a higher kind than the numbers that it multiplies."""
    if dtypes.category(dtypes.scalar_dtype(alpha)) > dtypes.category(promote.result_dtype(*values)):
        raise DtypeError(
            f"{name}: alpha={alpha} does not fit the result's type, "
            f"{dtypes.from_numpy(promote.result_dtype(*values))}; cast a tensor first"
        )


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
    if alpha != 1:
        _check_alpha("sub", alpha, input, other)
    return binary(elementwise.Sub(alpha), "sub", input, other)


subtract = sub


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


multiply = mul


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
        raise ArgumentError(
            f"div: unknown rounding_mode {rounding_mode!r}; known: None, 'trunc', 'floor'"
        )
    return binary(elementwise.Div(), "div", input, other, floating=True)


divide = div


def true_divide(input: Any, other: Any) -> Any:
    """input / other, broadcast; integers give the default floating type."""
    return div(input, other)


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
    promote.refuse_complex("floor_divide", input, other)
    _refuse_two_bools("floor_divide", input, other)
    a, b = promote.operands("floor_divide", input, other)
    _refuse_zero("floor_divide", a, b)
    return plain(np.floor_divide, "floor_divide", a, b)


def _refuse_zero(name: str, a: Any, b: Any) -> None:
    """Raise if integers are to be divided by 0."""
    divisor = b._array if isinstance(b, TensorBase) else as_array(b)
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
    promote.refuse_complex(name, a, b)
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
    """Elementwise larger one; nan wins. Both must be tensors."""
    promote.need_tensors("maximum", input, other)
    promote.refuse_complex("maximum", input, other)
    return binary(elementwise.Maximum(), "maximum", input, other)


def minimum(input: Any, other: Any) -> Any:
    """Elementwise smaller one; nan wins. Both must be tensors."""
    promote.need_tensors("minimum", input, other)
    promote.refuse_complex("minimum", input, other)
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
    """Limit every element to [min, max]; bounds are numbers or tensors.

    The gradient passes to input where it lies within the bounds, to the bound elsewhere.

    Raises:
        RuntimeError: no bound is given, or a tensor is complex.

    >>> import allgrad as ag
    >>> ag.clamp(ag.tensor([-2.0, 0.5, 9.0]), 0, 1)
    tensor([0.0000, 0.5000, 1.0000])
    """
    if min is None and max is None:
        raise ArgumentError("clamp: at least one of min and max must be given")
    promote.refuse_complex("clamp", input, min, max)
    if isinstance(min, TensorBase) or isinstance(max, TensorBase):
        y = input if min is None else _beyond(input, min, np.less)
        return y if max is None else _beyond(y, max, np.greater)
    for bound in (min, max):
        if isinstance(bound, float) and dtypes.category(input._array.dtype) < 2:
            input = cast(input, dtypes.get_default_dtype().numpy)
    if input._array.dtype.kind in "iu":  # NumPy refuses bounds that the dtype cannot store
        limits = np.iinfo(input._array.dtype)
        min, max = (
            None if b is None else int(np.clip(b, limits.min, limits.max)) for b in (min, max)
        )
    elif input._array.dtype.kind == "b":
        input = cast(input, dtypes.int64.numpy)
    return apply(elementwise.Clamp(min, max), input)


clip = clamp


def _beyond(input: Any, bound: Any, worse: Any) -> Any:
    """`bound` where input is beyond it, or where it is nan; else input."""
    if not isinstance(bound, TensorBase):
        bound = input._new(as_array(bound, dtypes.scalar_dtype(bound)))
    input, bound = promote.operands("clamp", input, bound)
    return where(plain(lambda x, b: worse(x, b) | (b != b), "clamp", input, bound), bound, input)


def clamp_min(input: Any, min: Any) -> Any:
    """Limit every element from below."""
    return clamp(input, min=min)


def clamp_max(input: Any, max: Any) -> Any:
    """Limit every element from above."""
    return clamp(input, max=max)


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


class ArithmeticMethods:
    """Elementwise methods and operators of Tensor."""

    add, sub, mul, div, pow = add, sub, mul, div, pow
    subtract, multiply, divide, true_divide = sub, mul, div, true_divide
    floor_divide, remainder, fmod = floor_divide, remainder, fmod
    maximum, minimum, clamp, clip = maximum, minimum, clamp, clamp
    clamp_min, clamp_max, relu, relu_ = clamp_min, clamp_max, relu, relu_

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
