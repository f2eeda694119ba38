"""Views of a tensor in another shape or order, as functions and methods."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from .. import dtypes
from ..errors import ShapeError
from ..ops import shape as ops
from ..ops.elementwise import Clone
from .graph import TensorBase, apply, view
from .reductions import axis_of

__all__ = [
    "broadcast_to",
    "clone",
    "expand",
    "flatten",
    "movedim",
    "permute",
    "reshape",
    "squeeze",
    "t",
    "transpose",
    "unflatten",
    "unsqueeze",
]


def sizes_of(args: tuple[Any, ...]) -> tuple[int, ...]:
    """Sizes given as arguments or as one sequence."""
    if len(args) == 1 and isinstance(args[0], tuple | list):
        args = tuple(args[0])
    return tuple(int(a) for a in args)


def _solve(shape: tuple[int, ...], count: int, name: str, old: tuple[int, ...]) -> tuple[int, ...]:
    """Replace a -1 in `shape` so that it holds `count` elements."""
    if shape.count(-1) > 1 or any(s < -1 for s in shape):
        raise ShapeError(f"{name}: at most one size may be -1 and none below, came {shape}")
    known = 1
    for s in shape:
        known *= s if s != -1 else 1
    if -1 in shape:
        if known == 0 or count % known:
            raise ShapeError(f"{name}: cannot give {old} ({count} elements) the shape {shape}")
        return tuple(count // known if s == -1 else s for s in shape)
    if known != count:
        raise ShapeError(f"{name}: cannot give {old} ({count} elements) the shape {shape}")
    return shape


def reshape(input: Any, *shape: Any) -> Any:
    """The elements in another shape: a view where memory allows, else a copy."""
    array = input._canonical()
    to = _solve(sizes_of(shape), array.size, "reshape", array.shape)
    if _fits_in_place(array, to):
        return view(ops.Reshape(to), input)
    return apply(ops.Reshape(to), input)


def _fits_in_place(array: np.ndarray, shape: tuple[int, ...]) -> bool:
    """Whether `array` can be seen in another shape without a copy."""
    if array.flags.c_contiguous or not array.size:
        return True
    return np.may_share_memory(array, array.reshape(shape))


def view_as_shape(input: Any, *shape: Any) -> Any:
    """The same memory in another shape, or in another dtype of the same size.

    Raises:
        RuntimeError: the elements do not lie so that the shape can be a view.
    """
    if len(shape) == 1 and isinstance(shape[0], dtypes.dtype):
        out = input.detach()
        out._array = out._array.view(shape[0].numpy)
        return out
    array = input._canonical()
    to = _solve(sizes_of(shape), array.size, "view", array.shape)
    if not _fits_in_place(array, to):
        raise ShapeError(
            f"view: the memory of this tensor (shape {array.shape}) does not allow the shape "
            f"{to} without a copy; use reshape() or contiguous().view()"
        )
    return view(ops.Reshape(to), input)


def view_as(input: Any, other: Any) -> Any:
    """`view` in the shape of `other`."""
    return view_as_shape(input, tuple(other.shape))


def reshape_as(input: Any, other: Any) -> Any:
    """`reshape` to the shape of `other`."""
    return reshape(input, tuple(other.shape))


def flatten(input: Any, start_dim: int = 0, end_dim: int = -1) -> Any:
    """Dimensions start_dim to end_dim joined into one."""
    if input.ndim == 0:
        return reshape(input, 1)
    start = axis_of(start_dim, input.ndim, "flatten")
    end = axis_of(end_dim, input.ndim, "flatten")
    if start > end:
        raise ShapeError(f"flatten: start_dim {start_dim} comes after end_dim {end_dim}")
    s = tuple(input._array.shape)
    joined = 1
    for n in s[start : end + 1]:
        joined *= n
    return reshape(input, (*s[:start], joined, *s[end + 1 :]))


def unflatten(input: Any, dim: int, sizes: Sequence[int]) -> Any:
    """Dimension `dim` split into `sizes`."""
    axis = axis_of(dim, input.ndim, "unflatten")
    s = tuple(input._array.shape)
    inner = _solve(tuple(sizes), s[axis], "unflatten", (s[axis],))
    return reshape(input, s[:axis] + inner + s[axis + 1 :])


def permute(input: Any, *dims: Any) -> Any:
    """Dimensions in another order, as a view."""
    axes = tuple(axis_of(d, input.ndim, "permute") for d in sizes_of(dims))
    if sorted(axes) != list(range(input.ndim)):
        raise ShapeError(
            f"permute: expected each of {input.ndim} dimensions once, came {sizes_of(dims)}"
        )
    return view(ops.Permute(axes), input)


def transpose(input: Any, dim0: int, dim1: int) -> Any:
    """Two dimensions exchanged, as a view."""
    axes = list(range(input.ndim))
    a, b = axis_of(dim0, input.ndim, "transpose"), axis_of(dim1, input.ndim, "transpose")
    if input.ndim:
        axes[a], axes[b] = axes[b], axes[a]
    return view(ops.Permute(tuple(axes)), input)


def movedim(input: Any, source: Any, destination: Any) -> Any:
    """Dimensions moved to other places, the rest in order."""
    sources = [source] if isinstance(source, int) else list(source)
    targets = [destination] if isinstance(destination, int) else list(destination)
    axes = [axis_of(s, input.ndim, "movedim") for s in sources]
    order = [i for i in range(input.ndim) if i not in axes]
    for target, axis in sorted(
        zip((axis_of(t, input.ndim, "movedim") for t in targets), axes, strict=True)
    ):
        order.insert(target, axis)
    return permute(input, order)


def t(input: Any) -> Any:
    """Transpose of a matrix (vectors and scalars stay)."""
    if input.ndim > 2:
        raise ShapeError(f"t: expected at most 2 dimensions, came {tuple(input.shape)}")
    return input if input.ndim < 2 else transpose(input, 0, 1)


def squeeze(input: Any, dim: Any = None) -> Any:
    """Without the dimensions of size 1 (or without `dim`, if it has size 1), as a view."""
    s = tuple(input._array.shape)
    if dim is None:
        to = tuple(n for n in s if n != 1)
    else:
        dims = dim if isinstance(dim, tuple | list) else (dim,)
        axes = {axis_of(d, input.ndim, "squeeze") for d in dims}
        to = tuple(n for i, n in enumerate(s) if i not in axes or n != 1)
    return view_as_shape(input, to)


def unsqueeze(input: Any, dim: int) -> Any:
    """With a dimension of size 1 inserted at `dim`, as a view."""
    axis = axis_of(dim, input.ndim + 1, "unsqueeze")
    s = tuple(input._array.shape)
    return view(ops.Reshape((*s[:axis], 1, *s[axis:])), input)


def expand(input: Any, *sizes: Any) -> Any:
    """Dimensions of size 1 repeated without copying; -1 keeps a size."""
    to = sizes_of(sizes)
    s = tuple(input._array.shape)
    extra = len(to) - len(s)
    if extra >= 0:
        full = tuple(s[i - extra] if n == -1 and i >= extra else n for i, n in enumerate(to))
        if all(i < extra or s[i - extra] in (1, n) for i, n in enumerate(full)) and not any(
            n < 0 for n in full
        ):
            return view(ops.Expand(full), input)
    raise ShapeError(f"expand: a tensor of shape {s} cannot be expanded to {to}")


def expand_as(input: Any, other: Any) -> Any:
    """`expand` to the shape of `other`."""
    return expand(input, tuple(other.shape))


def broadcast_to(input: Any, shape: Sequence[int]) -> Any:
    """`expand` to `shape`."""
    return expand(input, tuple(shape))


def clone(input: Any) -> Any:
    """A copy with memory of its own; gradients flow through."""
    return apply(Clone(), input)


def contiguous(input: Any) -> Any:
    """The tensor itself if its memory is in row-major order, else a copy that is."""
    return input if input._canonical().flags.c_contiguous else clone(input)


class ShapingMethods(TensorBase):
    """Methods of Tensor that view it in another shape or order."""

    reshape, view, view_as, reshape_as = reshape, view_as_shape, view_as, reshape_as
    flatten, unflatten, permute, transpose = flatten, unflatten, permute, transpose
    swapaxes, movedim, t, squeeze, unsqueeze = transpose, movedim, t, squeeze, unsqueeze
    expand, expand_as, broadcast_to = expand, expand_as, broadcast_to
    clone, contiguous = clone, contiguous

    @property
    def T(self) -> Any:  # noqa: N802 - PyTorch's spelling
        """All dimensions in reverse order."""
        return permute(self, tuple(range(self._array.ndim))[::-1])

    @property
    def mT(self) -> Any:  # noqa: N802 - PyTorch's spelling
        """The last two dimensions exchanged."""
        return transpose(self, -1, -2)
