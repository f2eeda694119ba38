"""Operands of elementwise operations: type promotion and error messages.

Source of the rules: PyTorch manual, "Tensor Attributes", type promotion.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from .. import dtypes
from ..backend.arrays import as_array, known
from ..errors import DtypeError, ShapeError
from ..ops.base import Op
from ..ops.elementwise import Cast
from .graph import REFUSALS, TensorBase, apply

_OPERANDS = (TensorBase, bool, int, float, complex, np.generic)


def is_operand(value: Any) -> bool:
    """True for what may stand beside a tensor in an elementwise operation."""
    return isinstance(value, _OPERANDS)


def cast(t: Any, to: np.dtype[Any]) -> Any:
    """The tensor in NumPy dtype `to`, recorded; itself if it has that dtype."""
    return t if t._array.dtype == to else apply(Cast(to), t)


def binary(op: Op, name: str, a: Any, b: Any, floating: bool = False) -> Any:
    """Apply `op` to two operands, at least one of them a tensor.

    Args:
        floating: integers become the default floating type first (true division).

    Raises:
        ShapeError: shapes do not broadcast.
        TypeError: an operand is neither tensor nor number.
    """
    a, b = operands(name, a, b)
    if floating:
        a, b = _floating(a), _floating(b)
    try:
        return apply(op, a, b)
    except ValueError as err:
        raise mismatch(name, err, a, b) from err


def on_one_device(name: str, *inputs: Any) -> tuple[Any, ...] | None:
    """`together.together`, where a GPU has been used at all."""
    from .together import together  # noqa: PLC0415 - it applies ops

    return together(name, inputs) if known() else None


def check_broadcast(name: str, *values: Any) -> None:
    """Raise unless the shapes of the tensors among `values` broadcast together.

    Raises:
        ShapeError: they do not; the message names the function and all shapes.
    """
    try:
        np.broadcast_shapes(*(v._array.shape for v in values if isinstance(v, TensorBase)))
    except ValueError as err:
        raise mismatch(name, err, *values) from err


def mismatch(name: str, err: Exception, *tensors: Any) -> ShapeError:
    """The error for shapes that do not broadcast, naming them all."""
    shapes = " and ".join(str(tuple(t.shape)) for t in tensors if isinstance(t, TensorBase))
    return ShapeError(f"{name}: shapes {shapes} do not broadcast ({err})")


def _floating(value: Any) -> Any:
    if isinstance(value, TensorBase) and value._array.dtype.kind in "iub":
        return cast(value, dtypes.get_default_dtype().numpy)
    return value


def operands(name: str, a: Any, b: Any) -> tuple[Any, Any]:
    """Both operands with promoted dtypes; numbers stay numbers where the tensor's type wins."""
    if isinstance(a, TensorBase) and isinstance(b, TensorBase):
        da, db = a._array.dtype, b._array.dtype
        if da == db:
            return a, b
        to = result_dtype(a, b)
        return cast(a, to), cast(b, to)
    if isinstance(a, TensorBase):
        return _with_scalar(name, a, b)
    b, a = _with_scalar(name, b, a)
    return a, b


def not_a_tensor(name: str, value: Any) -> TypeError:
    """The error for what should be a tensor and is not."""
    return TypeError(f"{name}(): expected a tensor, came {type(value).__name__}")


def refuse_complex(name: str, *values: Any) -> None:
    """Raise if one of the values is complex: complex numbers have no order.

    Raises:
        RuntimeError: one is.
    """
    for v in values:
        if isinstance(v, complex) or (isinstance(v, TensorBase) and v._array.dtype.kind == "c"):
            raise DtypeError(f"{name}: not defined for complex numbers, which have no order")


def need_tensors(name: str, *values: Any) -> None:
    """Raise if one of the values is no tensor, where a number does not do.

    Raises:
        TypeError: one is not.
    """
    for v in values:
        if not isinstance(v, TensorBase):
            raise not_a_tensor(name, v)


def _with_scalar(name: str, t: Any, value: Any) -> tuple[Any, Any]:
    if isinstance(value, np.generic):
        value = value.item()
    elif not isinstance(value, bool | int | float | complex):
        raise TypeError(f"{name}(): expected a tensor or a number, came {type(value).__name__}")
    if not isinstance(t, TensorBase):
        raise not_a_tensor(name, t)
    scalar = dtypes.scalar_dtype(value)
    to = t._array.dtype
    if dtypes.category(scalar) > dtypes.category(to):
        floating = to.kind in dtypes.FLOATING  # a float64 tensor times 1j is complex128
        t = cast(t, dtypes.promote(to, scalar) if floating else scalar)
    elif to.kind in "iu" and not _fits(value, to):
        value = as_array(value).astype(to)[()]  # wraps around, as in PyTorch
    return t, value


def _fits(value: int, to: np.dtype[Any]) -> bool:
    """Whether an integer can be stored in the integer dtype `to`."""
    bits = 8 * to.itemsize
    return (
        -(1 << (bits - 1)) <= value < 1 << (bits - 1) if to.kind == "i" else 0 <= value < 1 << bits
    )


def result_dtype(*values: Any) -> np.dtype[Any]:
    """The dtype of an operation on tensors and numbers, tensors with dimensions ruling."""
    best: np.dtype[Any] | None = None
    for rank in ("dimensioned", "zero-dim", "number"):
        level: np.dtype[Any] | None = None
        for v in values:
            if rank_of(v) == rank:
                d = v._array.dtype if isinstance(v, TensorBase) else dtypes.scalar_dtype(v)
                level = d if level is None else dtypes.promote(level, d)
        if level is not None and (best is None or dtypes.category(level) > dtypes.category(best)):
            best = level if best is None else dtypes.promote(best, level)
    if best is None:
        raise TypeError("result_type: expected at least one tensor or number")
    return best


def rank_of(value: Any) -> str:
    """How strongly a value counts in promotion."""
    if isinstance(value, TensorBase):
        return "dimensioned" if value._array.ndim else "zero-dim"
    return "number"


def plain(function: Callable[..., Any], name: str, a: Any, b: Any) -> Any:
    """An elementwise function of two operands without a gradient."""
    a, b = operands(name, a, b)
    xa = a._array if isinstance(a, TensorBase) else a
    xb = b._array if isinstance(b, TensorBase) else b
    source = a if isinstance(a, TensorBase) else b
    try:
        with np.errstate(divide="ignore", invalid="ignore"):
            return source._new(function(xa, xb))
    except REFUSALS as err:
        moved = on_one_device(name, a, b)
        if moved is not None:
            return plain(function, name, *moved)
        if isinstance(err, ValueError):
            raise mismatch(name, err, a, b) from err
        raise


def operator_of(function: Callable[..., Any], swap: bool = False) -> Callable[..., Any]:
    """An operator of Python, which leaves operands it does not know to the other side."""

    def operator(self: Any, other: Any) -> Any:
        if not is_operand(other):
            return NotImplemented
        return function(other, self) if swap else function(self, other)

    operator.__name__ = operator.__qualname__ = function.__name__
    operator.__doc__ = function.__doc__
    return operator
