"""What the kernels by cuDNN share: this thread's library and plans, and arrays as it wants them."""

from __future__ import annotations

import logging
from typing import Any

import cupy
import numpy as np

from ...backends import cudnn as settings
from ...errors import Unsupported
from ..layout import channels_last_strides, same_memory_order
from ..protocol import Array, Dims
from .base import CudaBase
from .cudnn import Cudnn, address
from .cudnn_graphs import ALIGNMENT
from .cudnn_plans import Plans

_warned: set[str] = set()


class CudnnBase(CudaBase):
    """Access to cuDNN, opened when a kernel first wants it."""

    _plans: Plans | None = None
    _why_not: str | None = None

    def __init__(self) -> None:
        super().__init__()
        self._dense: dict[tuple[Dims, Dims, int], bool] = {}
        self._constants: dict[tuple[float, str], Any] = {}

    @property
    def plans(self) -> Plans:
        """This thread's plans on this device.

        Raises:
            Unsupported: cuDNN is not there or not wanted; the message says why.
        """
        if not settings.enabled:
            raise Unsupported("backends.cudnn.enabled is False")
        if self._plans is None:
            if self._why_not is None:
                try:
                    self._plans = Plans(Cudnn())
                    return self._plans
                except Unsupported as refusal:
                    self._why_not = str(refusal)
                    _warn_once(self._why_not)
            raise Unsupported(f"cuDNN cannot be used: {self._why_not}")
        return self._plans

    def is_ready(self, x: Array) -> bool:
        """Whether `x` (N, C, *S) lies densely channels-last and aligned, as cuDNN wants it."""
        key = (x.shape, x.strides, x.itemsize)
        dense = self._dense.get(key)
        if dense is None:
            wanted = channels_last_strides(x.shape, x.itemsize)
            dense = self._dense[key] = same_memory_order(x.shape, x.strides, wanted)
        return dense and address(x) % ALIGNMENT == 0

    def channels_last(self, x: Array, channels: int = 0) -> Array:
        """`x` (N, C, *S) as it is if it lies channels-last and aligned, else a copy that does.

        Args:
            channels: how many the result has, the additional ones zero; default: as `x`.
        """
        if channels <= x.shape[1]:
            if self.is_ready(x):
                return x
            copy = empty_channels_last(x.shape, x.dtype)
            copy[...] = x
            return copy
        padded = cupy.zeros((x.shape[0], *x.shape[2:], channels), x.dtype)
        moved = padded.transpose(0, x.ndim - 1, *range(1, x.ndim - 1))
        moved[:, : x.shape[1]] = x
        return moved

    def vector(self, values: Array | None, channels: int, missing: float) -> Array:
        """One float32 number per channel, aligned; `missing` everywhere if there are none.

        Raises:
            Unsupported: another type than float32 or a half.
        """
        if values is None:
            return self.constant(missing, channels, "f4")
        if values.dtype != np.float32:
            if values.dtype.itemsize != 2 or values.dtype.kind not in "fV":
                raise Unsupported(f"dtype {values.dtype}")
            return values.astype(np.float32)
        return aligned(values)

    def constant(self, value: float, count: int, kind: str, dtype: Any = np.float32) -> Array:
        """A vector of one value, which must not be changed."""
        held = self._constants.get((value, kind))
        if held is None or held.size < count:
            held = self._constants[value, kind] = cupy.full(count, value, dtype)
        return held[:count]


def empty_channels_last(shape: Dims, dtype: Any) -> Array:
    """An uninitialised channels-last device array of logical `shape` (N, C, *S)."""
    ndim = len(shape)
    made: Array = cupy.empty((shape[0], *shape[2:], shape[1]), dtype)
    return made.transpose(0, ndim - 1, *range(1, ndim - 1))


def aligned(array: Array) -> Array:
    """`array` itself if it is C-contiguous and aligned as cuDNN wants it, else a copy that is."""
    if array.flags.c_contiguous and address(array) % ALIGNMENT == 0:
        return array
    return array.copy(order="C")


def _warn_once(reason: str) -> None:
    if reason not in _warned:
        _warned.add(reason)
        logging.getLogger("allgrad").warning("cuDNN cannot be used, this will be slow: %s", reason)
