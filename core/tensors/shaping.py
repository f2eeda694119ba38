"""Shape-changing functions of tensors, as functions and methods."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from .. import dtypes
from ..errors import OptionError, ShapeError
from ..ops import shape as ops
from ..ops.elementwise import Clone
from .graph import TensorBase, apply, view
from .promote import cast, result_dtype
from .reductions import axis_of

__all__ = [
    "broadcast_to",
    "cat",
    "chunk",
    "clone",
    "diagonal",
    "expand",
    "flatten",
    "flip",
    "movedim",
    "narrow",
    "permute",
    "repeat",
    "reshape",
    "roll",
    "select",
    "split",
    "squeeze",
    "stack",
    "t",
    "transpose",
    "tril",
    "triu",
    "unbind",
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


def repeat(input: Any, *sizes: Any) -> Any:
    """The whole tensor repeated along each dimension."""
    counts = sizes_of(sizes)
    if len(counts) < input.ndim:
        raise ShapeError(
            f"repeat: expected at least {input.ndim} counts, came {len(counts)}: {counts}"
        )
    return apply(ops.Repeat(counts), input)


def cat(tensors: Sequence[Any], dim: int = 0) -> Any:
    """Tensors joined along `dim`; other sizes must agree.

    Raises:
        RuntimeError: nothing to join, or shapes that do not fit.
    """
    tensors = tuple(tensors)
    if not tensors:
        raise ShapeError("cat: expected at least one tensor, came none")
    to = result_dtype(*tensors)
    parts = [cast(t, to) for t in tensors]
    axis = axis_of(dim, parts[0].ndim, "cat")
    shapes = [tuple(p.shape) for p in parts]
    kept = {s[:axis] + s[axis + 1 :] for s in shapes}
    if len(kept) != 1 or any(p.ndim == 0 for p in parts):
        raise ShapeError(f"cat: expected sizes that agree except in dimension {dim}, came {shapes}")
    return apply(ops.Cat(axis), *parts)


def stack(tensors: Sequence[Any], dim: int = 0) -> Any:
    """Tensors of one shape joined along a new dimension."""
    tensors = tuple(tensors)
    if not tensors:
        raise ShapeError("stack: expected at least one tensor, came none")
    shapes = [tuple(p.shape) for p in tensors]
    if len(set(shapes)) != 1:
        raise ShapeError(f"stack: expected tensors of equal shape, came {shapes}")
    to = result_dtype(*tensors)
    axis = axis_of(dim, tensors[0].ndim + 1, "stack")
    return apply(ops.Stack(axis), *(cast(p, to) for p in tensors))


def narrow(input: Any, dim: int, start: int, length: int) -> Any:
    """`length` elements of `dim` from `start`, as a view."""
    axis = axis_of(dim, input.ndim, "narrow")
    size = input._array.shape[axis]
    if start < 0:
        start += size
    if not 0 <= start <= start + length <= size:
        raise ShapeError(f"narrow: {start}..{start + length} is outside dimension of size {size}")
    return view(ops.Slice((slice(None),) * axis + (slice(start, start + length),)), input)


def select(input: Any, dim: int, index: int) -> Any:
    """Element `index` of `dim`, as a view without that dimension."""
    axis = axis_of(dim, input.ndim, "select")
    size = input._array.shape[axis]
    if not -size <= index < size:
        raise IndexError(f"select: index {index} is out of range for a dimension of size {size}")
    return view(ops.Slice((slice(None),) * axis + (index,)), input)


def split(input: Any, split_size_or_sections: Any, dim: int = 0) -> tuple[Any, ...]:
    """Pieces of a given size (or of given sizes) along `dim`, as views."""
    axis = axis_of(dim, input.ndim, "split")
    size = input._array.shape[axis]
    if isinstance(split_size_or_sections, int):
        step = split_size_or_sections
        if step <= 0:
            raise ShapeError(f"split: expected a positive size, came {step}")
        sections = [min(step, size - i) for i in range(0, size, step)] or [0]
    else:
        sections = list(split_size_or_sections)
        if sum(sections) != size:
            raise ShapeError(
                f"split: expected sizes that add up to {size} (dimension {dim}), came {sections}"
            )
    starts = [sum(sections[:i]) for i in range(len(sections))]
    return tuple(narrow(input, axis, s, n) for s, n in zip(starts, sections, strict=True))


def chunk(input: Any, chunks: int, dim: int = 0) -> tuple[Any, ...]:
    """At most `chunks` pieces of equal size (the last may be smaller), as views."""
    if chunks <= 0:
        raise ShapeError(f"chunk: expected at least one chunk, came {chunks}")
    size = input._array.shape[axis_of(dim, input.ndim, "chunk")]
    return split(input, max(-(-size // chunks), 1), dim)


def unbind(input: Any, dim: int = 0) -> tuple[Any, ...]:
    """All elements along `dim`, as views."""
    axis = axis_of(dim, input.ndim, "unbind")
    return tuple(select(input, axis, i) for i in range(input._array.shape[axis]))


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


def pad(input: Any, pad: Sequence[int], mode: str = "constant", value: float | None = None) -> Any:
    """Margins around the last dimensions.

    Args:
        pad: (before, after) of the last dimension, then of the one before it, ...; negative
            values crop.
        mode: "constant", "reflect", "replicate" or "circular".
        value: fill of mode "constant"; 0 unless given.
    """
    if mode not in ops.Pad.modes:
        raise OptionError.unknown("padding mode", mode, ops.Pad.modes)
    if len(pad) % 2 or len(pad) // 2 > input.ndim:
        raise ShapeError(
            f"pad: expected two numbers for each of at most {input.ndim} dimensions, came {pad}"
        )
    margins = [(0, 0)] * input.ndim
    for i in range(len(pad) // 2):
        margins[input.ndim - 1 - i] = (int(pad[2 * i]), int(pad[2 * i + 1]))
    for axis, (before, after) in enumerate(margins):
        size = input._array.shape[axis]
        limit = {"reflect": size - 1, "circular": size}.get(mode)
        if limit is not None and max(before, after) > limit:
            raise ShapeError(
                f"pad: mode {mode!r} allows margins up to {limit} for a dimension of size {size}, "
                f"came {(before, after)}"
            )
        if size + before + after < 0:
            raise ShapeError(f"pad: dimension of size {size} would become negative by {pad}")
    return apply(ops.Pad(margins, mode, 0 if value is None else value), input)


def clone(input: Any) -> Any:
    """A copy with memory of its own; gradients flow through."""
    return apply(Clone(), input)


def contiguous(input: Any) -> Any:
    """The tensor itself if its memory is in row-major order, else a copy that is."""
    return input if input._canonical().flags.c_contiguous else clone(input)


class ShapingMethods(TensorBase):
    """Shape-changing methods of Tensor."""

    reshape, view, view_as, reshape_as = reshape, view_as_shape, view_as, reshape_as
    flatten, unflatten, permute, transpose = flatten, unflatten, permute, transpose
    swapaxes, movedim, t, squeeze, unsqueeze = transpose, movedim, t, squeeze, unsqueeze
    expand, expand_as, broadcast_to, repeat, tile = expand, expand_as, broadcast_to, repeat, repeat
    narrow, select, split, chunk, unbind = narrow, select, split, chunk, unbind
    flip, roll, tril, triu, diagonal = flip, roll, tril, triu, diagonal
    clone, contiguous = clone, contiguous

    @property
    def T(self) -> Any:  # noqa: N802 - PyTorch's spelling
        """All dimensions in reverse order."""
        return permute(self, tuple(range(self._array.ndim))[::-1])

    @property
    def mT(self) -> Any:  # noqa: N802 - PyTorch's spelling
        """The last two dimensions exchanged."""
        return transpose(self, -1, -2)

    def to(self, *args: Any, **kwargs: Any) -> Any:
        """The tensor in another dtype (or on another device; here only "cpu").

        Takes ``to(dtype)``, ``to(device)``, ``to(device, dtype)`` or ``to(other_tensor)``.

        Raises:
            ValueError: an unknown device.
        """
        dtype, copy = kwargs.get("dtype"), kwargs.get("copy", False)
        for a in (*args, kwargs.get("device")):
            if isinstance(a, dtypes.dtype):
                dtype = a
            elif isinstance(a, ShapingMethods):
                dtype = a.dtype
            elif a is not None and not isinstance(a, bool):
                check_device(a)
        out = self if dtype is None else cast(self, dtypes.to_numpy(dtype))
        return clone(out) if copy and out is self else out

    def type(self, dtype: Any = None) -> Any:
        """The tensor in `dtype`; without one, the name of its type."""
        if dtype is None:
            return str(self.dtype)
        return self.to(dtype)

    def type_as(self, other: Any) -> Any:
        """The tensor in the dtype of `other`."""
        return self.to(other.dtype)

    def float(self) -> Any:
        """As float32."""
        return self.to(dtypes.float32)

    def double(self) -> Any:
        """As float64."""
        return self.to(dtypes.float64)

    def half(self) -> Any:
        """As float16."""
        return self.to(dtypes.float16)

    def long(self) -> Any:
        """As int64."""
        return self.to(dtypes.int64)

    def int(self) -> Any:
        """As int32."""
        return self.to(dtypes.int32)

    def bool(self) -> Any:
        """As bool."""
        return self.to(dtypes.bool_)

    def cpu(self) -> Any:
        """The tensor in main memory: itself."""
        return self


def check_device(device: Any) -> str:
    """The name of a device that exists here.

    Raises:
        OptionError: it does not.
    """
    name = str(device)
    if name not in ("cpu", "cpu:0"):
        raise OptionError.unknown("device", name, ("cpu",))
    return "cpu"
