"""Dropout on a GPU: what stays is computed from a key, in forward and again in backward."""

from __future__ import annotations

from typing import Any, NamedTuple

import cupy
import numpy as np

from ..layout import memory_order, same_memory_order
from ..protocol import Array, Dims
from ..reference.dropout import scale, threshold
from .base import CudaBase, element_type, fast
from .elementwise import dense
from .kernels import blocks, launch
from .random import Key, default_generator

_THREADS = 256


class Kept(NamedTuple):
    """What backward needs.

    Attributes:
        key: which random numbers decide.
        p: probability of zeroing.
        channels: whether whole channels are dropped.
        strides: those of x, in whose order of memory elements are counted.
    """

    key: Key
    p: float
    channels: bool
    strides: Dims


class CudaDropout(CudaBase):
    """Kernels `dropout_*`."""

    @fast
    def dropout_forward(self, x: Array, p: float, channels: bool, keep: bool) -> tuple[Array, Any]:
        element_type(x)
        x = dense(x)
        kept = Kept(default_generator(self.index).take(), p, channels, x.strides)
        return _dropped(x, kept), kept if keep else None

    @fast
    def dropout_backward(self, grad_y: Array, saved: Any) -> Array:
        if not isinstance(saved, Kept):  # forward was the reference's
            product: Array = grad_y * saved
            return product
        element_type(grad_y)
        if not same_memory_order(grad_y.shape, grad_y.strides, saved.strides):
            grad_y = _in_order(grad_y, saved.strides)
        return _dropped(grad_y, saved)


def _dropped(x: Array, kept: Kept) -> Array:
    """x, dense in the memory order of `kept`, with its factors."""
    y = cupy.empty_like(x)
    if not x.size:
        return y
    channels = inner = outer = 1
    if kept.channels and x.ndim > 2:
        inner = x.strides[1] // x.itemsize if x.shape[1] > 1 else 1
        outer, channels = x.size // x.shape[0], x.shape[1]
        if channels == 1:
            inner = outer
    elif kept.channels:
        kept = kept._replace(channels=False)
    key = kept.key
    grid = blocks(-(-x.size // 8), _THREADS)
    args = (
        x, y, np.int64(x.size), np.uint32(threshold(kept.p)), np.float32(scale(kept.p)), key.state,
        np.uint32(key.site), np.int64(channels if kept.channels else 0), np.int64(inner),
        np.int64(outer),
    )  # fmt: skip
    launch("dropout", x.dtype, grid, (_THREADS,), args)
    return y


def _in_order(array: Array, strides: Dims) -> Array:
    """A copy of `array` with the memory order of dense `strides`."""
    order = memory_order(array.shape, strides, array.itemsize)
    assert order is not None, "forward saw a dense array"
    back = tuple(order.index(axis) for axis in range(array.ndim))
    copy = cupy.empty(tuple(array.shape[axis] for axis in order), array.dtype).transpose(back)
    copy[...] = array
    return copy
