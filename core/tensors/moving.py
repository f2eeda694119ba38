"""Elements repeated, moved, or blanked out: flip, roll, repeat, triangles, diagonals."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..backend.arrays import as_array, on, to_host
from ..errors import ShapeError, Unsupported
from ..ops import shape as ops
from ..ops.index import Take
from .autocasting import widens
from .axes import transpose
from .graph import TensorBase, apply, view
from .inplace import assign, check_in_place
from .reductions import axis_of
from .shaping import clone, expand, flatten, reshape, sizes_of, unsqueeze

__all__ = [
    "diag",
    "diag_embed",
    "diagflat",
    "diagonal",
    "flip",
    "fliplr",
    "flipud",
    "repeat_interleave",
    "roll",
    "rot90",
    "tile",
    "trace",
    "tril",
    "triu",
]


def repeat(input: Any, *sizes: Any) -> Any:
    """The whole tensor repeated along each dimension.

    Raises:
        RuntimeError: fewer counts than dimensions, or negative ones.
    """
    counts = sizes_of(sizes)
    if len(counts) < input.ndim or min(counts, default=0) < 0:
        raise ShapeError(
            f"repeat: expected at least {input.ndim} counts of 0 or more for shape "
            f"{tuple(input.shape)}, came {counts}"
        )
    return apply(ops.Repeat(counts), input)


def tile(input: Any, *dims: Any) -> Any:
    """The whole tensor repeated; counts that are missing in front are 1."""
    counts = sizes_of(dims)
    return repeat(input, (1,) * (input.ndim - len(counts)) + counts)


def repeat_interleave(
    input: Any, repeats: Any = None, dim: int | None = None, *, output_size: int | None = None
) -> Any:
    """Every element (or slice of `dim`) repeated in place.

    Args:
        input: the tensor; alone, the counts: the result then holds each index that often.
        repeats: how often, one number for all or an integer tensor with one for each.
        dim: the dimension; None flattens first.
        output_size: size of the result along `dim`, checked if given.

    Raises:
        RuntimeError: negative counts, or another number of them than of elements.

    >>> import allgrad as ag
    >>> ag.repeat_interleave(ag.tensor([5, 6]), ag.tensor([1, 3]))
    tensor([5, 6, 6, 6])
    """
    if repeats is None:
        return input._new(
            on(np.repeat(np.arange(input._array.size), to_host(_counts(input))), input._array)
        )
    if dim is None:
        input, dim = flatten(input), 0
    axis = axis_of(dim, input.ndim, "repeat_interleave")
    shape = tuple(input._array.shape)
    counts = (
        to_host(_counts(repeats)) if isinstance(repeats, TensorBase) else as_array(int(repeats))
    )
    if counts.size != 1 and counts.size != shape[axis]:
        raise ShapeError(
            f"repeat_interleave: expected one count or {shape[axis]} for dimension {dim} of shape "
            f"{shape}, came {counts.size}"
        )
    if counts.min(initial=0) < 0:
        raise ShapeError(f"repeat_interleave: expected counts of 0 or more, came {counts.min()}")
    total = int(counts.sum()) * (shape[axis] if counts.size == 1 else 1)
    if output_size is not None and output_size != total:
        raise ShapeError(f"repeat_interleave: output_size is {total}, came {output_size}")
    if counts.size == 1:
        n = int(counts.reshape(-1)[0])
        wide = expand(unsqueeze(input, axis + 1), *shape[: axis + 1], n, *shape[axis + 1 :])
        return reshape(wide, *shape[:axis], shape[axis] * n, *shape[axis + 1 :])
    places = on(np.repeat(np.arange(shape[axis]), counts), input._array)
    return apply(Take((slice(None),) * axis + (places,)), input)


def _counts(repeats: Any) -> np.ndarray:
    if repeats._array.dtype.kind not in "iu" or repeats.ndim > 1:
        raise Unsupported(
            "repeat_interleave: expected counts as an integer vector, came "
            f"{repeats.dtype} of shape {tuple(repeats.shape)}"
        )
    return repeats._array


def flip(input: Any, *dims: Any) -> Any:
    """Reversed order along `dims`, a copy.

    Raises:
        RuntimeError: a dimension twice.
    """
    axes = tuple(axis_of(d, input.ndim, "flip") for d in sizes_of(dims))
    if len(set(axes)) != len(axes):
        raise ShapeError(f"flip: a dimension appears twice in {sizes_of(dims)}")
    return apply(ops.Flip(axes if input.ndim else ()), input)


def fliplr(input: Any) -> Any:
    """`flip` along dimension 1."""
    if input.ndim < 2:
        raise ShapeError(f"fliplr: expected at least 2 dimensions, came {tuple(input.shape)}")
    return flip(input, 1)


def flipud(input: Any) -> Any:
    """`flip` along dimension 0."""
    if input.ndim < 1:
        raise ShapeError("flipud: expected at least one dimension, came a scalar")
    return flip(input, 0)


def rot90(input: Any, k: int = 1, dims: Sequence[int] = (0, 1)) -> Any:
    """Turned by `k` quarter turns in the plane of two dimensions, from the first to the second.

    Raises:
        RuntimeError: not two different dimensions.
    """
    axes = [axis_of(d, input.ndim, "rot90") for d in dims]
    if len(axes) != 2 or axes[0] == axes[1]:
        raise ShapeError(f"rot90: expected two different dimensions, came {tuple(dims)}")
    a, b = axes
    turns = k % 4
    if turns == 0:
        return clone(input)
    if turns == 2:
        return flip(input, a, b)
    return flip(transpose(input, a, b), a if turns == 1 else b)


def roll(input: Any, shifts: Any, dims: Any = None) -> Any:
    """Elements shifted cyclically along `dims` (None: over the flattened tensor).

    Raises:
        RuntimeError: not one shift for each dimension.
    """
    shift = (shifts,) if isinstance(shifts, int) else tuple(shifts)
    given = () if dims is None else (dims,) if isinstance(dims, int) else tuple(dims)
    if len(shift) != (len(given) or 1):
        raise ShapeError(f"roll: {len(shift)} shifts {shift} for {len(given)} dimensions {given}")
    axes = tuple(axis_of(d, input.ndim, "roll") for d in given) if input.ndim else ()
    return apply(ops.Roll(shift, axes or None), input)


def tril(input: Any, diagonal: int = 0) -> Any:
    """The lower triangle of the last two dimensions, zeros elsewhere."""
    _need_dimensions("tril", input)
    return apply(ops.Triangle(np.tril, diagonal), input)


def triu(input: Any, diagonal: int = 0) -> Any:
    """The upper triangle of the last two dimensions, zeros elsewhere."""
    _need_dimensions("triu", input)
    return apply(ops.Triangle(np.triu, diagonal), input)


def _need_dimensions(name: str, input: Any) -> None:
    if input.ndim < 2:
        raise ShapeError(f"{name}: expected at least 2 dimensions, came {tuple(input.shape)}")


def diagonal(input: Any, offset: int = 0, dim1: int = 0, dim2: int = 1) -> Any:
    """The diagonal of two dimensions, as a view.

    Raises:
        RuntimeError: twice the same dimension.
    """
    a, b = axis_of(dim1, input.ndim, "diagonal"), axis_of(dim2, input.ndim, "diagonal")
    if a == b:
        raise ShapeError(f"diagonal: expected two different dimensions, came {dim1} and {dim2}")
    return view(ops.Diagonal(offset, a, b), input)


def diag_embed(input: Any, offset: int = 0, dim1: int = -2, dim2: int = -1) -> Any:
    """The last dimension on a diagonal of two new dimensions, zeros elsewhere.

    Raises:
        RuntimeError: twice the same dimension.
    """
    n = input.ndim + 1
    a, b = axis_of(dim1, n, "diag_embed"), axis_of(dim2, n, "diag_embed")
    if a == b:
        raise ShapeError(f"diag_embed: expected two different dimensions, came {dim1} and {dim2}")
    return apply(ops.DiagEmbed(offset, a, b), input)


def diag(input: Any, diagonal: int = 0) -> Any:
    """The diagonal of a matrix, or the matrix with a vector on its diagonal; a copy.

    Raises:
        RuntimeError: neither a vector nor a matrix.
    """
    if input.ndim == 1:
        return diag_embed(input, diagonal)
    if input.ndim != 2:
        raise ShapeError(f"diag: expected a vector or a matrix, came {tuple(input.shape)}")
    return clone(view(ops.Diagonal(diagonal, 0, 1), input))


def diagflat(input: Any, offset: int = 0) -> Any:
    """The matrix with all elements of `input` on its diagonal."""
    return diag_embed(flatten(input), offset)


@widens
def trace(input: Any) -> Any:
    """The sum of the diagonal of a matrix.

    Raises:
        RuntimeError: not a matrix.
    """
    if input.ndim != 2:
        raise ShapeError(f"trace: expected a matrix, came {tuple(input.shape)}")
    return diagonal(input).sum()


class MovingMethods(TensorBase):
    """Methods of Tensor that repeat, move or blank out elements."""

    repeat, tile, repeat_interleave = repeat, tile, repeat_interleave
    flip, fliplr, flipud, rot90, roll = flip, fliplr, flipud, rot90, roll
    tril, triu, diagonal, diag = tril, triu, diagonal, diag
    diag_embed, diagflat, trace = diag_embed, diagflat, trace

    def tril_(self, diagonal: int = 0) -> Any:
        """`tril` in place; returns self."""
        check_in_place(self, "tril_")
        return assign(self, tril(self, diagonal), "tril_")

    def triu_(self, diagonal: int = 0) -> Any:
        """`triu` in place; returns self."""
        check_in_place(self, "triu_")
        return assign(self, triu(self, diagonal), "triu_")
