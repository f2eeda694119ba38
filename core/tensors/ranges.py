"""Tensors of regular numbers: ranges, the unit matrix, indices of triangles."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from .. import devices, dtypes
from ..errors import ArgumentError, ShapeError
from .tensor import Tensor
from .values import dtype_or_default

__all__ = ["arange", "eye", "linspace", "logspace", "tril_indices", "triu_indices"]


def _number(value: Any) -> Any:
    return value.item() if isinstance(value, Tensor | np.generic) else value


def arange(
    start: Any,
    end: Any = None,
    step: Any = 1,
    *,
    dtype: Any = None,
    device: Any = None,
    requires_grad: bool = False,
) -> Tensor:
    """Numbers from `start` (0 if only one is given) up to but not including `end`.

    Args:
        dtype: by default int64 if all three are integers, else the default floating type.

    Raises:
        RuntimeError: a step of 0, or one that leads away from `end`.
    """
    start, end, step = _number(start), _number(end), _number(step)
    if end is None:
        start, end = 0, start
    if step == 0:
        raise ArgumentError("arange: step must not be 0")
    if (end - start) * step < 0:
        raise ShapeError(f"arange: step {step} does not lead from {start} to {end}")
    if dtype is None:
        floating = any(isinstance(v, float) for v in (start, end, step))
        dtype = dtypes.get_default_dtype() if floating else dtypes.int64
    count = math.ceil((end - start) / step)
    with devices.at(device) as xp:
        numbers = start + xp.arange(count) * step
    return Tensor(numbers.astype(dtypes.to_numpy(dtype)), requires_grad)


def linspace(
    start: Any,
    end: Any,
    steps: int,
    *,
    dtype: Any = None,
    device: Any = None,
    requires_grad: bool = False,
) -> Tensor:
    """`steps` numbers from `start` to `end`, both included, at equal distances."""
    numbers = _spaced("linspace", start, end, steps, device)
    return Tensor(numbers.astype(dtype_or_default(dtype)), requires_grad)


def logspace(
    start: Any,
    end: Any,
    steps: int,
    base: float = 10.0,
    *,
    dtype: Any = None,
    device: Any = None,
    requires_grad: bool = False,
) -> Tensor:
    """`steps` powers of `base`, their exponents from `start` to `end` at equal distances."""
    powers = float(base) ** _spaced("logspace", start, end, steps, device)
    return Tensor(powers.astype(dtype_or_default(dtype)), requires_grad)


def _spaced(name: str, start: Any, end: Any, steps: int, device: Any) -> np.ndarray:
    if steps < 0:
        raise ShapeError(f"{name}: expected 0 or more steps, came {steps}")
    with devices.at(device) as xp:
        return xp.linspace(_number(start), _number(end), steps)


def eye(
    n: int,
    m: int | None = None,
    *,
    dtype: Any = None,
    device: Any = None,
    requires_grad: bool = False,
) -> Tensor:
    """An n by m matrix (n by n if `m` is None) with ones on the diagonal."""
    if n < 0 or (m is not None and m < 0):
        raise ShapeError(f"eye: expected sizes of 0 or more, came {n} and {m}")
    with devices.at(device) as xp:
        return Tensor(xp.eye(n, m, dtype=dtype_or_default(dtype)), requires_grad)


def tril_indices(
    row: int, col: int, offset: int = 0, *, dtype: Any = dtypes.int64, device: Any = None
) -> Tensor:
    """Rows and columns, one below the other, of the elements of a lower triangle.

    Args:
        row, col: shape of the matrix.
        offset: the diagonal up to which elements count; 0 is the main one.

    >>> tril_indices(2, 2)
    tensor([[0, 1, 1],
            [0, 0, 1]])
    """
    return _triangle("tril_indices", np.tril_indices, row, col, offset, dtype, device)


def triu_indices(
    row: int, col: int, offset: int = 0, *, dtype: Any = dtypes.int64, device: Any = None
) -> Tensor:
    """Rows and columns, one below the other, of the elements of an upper triangle."""
    return _triangle("triu_indices", np.triu_indices, row, col, offset, dtype, device)


def _triangle(
    name: str, function: Any, row: int, col: int, offset: int, dtype: Any, device: Any
) -> Tensor:
    if row < 0 or col < 0:
        raise ShapeError(f"{name}: expected sizes of 0 or more, came {row} and {col}")
    places = np.stack(function(row, offset, col)).astype(dtypes.to_numpy(dtype))
    return Tensor(devices.moved(places, device))
