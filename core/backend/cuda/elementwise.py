"""ReLU, add + ReLU and smooth activations on a GPU by our own kernels.

They see any dense array as a vector in memory order, so every layout is served without a copy; the
result has the memory order of what the forward pass was given.
"""

from __future__ import annotations

import cupy
import numpy as np

from ...errors import Unsupported
from ..layout import memory_order, same_memory_order
from ..protocol import Array
from .base import CudaBase, element_type, fast, require_elements
from .kernels import blocks, launch

_THREADS = 256
NULL = np.uint64(0)  # a null pointer, for what a kernel can do without


class CudaElementwise(CudaBase):
    """Kernels `relu_*`, `add_relu_forward` and those of `ActivationBackend`."""

    def _map(self, name: str, *arrays: Array) -> Array:
        """Launch a kernel of equal shapes; the last array tells the memory order of the result."""
        element_type(*arrays)
        x = arrays[-1]
        require_elements(x)
        if any(a.shape != x.shape for a in arrays):
            raise Unsupported(f"shapes {' and '.join(str(a.shape) for a in arrays)} differ")
        x = dense(x)
        others = [like(a, x) for a in arrays[:-1]]
        y = cupy.empty_like(x)
        grid = blocks(-(-x.size * x.itemsize // 16), _THREADS)  # 16 bytes per thread
        launch(name, x.dtype, grid, (_THREADS,), (*others, x, y, np.int64(x.size)))
        return y

    @fast
    def relu_forward(self, x: Array) -> Array:
        return self._map("relu_forward", x)

    @fast
    def relu_backward(self, grad_y: Array, y: Array) -> Array:
        return self._map("relu_backward", grad_y, y)

    @fast
    def add_relu_forward(self, a: Array, b: Array) -> Array:
        return self._map("add_relu_forward", a, b)

    @fast
    def sigmoid_forward(self, x: Array) -> Array:
        return self._map("sigmoid_forward", x)

    @fast
    def sigmoid_backward(self, grad_y: Array, y: Array) -> Array:
        return self._map("sigmoid_backward", grad_y, y)

    @fast
    def tanh_forward(self, x: Array) -> Array:
        return self._map("tanh_forward", x)

    @fast
    def tanh_backward(self, grad_y: Array, y: Array) -> Array:
        return self._map("tanh_backward", grad_y, y)

    @fast
    def silu_forward(self, x: Array) -> Array:
        return self._map("silu_forward", x)

    @fast
    def silu_backward(self, grad_y: Array, x: Array) -> Array:
        return self._map("silu_backward", grad_y, x)

    @fast
    def gelu_forward(self, x: Array, approximate: str) -> Array:
        return self._map(_GELU[approximate] + "forward", x)

    @fast
    def gelu_backward(self, grad_y: Array, x: Array, approximate: str) -> Array:
        return self._map(_GELU[approximate] + "backward", grad_y, x)


_GELU = {"none": "gelu_", "tanh": "gelu_tanh_"}


def dense(x: Array) -> Array:
    """x, copied in C order if it has gaps, overlaps or reversed axes."""
    if x.flags.c_contiguous or memory_order(x.shape, x.strides, x.itemsize) is not None:
        return x
    return x.copy(order="C")


def like(array: Array, pattern: Array) -> Array:
    """`array` in the memory order of the dense `pattern` (same shape), copied if it differs."""
    strides = pattern.strides
    if array.strides == strides or same_memory_order(array.shape, array.strides, strides):
        return array
    copy = cupy.empty_like(pattern)
    copy[...] = array
    return copy
