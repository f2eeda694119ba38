"""Joining tensors, and taking them apart along a dimension."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..errors import ShapeError
from ..ops import shape as ops
from .graph import TensorBase, apply, view
from .promote import cast, result_dtype
from .reductions import axis_of

__all__ = [
    "cat",
    "chunk",
    "narrow",
    "select",
    "split",
    "stack",
    "unbind",
]


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


class JoiningMethods(TensorBase):
    """Methods of Tensor that take it apart along a dimension."""

    narrow, select, split, chunk, unbind = narrow, select, split, chunk, unbind
