"""Elements repeated, moved, or blanked out: flip, roll, repeat, triangles, diagonals."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..errors import ShapeError
from ..ops import shape as ops
from .graph import TensorBase, apply, view
from .reductions import axis_of
from .shaping import sizes_of

__all__ = ["diagonal", "flip", "repeat", "roll", "tril", "triu"]


def repeat(input: Any, *sizes: Any) -> Any:
    """The whole tensor repeated along each dimension."""
    counts = sizes_of(sizes)
    if len(counts) < input.ndim:
        raise ShapeError(
            f"repeat: expected at least {input.ndim} counts, came {len(counts)}: {counts}"
        )
    return apply(ops.Repeat(counts), input)


def flip(input: Any, *dims: Any) -> Any:
    """Reversed order along `dims`, a copy."""
    return apply(ops.Flip(tuple(axis_of(d, input.ndim, "flip") for d in sizes_of(dims))), input)


def roll(input: Any, shifts: Any, dims: Any = None) -> Any:
    """Elements shifted cyclically along `dims` (None: over the flattened tensor)."""
    shift = (shifts,) if isinstance(shifts, int) else tuple(shifts)
    axes = None
    if dims is not None:
        given = (dims,) if isinstance(dims, int) else tuple(dims)
        axes = tuple(axis_of(d, input.ndim, "roll") for d in given)
        if len(axes) != len(shift):
            raise ShapeError(f"roll: {len(shift)} shifts for {len(axes)} dimensions")
    return apply(ops.Roll(shift, axes), input)


def tril(input: Any, diagonal: int = 0) -> Any:
    """The lower triangle of the last two dimensions, zeros elsewhere."""
    return apply(ops.Triangle(np.tril, diagonal), input)


def triu(input: Any, diagonal: int = 0) -> Any:
    """The upper triangle of the last two dimensions, zeros elsewhere."""
    return apply(ops.Triangle(np.triu, diagonal), input)


def diagonal(input: Any, offset: int = 0, dim1: int = 0, dim2: int = 1) -> Any:
    """The diagonal of two dimensions, as a view."""
    a, b = axis_of(dim1, input.ndim, "diagonal"), axis_of(dim2, input.ndim, "diagonal")
    return view(ops.Diagonal(offset, a, b), input)


class MovingMethods(TensorBase):
    """Methods of Tensor that repeat, move or blank out elements."""

    repeat, tile = repeat, repeat
    flip, roll, tril, triu, diagonal = flip, roll, tril, triu, diagonal
