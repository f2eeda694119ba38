"""Joining tensors: cat, stack and their like. Taking them apart: `splitting.py`."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ..backend.arrays import on
from ..errors import ArgumentError, ShapeError
from ..ops import shape as ops
from ..ops.index import Take
from .graph import TensorBase, apply
from .promote import cast, result_dtype
from .reductions import axis_of
from .shaping import atleast_1d, atleast_2d, atleast_3d, expand, flatten, reshape

__all__ = [
    "block_diag",
    "cartesian_prod",
    "cat",
    "column_stack",
    "combinations",
    "concat",
    "concatenate",
    "dstack",
    "hstack",
    "meshgrid",
    "row_stack",
    "stack",
    "vstack",
]


def _listed(tensors: Any, name: str) -> tuple[Any, ...]:
    """The tensors of a sequence.

    Raises:
        TypeError: a tensor instead of a sequence of them, or something else among them.
        ArgumentError: none.
    """
    if isinstance(tensors, TensorBase):
        raise TypeError(f"{name}: expected a sequence of tensors, came one tensor")
    tensors = tuple(tensors)
    for i, t in enumerate(tensors):
        if not isinstance(t, TensorBase):
            raise TypeError(f"{name}: expected a tensor as element {i}, came {type(t).__name__}")
    if not tensors:
        raise ArgumentError(f"{name}: expected at least one tensor, came none")
    return tensors


def cat(tensors: Sequence[Any], dim: int = 0) -> Any:
    """Tensors joined along `dim`; other sizes must agree.

    Empty vectors are left out, whatever the shape of the rest, as in PyTorch.

    Raises:
        RuntimeError: nothing to join, or shapes that do not fit.
    """
    tensors = _listed(tensors, "cat")
    to = result_dtype(*tensors)
    parts = [cast(t, to) for t in tensors]
    shapes = [p._array.shape for p in parts]
    if () in shapes:
        raise ShapeError(f"cat: scalars cannot be joined, use stack(); came shapes {shapes}")
    if (0,) in shapes and any(len(s) > 1 for s in shapes):
        parts = [p for p in parts if p._array.shape != (0,)]
    axis = axis_of(dim, parts[0].ndim, "cat")
    kept = {(p._array.shape[:axis], p._array.shape[axis + 1 :]) for p in parts}
    if len(kept) != 1:
        raise ShapeError(f"cat: expected sizes that agree except in dimension {dim}, came {shapes}")
    return apply(ops.Cat(axis), *parts)


concat = concatenate = cat


def stack(tensors: Sequence[Any], dim: int = 0) -> Any:
    """Tensors of one shape joined along a new dimension.

    Raises:
        RuntimeError: nothing to join, or different shapes.
    """
    tensors = _listed(tensors, "stack")
    shapes = [p._array.shape for p in tensors]
    if len(set(shapes)) != 1:
        raise ShapeError(f"stack: expected tensors of equal shape, came {shapes}")
    to = result_dtype(*tensors)
    axis = axis_of(dim, tensors[0].ndim + 1, "stack")
    return apply(ops.Stack(axis), *(cast(p, to) for p in tensors))


def _stacker(name: str, atleast: Callable[..., Any], dim: int, text: str) -> Callable[[Any], Any]:
    def stacked(tensors: Sequence[Any]) -> Any:
        parts = [atleast(t) for t in _listed(tensors, name)]
        return cat(parts, 0 if name == "hstack" and parts[0].ndim == 1 else dim)

    stacked.__name__ = stacked.__qualname__ = name
    stacked.__doc__ = text
    return stacked


hstack = _stacker("hstack", atleast_1d, 1, "Tensors joined side by side (vectors end to end).")
vstack = _stacker("vstack", atleast_2d, 0, "Tensors joined row by row.")
dstack = _stacker("dstack", atleast_3d, 2, "Tensors joined along the third dimension.")
row_stack = vstack


def column_stack(tensors: Sequence[Any]) -> Any:
    """Vectors as the columns of a matrix; matrices side by side."""
    parts = [reshape(t, -1, 1) if t.ndim < 2 else t for t in _listed(tensors, "column_stack")]
    return hstack(parts)


def block_diag(*tensors: Any) -> Any:
    """Matrices (vectors as rows) along the diagonal of one matrix, zeros elsewhere.

    Raises:
        RuntimeError: more than two dimensions.
    """
    blocks = [atleast_2d(t) for t in _listed(tensors, "block_diag")]
    if any(b.ndim > 2 for b in blocks):
        shapes = [b._array.shape for b in blocks]
        raise ShapeError(f"block_diag: expected at most two dimensions, came {shapes}")
    to = result_dtype(*blocks)
    width, before, rows = sum(b._array.shape[1] for b in blocks), 0, []
    for b in blocks:
        after = width - before - b._array.shape[1]
        rows.append(apply(ops.Pad([(0, 0), (before, after)], "constant", 0), cast(b, to)))
        before += b._array.shape[1]
    return cat(rows)


def meshgrid(*tensors: Any, indexing: str | None = None) -> tuple[Any, ...]:
    """Coordinates of a grid: every vector expanded along the dimensions of all others.

    Args:
        tensors: vectors or scalars, one for each dimension of the grid.
        indexing: "ij" (dimension i belongs to vector i; PyTorch's default) or "xy" (the first
            two dimensions exchanged).

    >>> import allgrad as ag
    >>> x, y = ag.meshgrid(ag.arange(2), ag.arange(3), indexing="ij")
    >>> x
    tensor([[0, 0, 0],
            [1, 1, 1]])
    """
    if len(tensors) == 1 and isinstance(tensors[0], tuple | list):
        tensors = tuple(tensors[0])
    given = list(_listed(tensors, "meshgrid"))
    if indexing not in (None, "ij", "xy"):
        raise ShapeError(f"meshgrid: expected indexing 'ij' or 'xy', came {indexing!r}")
    shapes = [t._array.shape for t in given]
    if any(len(s) > 1 for s in shapes) or len({t.dtype for t in given}) != 1:
        dtypes = [t.dtype for t in given]
        raise ShapeError(f"meshgrid: expected vectors of one dtype, came {shapes} of {dtypes}")
    swap = indexing == "xy" and len(given) > 1
    if swap:
        given[:2] = given[1::-1]
    sizes = tuple(t._array.size for t in given)
    grids = [
        expand(reshape(t, *(-1 if i == axis else 1 for i in range(len(given)))), sizes)
        for axis, t in enumerate(given)
    ]
    if swap:
        grids[:2] = grids[1::-1]
    return tuple(grids)


def cartesian_prod(*tensors: Any) -> Any:
    """All combinations of one element of each vector, one row each; one vector as it is."""
    if len(_listed(tensors, "cartesian_prod")) == 1:
        return tensors[0]
    return stack([flatten(g) for g in meshgrid(*tensors)], 1)


def combinations(input: Any, r: int = 2, with_replacement: bool = False) -> Any:
    """All combinations of `r` elements of a vector, one row each, in order.

    Args:
        with_replacement: an element may be taken several times.
    """
    if input.ndim != 1 or r < 0:
        raise ShapeError(
            f"combinations: expected a vector and r of 0 or more, came {tuple(input.shape)}, r={r}"
        )
    choose = itertools.combinations_with_replacement if with_replacement else itertools.combinations
    places = on(np.array(list(choose(range(len(input)), r)), np.int64), input._array)
    if r == 0:
        return input[:0]
    return apply(Take((places.reshape(-1, r),)), input)
