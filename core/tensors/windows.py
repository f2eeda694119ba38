"""Windows, strides and storage of a tensor; views and sizes changed in place.

May import: shaping, axes, graph, inplace.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ..backend.arrays import address_of
from ..errors import GradientError, ShapeError
from ..ops.windows import Strided, Windows, extent_of
from .axes import t, transpose
from .graph import TensorBase, view
from .inplace import check_in_place
from .reductions import axis_of
from .shaping import sizes_of, squeeze, unsqueeze

__all__ = ["as_strided"]


def unfold(input: Any, dimension: int, size: int, step: int) -> Any:
    """Windows of `size` elements along `dimension`, one every `step`, in a new last dimension.

    A view. Gradients of elements that several windows share add up.

    Raises:
        RuntimeError: a window larger than the dimension, or a step that is not positive.

    >>> import allgrad as ag
    >>> ag.arange(5).unfold(0, 3, 2)
    tensor([[0, 1, 2],
            [2, 3, 4]])
    """
    axis = axis_of(dimension, input.ndim, "unfold")
    available = input._array.shape[axis] if input.ndim else 1
    if not 0 <= size <= available:
        raise ShapeError(
            f"unfold: expected a window of 0..{available} elements for dimension {dimension} of "
            f"shape {tuple(input.shape)}, came {size}"
        )
    if step <= 0:
        raise ShapeError(f"unfold: expected a positive step, came {step}")
    return view(Windows(axis, size, step), input)


def _storage(input: Any) -> np.ndarray:
    """The memory that `input` is a view of."""
    return input._canonical() if input._base is None else input._base._array


def storage_offset(input: Any) -> int:
    """Number of elements before the first one of this view in its memory."""
    own, whole = input._canonical(), _storage(input)
    return (address_of(own) - address_of(whole)) // own.itemsize


def as_strided(
    input: Any, size: Sequence[int], stride: Sequence[int], storage_offset: int | None = None
) -> Any:
    """A view of the memory of `input` with any sizes and strides.

    Args:
        size, stride: of the view, in elements.
        storage_offset: where the view begins in the memory; where `input` begins if None.

    Raises:
        RuntimeError: sizes and strides of different lengths, negative ones, or places outside
            of the memory.

    >>> import allgrad as ag
    >>> ag.arange(4).as_strided((3, 2), (1, 1))
    tensor([[0, 1],
            [1, 2],
            [2, 3]])
    """
    to, steps = tuple(int(n) for n in size), tuple(int(n) for n in stride)
    begin = input.storage_offset() if storage_offset is None else int(storage_offset)
    if len(to) != len(steps):
        raise ShapeError(f"as_strided: {len(to)} sizes {to} for {len(steps)} strides {steps}")
    if min((*to, *steps, begin), default=0) < 0:
        raise ShapeError(
            f"as_strided: expected no negative numbers, came size {to}, stride {steps}, "
            f"storage_offset {begin}"
        )
    storage = _storage(input)
    last = begin + sum((n - 1) * step for n, step in zip(to, steps, strict=True))
    if 0 not in to and last >= extent_of(storage):
        raise ShapeError(
            f"as_strided: size {to}, stride {steps} and storage_offset {begin} reach element "
            f"{last} of a memory of {extent_of(storage)} elements"
        )
    return view(Strided(storage, to, steps, begin), input)


def resize_(input: Any, *sizes: Any) -> Any:
    """Another shape in place: the first elements stay, what is added is arbitrary. Returns self.

    Raises:
        RuntimeError: the tensor requires grad.
    """
    if input.requires_grad:
        raise GradientError("resize_: a tensor that requires grad cannot be resized")
    check_in_place(input, "resize_")
    to = sizes_of(sizes)
    if any(n < 0 for n in to):
        raise ShapeError(f"resize_: expected sizes of 0 or more, came {to}")
    flat = input._canonical().reshape(-1)
    count = int(np.prod(to, dtype=np.int64))
    if count > flat.size:
        longer = np.empty(count, flat.dtype, like=flat)
        longer[: flat.size] = flat
        flat = longer
    input._array = flat[:count].reshape(to)
    input._version[0] += 1
    return input


def _in_place_view(function: Callable[..., Any]) -> Callable[..., Any]:
    """The method that makes its tensor the view that `function` returns."""
    name = f"{function.__name__}_"

    def method(self: Any, *args: Any) -> Any:
        check_in_place(self, name)
        out = function(self, *args)
        if out is not self:
            self._array, self._exposed = out._array, True  # its strides are the user's choice
            self._node, self._slot = out._node, out._slot
        return self

    method.__name__, method.__qualname__ = name, f"Tensor.{name}"
    method.__doc__ = f"`{function.__name__}` in place: the tensor becomes that view; returns self."
    return method


class WindowMethods(TensorBase):
    """Methods of Tensor that concern windows, strides and its own shape."""

    unfold, as_strided, storage_offset, resize_ = unfold, as_strided, storage_offset, resize_
    squeeze_, unsqueeze_ = _in_place_view(squeeze), _in_place_view(unsqueeze)
    t_, transpose_ = _in_place_view(t), _in_place_view(transpose)
    swapaxes_, swapdims_ = transpose_, transpose_
    as_strided_ = _in_place_view(as_strided)

    def resize_as_(self, other: Any) -> Any:
        """`resize_` to the shape of `other`; returns self."""
        return resize_(self, tuple(other.shape))
