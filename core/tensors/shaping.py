"""A tensor in another shape: reshape, squeeze, expand and their like, mostly views."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any

import numpy as np

from .. import dtypes
from ..errors import ShapeError
from ..ops import shape as ops
from ..ops.elementwise import Clone
from .graph import TensorBase, apply, view
from .reductions import axis_of
from .size import Size

__all__ = [
    "atleast_1d",
    "atleast_2d",
    "atleast_3d",
    "broadcast_shapes",
    "broadcast_tensors",
    "broadcast_to",
    "clone",
    "expand",
    "flatten",
    "ravel",
    "reshape",
    "squeeze",
    "unflatten",
    "unsqueeze",
]


def sizes_of(args: tuple[Any, ...]) -> tuple[int, ...]:
    """Sizes given as arguments or as one sequence."""
    if len(args) == 1 and isinstance(args[0], tuple | list):
        args = tuple(args[0])
    return tuple(operator.index(a) for a in args)


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
    """The same memory in another shape, or its bytes as another dtype (outside the graph).

    Raises:
        RuntimeError: the elements do not lie so that the shape can be a view, or the last
            dimension does not hold whole elements of the other dtype.
    """
    if len(shape) == 1 and isinstance(shape[0], dtypes.dtype):
        return input if shape[0] is input.dtype else _view_as_dtype(input, shape[0])
    array = input._canonical()
    to = _solve(sizes_of(shape), array.size, "view", array.shape)
    if not _fits_in_place(array, to):
        raise ShapeError(
            f"view: the memory of this tensor (shape {array.shape}) does not allow the shape "
            f"{to} without a copy; use reshape() or contiguous().view()"
        )
    return view(ops.Reshape(to), input)


def _view_as_dtype(input: Any, dtype: dtypes.dtype) -> Any:
    out = input.detach()
    try:
        out._array = out._array.view(dtype.numpy)
    except ValueError as err:
        raise ShapeError(
            f"view: a tensor of shape {tuple(input.shape)} and {input.dtype} cannot be seen as "
            f"{dtype} ({err})"
        ) from err
    return out


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


def ravel(input: Any) -> Any:
    """All elements in one dimension: a view where memory allows."""
    return reshape(input, -1)


def unflatten(input: Any, dim: int, sizes: Sequence[int]) -> Any:
    """Dimension `dim` split into `sizes`."""
    axis = axis_of(dim, input.ndim, "unflatten")
    s = tuple(input._array.shape)
    if not len(sizes):
        raise ShapeError("unflatten: expected at least one size, came none")
    inner = _solve(tuple(sizes), s[axis], "unflatten", (s[axis],))
    return reshape(input, s[:axis] + inner + s[axis + 1 :])


def squeeze(input: Any, dim: Any = None) -> Any:
    """Without the dimensions of size 1 (or without `dim`, if it has size 1), as a view."""
    s = tuple(input._array.shape)
    if dim is None:
        to = tuple(n for n in s if n != 1)
    else:
        dims = dim if isinstance(dim, tuple | list) else (dim,)
        axes = [axis_of(d, input.ndim, "squeeze") for d in dims]
        if len(set(axes)) != len(axes):
            raise ShapeError(f"squeeze: a dimension appears twice in {tuple(dims)}")
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


def broadcast_shapes(*shapes: Any) -> tuple[int, ...]:
    """The shape that tensors of these shapes (sizes or integers) broadcast to.

    Raises:
        RuntimeError: they do not.

    >>> broadcast_shapes((2, 1), (3,))
    allgrad.Size([2, 3])
    """
    given = [(s,) if isinstance(s, int) else tuple(int(n) for n in s) for s in shapes]
    try:
        return Size(np.broadcast_shapes(*given))
    except ValueError as err:
        raise ShapeError(f"broadcast_shapes: shapes {given} do not broadcast") from err


def broadcast_tensors(*tensors: Any) -> tuple[Any, ...]:
    """All tensors expanded to the shape that they broadcast to, as views."""
    if len(tensors) == 1 and isinstance(tensors[0], tuple | list):
        tensors = tuple(tensors[0])
    shape = broadcast_shapes(*(t.shape for t in tensors))
    return tuple(expand(t, shape) for t in tensors)


def _at_least(count: int, tensors: tuple[Any, ...]) -> Any:
    """Each tensor with at least `count` dimensions; one tensor alone, several as a tuple."""
    if len(tensors) == 1 and isinstance(tensors[0], tuple | list):
        return tuple(_at_least(count, (t,)) for t in tensors[0])
    if len(tensors) != 1:
        return tuple(_at_least(count, (t,)) for t in tensors)
    (t,) = tensors
    s = tuple(t._array.shape)
    if len(s) >= count:
        return t
    if count == 3 and len(s) == 2:
        return reshape(t, (*s, 1))
    if count == 3 and len(s) == 1:
        return reshape(t, (1, *s, 1))
    return reshape(t, (1,) * (count - len(s)) + s)


def atleast_1d(*tensors: Any) -> Any:
    """Each tensor with at least one dimension."""
    return _at_least(1, tensors)


def atleast_2d(*tensors: Any) -> Any:
    """Each tensor with at least two dimensions, new ones in front."""
    return _at_least(2, tensors)


def atleast_3d(*tensors: Any) -> Any:
    """Each tensor with at least three dimensions: (N) as (1, N, 1), (M, N) as (M, N, 1)."""
    return _at_least(3, tensors)


def clone(input: Any) -> Any:
    """A copy with memory of its own; gradients flow through."""
    return apply(Clone(), input)


class ShapingMethods(TensorBase):
    """Methods of Tensor that give it another shape."""

    reshape, view, view_as, reshape_as = reshape, view_as_shape, view_as, reshape_as
    flatten, unflatten, ravel, squeeze, unsqueeze = flatten, unflatten, ravel, squeeze, unsqueeze
    expand, expand_as, broadcast_to = expand, expand_as, broadcast_to
