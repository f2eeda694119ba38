"""Distinct elements of a tensor, and places in sorted ones."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..backend.arrays import contiguous
from ..errors import ShapeError
from .promote import refuse_complex
from .reductions import axis_of

__all__ = ["unique", "unique_consecutive"]


def unique(
    input: Any,
    sorted: bool = True,
    return_inverse: bool = False,
    return_counts: bool = False,
    dim: int | None = None,
) -> Any:
    """The distinct elements, in order; with `dim` the distinct slices along it.

    Args:
        input: any shape.
        sorted: they are sorted in either case.
        return_inverse: also where each element of input is among them.
        return_counts: also how often each occurs.
        dim: compare slices along it; None compares elements.

    Returns:
        The elements, or a tuple of them and what else was asked for.

    >>> import allgrad as ag
    >>> ag.unique(ag.tensor([3, 1, 3]), return_counts=True)
    (tensor([1, 3]), tensor([1, 2]))
    """
    refuse_complex("unique", input)
    axis = None if dim is None else axis_of(dim, input.ndim, "unique")
    array = input._array
    found, inverse, counts = np.unique(
        array, return_inverse=True, return_counts=True, axis=axis, equal_nan=False
    )
    inverse = inverse.reshape(array.shape if axis is None else -1)
    return _asked(input, found, inverse, counts, return_inverse, return_counts)


def unique_consecutive(
    input: Any, return_inverse: bool = False, return_counts: bool = False, dim: int | None = None
) -> Any:
    """The elements without those that equal the one before; with `dim` slices along it.

    Args and result as of `unique`.

    >>> import allgrad as ag
    >>> ag.unique_consecutive(ag.tensor([1, 1, 2, 2, 1]))
    tensor([1, 2, 1])
    """
    array = input._array
    if dim is None:
        lines = array.reshape(-1)
    else:
        lines = np.moveaxis(array, axis_of(dim, input.ndim, "unique_consecutive"), 0)
    if dim is not None and not array.ndim:
        raise ShapeError("unique_consecutive: expected at least one dimension, came shape ()")
    changed = np.ones(len(lines), bool)
    differs = lines[1:] != lines[:-1]
    changed[1:] = differs.any(axis=tuple(range(1, differs.ndim)))
    found = lines[changed]
    if dim is not None:
        found = np.moveaxis(found, 0, axis_of(dim, input.ndim, "unique_consecutive"))
    inverse = np.cumsum(changed) - 1
    counts = np.diff(np.append(np.flatnonzero(changed), len(lines)))
    shaped = inverse.reshape(array.shape) if dim is None else inverse
    return _asked(input, found, shaped, counts, return_inverse, return_counts)


def _asked(
    input: Any,
    found: np.ndarray,
    inverse: np.ndarray,
    counts: np.ndarray,
    return_inverse: bool,
    return_counts: bool,
) -> Any:
    results = [input._new(contiguous(found))]
    if return_inverse:
        results.append(input._new(inverse.astype(np.int64, copy=False)))
    if return_counts:
        results.append(input._new(counts.astype(np.int64, copy=False)))
    return results[0] if len(results) == 1 else tuple(results)


class DistinctMethods:
    """Methods of Tensor that find distinct elements."""

    unique, unique_consecutive = unique, unique_consecutive
