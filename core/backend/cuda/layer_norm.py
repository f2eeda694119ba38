"""Layer and RMS normalisation on a GPU by our own kernels: one launch forward, up to three back."""

from __future__ import annotations

import math
from typing import Any

import cupy
import numpy as np

from ...errors import Unsupported
from ..protocol import Array, Dims
from .base import F32, CudaBase, element_type, fast, require_elements, require_there
from .elementwise import NULL
from .kernels import blocks, launch
from .sums import Columns, finished, team

_BLOCK = 256


class CudaLayerNorm(CudaBase):
    """Kernels `layer_norm_*` and `rms_norm_*`; gradients of parameters are float32."""

    @fast
    def layer_norm_forward(
        self, x: Array, axes_count: int, weight: Array | None, bias: Array | None, eps: float
    ) -> tuple[Array, Array, Array]:
        element_type(x)
        require_elements(x)
        require_there(weight, bias)
        x = cupy.ascontiguousarray(x)
        rows, cols, statistics = _rows(x.shape, axes_count)
        mean, rstd = cupy.empty(statistics, F32), cupy.empty(statistics, F32)
        return _forward(x, (rows, cols), weight, bias, mean, rstd, eps), mean, rstd

    @fast
    def layer_norm_backward(
        self,
        grad_y: Array,
        x: Array,
        axes_count: int,
        weight: Array | None,
        mean: Array,
        rstd: Array,
    ) -> tuple[Array, Array | None, Array | None]:
        element_type(grad_y, x)
        require_elements(x)
        if mean.dtype != F32:
            raise Unsupported("another kernel served the forward pass")
        grad_y, x = cupy.ascontiguousarray(grad_y), cupy.ascontiguousarray(x)
        rows, cols, _ = _rows(x.shape, axes_count)
        grad_x = _backward(grad_y, x, (rows, cols), weight, mean, rstd)
        both = _weights(grad_y, x, (rows, cols), mean, rstd)
        shape = x.shape[x.ndim - axes_count :]
        return grad_x, both[:cols].reshape(shape), both[cols:].reshape(shape)

    @fast
    def rms_norm_forward(
        self, x: Array, axes_count: int, weight: Array | None, eps: float
    ) -> tuple[Array, Array]:
        element_type(x)
        require_elements(x)
        require_there(weight)
        x = cupy.ascontiguousarray(x)
        rows, cols, _ = _rows(x.shape, axes_count)
        rstd = cupy.empty((rows, 1), F32)
        return _forward(x, (rows, cols), weight, None, NULL, rstd, eps), rstd

    @fast
    def rms_norm_backward(
        self,
        grad_y: Array,
        x: Array,
        axes_count: int,
        weight: Array | None,
        rstd: Array,
        needs: tuple[bool, ...],
    ) -> tuple[Array | None, Array | None]:
        element_type(grad_y, x)
        require_elements(x)
        if rstd.dtype != F32:
            raise Unsupported("another kernel served the forward pass")
        grad_y, x = cupy.ascontiguousarray(grad_y), cupy.ascontiguousarray(x)
        rows, cols, _ = _rows(x.shape, axes_count)
        grad_x = grad_weight = None
        if needs[1] and weight is not None:
            both = _weights(grad_y, x, (rows, cols), NULL, rstd)
            grad_weight = both[:cols].reshape(weight.shape)
        if needs[0]:
            grad_x = _backward(grad_y, x, (rows, cols), weight, NULL, rstd)
        return grad_x, grad_weight


_Matrix = tuple[int, int]  # rows, columns


def _forward(
    x: Array,
    size: _Matrix,
    weight: Array | None,
    bias: Array | None,
    mean: Any,
    rstd: Array,
    eps: float,
) -> Array:
    """Fill mean (or none, for RMS normalisation) and rstd; returns the normalised rows."""
    y, threads = cupy.empty_like(x), team(*size)
    args = (x, parameter(weight), parameter(bias), y, mean, rstd, *map(np.int64, size))
    grid = blocks(size[0] * threads, _BLOCK)
    tail = (np.float32(eps), np.int32(threads))
    launch("layer_norm_forward", x.dtype, grid, (_BLOCK,), (*args, *tail))
    return y


def _backward(
    grad_y: Array, x: Array, size: _Matrix, weight: Array | None, mean: Any, rstd: Array
) -> Array:
    grad_x, threads = cupy.empty_like(x), team(*size)
    args = (grad_y, x, parameter(weight), mean, rstd, grad_x, *map(np.int64, size))
    grid = blocks(size[0] * threads, _BLOCK)
    launch("layer_norm_backward", x.dtype, grid, (_BLOCK,), (*args, np.int32(threads)))
    return grad_x


def _weights(grad_y: Array, x: Array, size: _Matrix, mean: Any, rstd: Array) -> Array:
    """Gradients of weight and bias behind each other, (2 * cols,)."""
    rows, cols = size
    cut = Columns(rows, cols, grad_y, x)
    partial = cupy.empty((cut.chunks, 2 * cols), F32)
    sizes = (np.int64(rows), np.int64(cols), np.int64(cut.chunk), np.int32(cut.vector))
    args = (grad_y, x, mean, rstd, partial, *sizes)
    launch("layer_norm_weights", x.dtype, (cut.tiles, cut.chunks), cut.block, args)
    return finished(partial, 1, cut.chunks, 2 * cols, F32)


def _rows(shape: Dims, axes_count: int) -> tuple[int, int, Dims]:
    """(rows, elements of a row, shape of the statistics)."""
    leading = shape[: len(shape) - axes_count]
    return (
        math.prod(leading),
        math.prod(shape[len(leading) :]),
        (*leading, *(1,) * axes_count),
    )


def parameter(values: Array | None) -> Any:
    """A weight or bias as kernels want it: float32 in C order, or a null pointer.

    Raises:
        Unsupported: wider than float32.
    """
    if values is None:
        return NULL
    if values.itemsize > 4:
        raise Unsupported(f"parameters of {values.dtype}")
    return cupy.ascontiguousarray(values, F32)
