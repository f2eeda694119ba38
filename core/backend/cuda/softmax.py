"""Softmax along any axis, and cross-entropy of logits, on a GPU by our own kernels.

An array is seen as (outer, dim, inner) in memory, whichever layout it has: classes that lie side by
side are rows, others are strided.
"""

from __future__ import annotations

import math
from typing import Any

import cupy
import numpy as np

from ...errors import Unsupported
from ..layout import memory_order
from ..protocol import Array
from .base import F32, CudaBase, element_type, fast, require_elements, require_there
from .elementwise import NULL, dense, like
from .kernels import blocks, launch
from .sums import team

_BLOCK = 256
_BLOCKS = 1024  # whose sums of losses `cross_entropy_finish` adds up

_Axis = tuple[np.int64, np.int64, np.int64, np.int32]  # outer, dim, inner, threads of a row


class CudaSoftmax(CudaBase):
    """Kernels `*softmax_*` and `cross_entropy_*`."""

    @fast
    def softmax_forward(self, x: Array, axis: int) -> Array:
        return self._softmax(x, axis, log=False)

    @fast
    def log_softmax_forward(self, x: Array, axis: int) -> Array:
        return self._softmax(x, axis, log=True)

    def _softmax(self, x: Array, axis: int, log: bool) -> Array:
        element_type(x)
        require_elements(x)
        if not x.ndim:
            raise Unsupported("no axes")
        x = dense(x)
        y, sizes = cupy.empty_like(x), _along(x, axis)
        launch("softmax_forward", x.dtype, _grid(sizes), (_BLOCK,), (x, y, *sizes, np.int32(log)))
        return y

    @fast
    def softmax_backward(self, grad_y: Array, y: Array, axis: int) -> Array:
        return self._softmax_backward(grad_y, y, axis, log=False)

    @fast
    def log_softmax_backward(self, grad_y: Array, y: Array, axis: int) -> Array:
        return self._softmax_backward(grad_y, y, axis, log=True)

    def _softmax_backward(self, grad_y: Array, y: Array, axis: int, log: bool) -> Array:
        element_type(grad_y, y)
        require_elements(y)
        y = dense(y)
        grad_x, sizes = cupy.empty_like(y), _along(y, axis)
        args = (like(grad_y, y), y, grad_x, *sizes, np.int32(log))
        launch("softmax_backward", y.dtype, _grid(sizes), (_BLOCK,), args)
        return grad_x

    @fast
    def cross_entropy_forward(
        self,
        x: Array,
        target: Array,
        weight: Array | None,
        reduction: str,
        ignore_index: int,
        smoothing: float,
    ) -> tuple[Array, tuple[Any, ...]]:
        element_type(x)
        require_there(target, weight)
        require_elements(x)
        if weight is not None and weight.dtype.itemsize > 4:
            raise Unsupported(f"weights of {weight.dtype}")
        x = _scores(x)
        sizes = _along(x, 1)
        # Indices in C order are in the order of the rows, whichever layout x has.
        target = cupy.ascontiguousarray(target, np.int64)
        factors = NULL if weight is None else cupy.ascontiguousarray(weight, F32)
        (count,) = _grid(sizes)
        count = min(count, _BLOCKS)
        stats, total = cupy.empty(2 * target.size, F32), cupy.empty(1, F32)
        partial = cupy.empty(2 * count, F32)
        each = reduction == "none"
        losses = cupy.empty(target.shape, F32) if each else NULL
        settings = (np.int64(ignore_index), np.float32(smoothing))
        args = (x, target, factors, stats, losses, partial, *sizes, *settings)
        launch("cross_entropy_forward", x.dtype, (count,), (_BLOCK,), args)
        loss = cupy.empty((), x.dtype)
        mean = np.int32(reduction == "mean")
        sums = (partial, loss, total, np.int32(count), mean)
        launch("cross_entropy_finish", x.dtype, (1,), (_BLOCK,), sums)
        saved = (x, target, None if weight is None else factors, stats, total)
        return (losses.astype(x.dtype, copy=False) if each else loss), saved

    @fast
    def cross_entropy_backward(
        self,
        grad_y: Array,
        saved: tuple[Any, ...],
        reduction: str,
        ignore_index: int,
        smoothing: float,
    ) -> Array:
        if len(saved) != 5:
            raise Unsupported("another kernel served the forward pass")
        x, target, weight, stats, total = saved
        grad_y = cupy.ascontiguousarray(grad_y, x.dtype)
        factors = NULL if weight is None else weight
        grad_x, sizes = cupy.empty_like(x), _along(x, 1)
        settings = (np.int64(ignore_index), np.float32(smoothing), np.int32(reduction == "none"))
        args = (x, target, factors, stats, total, grad_y, grad_x, *sizes, *settings)
        launch("cross_entropy_backward", x.dtype, _grid(sizes), (_BLOCK,), args)
        return grad_x


def _along(x: Array, axis: int) -> _Axis:
    """How `axis` lies in the memory of dense x."""
    order = memory_order(x.shape, x.strides, x.itemsize)
    assert order is not None
    at = order.index(axis % x.ndim)
    outer = math.prod(x.shape[a] for a in order[:at])
    inner = math.prod(x.shape[a] for a in order[at + 1 :])
    dim = x.shape[axis]
    threads = team(outer, dim) if inner == 1 else 1
    return np.int64(outer), np.int64(dim), np.int64(inner), np.int32(threads)


def _grid(sizes: _Axis) -> tuple[int]:
    outer, _, inner, threads = sizes
    return blocks(int(outer) * int(inner) * int(threads), _BLOCK)


def _scores(x: Array) -> Array:
    """Dense scores (N, C, *S) whose rows are in the order of C-contiguous targets (N, *S)."""
    order = memory_order(x.shape, x.strides, x.itemsize)
    if order is not None:
        others = [axis for axis in order if axis != 1 and x.shape[axis] != 1]
        if others == sorted(others) and (order[-1] == 1 or x.flags.c_contiguous):
            return x
    return x.copy(order="C")
