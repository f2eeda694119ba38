"""Memory formats: contiguous, and channels-last as convolutions compute fastest.

Here the layout is the engine's choice and never seen (Note [Layout] in `tensor.py`), so a format
is advice: ``to(memory_format=channels_last)`` gives memory that the next convolution reads as it
is; `stride`, `view` and `numpy` still behave as if everything were contiguous.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ..backend.arrays import contiguous as in_c_order
from ..errors import ShapeError
from ..ops.elementwise import Clone
from .graph import TensorBase, apply

__all__ = [
    "channels_last",
    "channels_last_3d",
    "contiguous_format",
    "memory_format",
    "preserve_format",
]


class memory_format:  # noqa: N801 - PyTorch's spelling
    """A memory format: ``allgrad.channels_last`` and its siblings."""

    __slots__ = ("name",)

    def __init__(self, name: str) -> None:
        self.name = name

    def __repr__(self) -> str:
        return f"allgrad.{self.name}"

    def __reduce__(self) -> str:
        return self.name


contiguous_format = memory_format("contiguous_format")
preserve_format = memory_format("preserve_format")
channels_last = memory_format("channels_last")
channels_last_3d = memory_format("channels_last_3d")
_DIMENSIONS = {channels_last: 4, channels_last_3d: 5}


def check_format(name: str, wanted: Any) -> None:
    """Raise unless `wanted` is a memory format.

    Raises:
        TypeError: it is not.
    """
    if not isinstance(wanted, memory_format):
        raise TypeError(f"{name}: expected a memory format, came {type(wanted).__name__}")


def in_format(input: Any, wanted: memory_format, name: str) -> Any:
    """The tensor in a memory format; itself where its memory has that format already.

    Raises:
        RuntimeError: channels-last with another number of dimensions.
    """
    check_format(name, wanted)
    if wanted not in _DIMENSIONS or has_format(input, wanted, name):
        return input
    out = apply(Clone(), input)
    out._array = np.moveaxis(in_c_order(np.moveaxis(input._array, 1, -1)), -1, 1)
    return out


def has_format(input: Any, wanted: memory_format, name: str) -> bool:
    """Whether the memory of a tensor has a format now."""
    check_format(name, wanted)
    if wanted is preserve_format:
        return True
    if wanted is contiguous_format:
        return bool(input._canonical().flags.c_contiguous)
    array, ndim = input._array, _DIMENSIONS[wanted]
    if array.ndim != ndim:
        raise ShapeError(
            f"{name}: {wanted} is for tensors of {ndim} dimensions, came shape {array.shape}"
        )
    return bool(np.moveaxis(array, 1, -1).flags.c_contiguous)


class LayoutMethods(TensorBase):
    """Methods of Tensor that know memory formats."""

    def clone(self: Any, *, memory_format: Any = preserve_format) -> Any:
        """A copy with memory of its own; gradients flow through."""
        out = apply(Clone(), self)
        return out if memory_format is preserve_format else in_format(out, memory_format, "clone")

    def contiguous(self: Any, memory_format: Any = contiguous_format) -> Any:
        """The tensor itself if its memory has the format, else a copy that has it."""
        if memory_format is not contiguous_format:
            return in_format(self, memory_format, "contiguous")
        return self if self._canonical().flags.c_contiguous else apply(Clone(), self)

    def is_contiguous(self: Any, memory_format: Any = contiguous_format) -> bool:
        """Whether elements follow each other in row-major order (or lie in another format)."""
        if memory_format is contiguous_format:
            return bool(self._canonical().flags.c_contiguous)
        return has_format(self, memory_format, "is_contiguous")
