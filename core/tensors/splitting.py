"""Taking tensors apart along a dimension: views."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from ..errors import ShapeError
from ..ops import shape as ops
from .graph import TensorBase, view
from .reductions import axis_of

__all__ = [
    "chunk",
    "dsplit",
    "hsplit",
    "narrow",
    "select",
    "split",
    "split_with_sizes",
    "tensor_split",
    "unbind",
    "vsplit",
]


def narrow(input: Any, dim: int, start: Any, length: int) -> Any:
    """`length` elements of `dim` from `start`, as a view.

    Raises:
        IndexError: `start` is out of range.
        RuntimeError: the elements reach beyond the dimension, or a negative length.
    """
    axis = axis_of(dim, input.ndim, "narrow")
    if not input.ndim:
        raise ShapeError("narrow: expected at least one dimension, came a scalar")
    size, first = input._array.shape[axis], int(start)
    if not -size <= first <= size:
        raise IndexError(f"narrow: start {first} is out of range for a dimension of size {size}")
    first += size if first < 0 else 0
    if length < 0 or first + length > size:
        raise ShapeError(
            f"narrow: start {first} and length {length} are outside dimension {dim} of shape "
            f"{tuple(input.shape)}"
        )
    return _part(input, axis, first, length)


def _part(input: Any, axis: int, start: int, length: int) -> Any:
    return view(ops.Slice((slice(None),) * axis + (slice(start, start + length),)), input)


def select(input: Any, dim: int, index: int) -> Any:
    """Element `index` of `dim`, as a view without that dimension.

    Raises:
        IndexError: out of range, or a scalar.
    """
    if not input.ndim:
        raise IndexError("select: expected at least one dimension, came a scalar")
    axis = axis_of(dim, input.ndim, "select")
    size = input._array.shape[axis]
    if not -size <= index < size:
        raise IndexError(f"select: index {index} is out of range for a dimension of size {size}")
    return view(ops.Slice((slice(None),) * axis + (int(index),)), input)


def split(tensor: Any, split_size_or_sections: Any, dim: int = 0) -> tuple[Any, ...]:
    """Pieces of a given size (or of given sizes) along `dim`, as views.

    Raises:
        RuntimeError: a scalar, or sizes that are negative or do not add up.
    """
    if not isinstance(split_size_or_sections, int):
        return split_with_sizes(tensor, split_size_or_sections, dim)
    axis, size = _axis_and_size(tensor, dim, "split")
    step = split_size_or_sections
    if step < 0 or (step == 0 and size):
        raise ShapeError(f"split: expected a positive size, came {step}")
    starts = range(0, size, step) if size else [0]
    return tuple(_part(tensor, axis, i, min(step, size - i)) for i in starts)


def _split_method(self: Any, split_size: Any, dim: int = 0) -> tuple[Any, ...]:
    """`split`, with the name that the method's argument has in PyTorch."""
    return split(self, split_size, dim)


def split_with_sizes(input: Any, split_sizes: Sequence[int], dim: int = 0) -> tuple[Any, ...]:
    """Pieces of given sizes along `dim`, as views.

    Raises:
        RuntimeError: sizes that are negative or do not add up.
    """
    axis, size = _axis_and_size(input, dim, "split")
    sections = [int(n) for n in split_sizes]
    if sum(sections) != size or min(sections, default=0) < 0:
        raise ShapeError(
            f"split: expected sizes of 0 or more that add up to {size} (dimension {dim} of shape "
            f"{tuple(input.shape)}), came {sections}"
        )
    starts = [sum(sections[:i]) for i in range(len(sections))]
    return tuple(_part(input, axis, s, n) for s, n in zip(starts, sections, strict=True))


def _axis_and_size(input: Any, dim: int, name: str) -> tuple[int, int]:
    if not input.ndim:
        raise ShapeError(f"{name}: expected at least one dimension, came a scalar")
    axis = axis_of(dim, input.ndim, name)
    return axis, input._array.shape[axis]


def chunk(input: Any, chunks: int, dim: int = 0) -> tuple[Any, ...]:
    """At most `chunks` pieces of equal size (the last may be smaller), as views."""
    if chunks <= 0:
        raise ShapeError(f"chunk: expected at least one chunk, came {chunks}")
    _, size = _axis_and_size(input, dim, "chunk")
    if not size:
        return split_with_sizes(input, [0] * chunks, dim)
    return split(input, -(-size // chunks), dim)


def tensor_split(input: Any, indices_or_sections: Any, dim: int = 0) -> tuple[Any, ...]:
    """Pieces along `dim`, as views: a number of nearly equal ones, or cut at given indices.

    Args:
        indices_or_sections: the number of pieces (the first ones are larger by one where they
            cannot be equal), or where to cut, as a sequence or an integer tensor.

    Raises:
        RuntimeError: no pieces, or a scalar.

    >>> import allgrad as ag
    >>> [len(part) for part in ag.arange(7).tensor_split(3)]
    [3, 2, 2]
    """
    axis, size = _axis_and_size(input, dim, "tensor_split")
    if isinstance(indices_or_sections, TensorBase):
        indices_or_sections = indices_or_sections._array.tolist()
    if isinstance(indices_or_sections, int):
        n = indices_or_sections
        if n <= 0:
            raise ShapeError(f"tensor_split: expected at least one section, came {n}")
        cuts = [i * (size // n) + min(i, size % n) for i in range(1, n)]
    else:
        cuts = [slice(int(i)).indices(size)[1] for i in indices_or_sections]
    ends = zip([0, *cuts], [*cuts, size], strict=True)
    return tuple(_part(input, axis, a, max(b - a, 0)) for a, b in ends)


def _splitter(name: str, least: int, dim: int, text: str) -> Callable[..., tuple[Any, ...]]:
    def splits(input: Any, indices_or_sections: Any) -> tuple[Any, ...]:
        if input.ndim < least:
            raise ShapeError(
                f"{name}: expected at least {least} dimensions, came shape {tuple(input.shape)}"
            )
        axis = 0 if name == "hsplit" and input.ndim == 1 else dim
        size = input._array.shape[axis]
        if isinstance(indices_or_sections, int) and (
            indices_or_sections <= 0 or size % indices_or_sections
        ):
            raise ShapeError(
                f"{name}: dimension {axis} of shape {tuple(input.shape)} cannot be cut into "
                f"{indices_or_sections} equal pieces"
            )
        return tensor_split(input, indices_or_sections, axis)

    splits.__name__ = splits.__qualname__ = name
    splits.__doc__ = text
    return splits


hsplit = _splitter("hsplit", 1, 1, "`tensor_split` into equal pieces from left to right.")
vsplit = _splitter("vsplit", 2, 0, "`tensor_split` into equal pieces from top to bottom.")
dsplit = _splitter("dsplit", 3, 2, "`tensor_split` into equal pieces along dimension 2.")


def unbind(input: Any, dim: int = 0) -> tuple[Any, ...]:
    """All elements along `dim`, as views."""
    if not input.ndim:
        raise IndexError("unbind: expected at least one dimension, came a scalar")
    axis = axis_of(dim, input.ndim, "unbind")
    return tuple(select(input, axis, i) for i in range(input._array.shape[axis]))


class SplittingMethods(TensorBase):
    """Methods of Tensor that take it apart along a dimension."""

    narrow, select, split, chunk, unbind = narrow, select, _split_method, chunk, unbind
    split_with_sizes, tensor_split = split_with_sizes, tensor_split
    hsplit, vsplit, dsplit = hsplit, vsplit, dsplit
