"""Max and average pooling on a GPU by our own channels-last kernels, 1 to 3 dimensions."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import Any

import cupy
import numpy as np

from ...errors import Unsupported
from ..arrays import address_of
from ..protocol import Array, Dims
from ..reference.pool import pooled_shape
from .base import CudaBase, element_type, fast, require_elements
from .kernels import blocks, launch
from .sums import Columns

_BLOCK = 256
_MOST_TAPS = 256  # of a window whose winner fits a byte
_FEW = 16  # positions that one thread averages alone


@dataclass(frozen=True, slots=True)
class _Winners:
    """Which element won in each window: (N, *out, C), its row-major number in the window."""

    positions: Array


class CudaPool(CudaBase):
    """Kernels `*_pool_*` of the backend protocol."""

    @fast
    def max_pool_forward(
        self,
        x: Array,
        kernel: Dims,
        stride: Dims,
        padding: Dims,
        dilation: Dims,
        ceil_mode: bool,
    ) -> tuple[Array, Any]:
        element_type(x)
        require_elements(x)
        y_shape = pooled_shape(x.shape, kernel, stride, padding, dilation, ceil_mode)
        rows = _channels_last(x)
        y = _empty_rows(y_shape, x.dtype)
        large = math.prod(kernel) > _MOST_TAPS
        winners = cupy.empty(y.shape, np.int32 if large else np.uint8)
        geometry = _geometry(x.shape[2:], y_shape[2:], kernel, stride, padding, dilation)
        _launch_max("forward", large, (rows, y, winners), y, geometry)
        return _channels_first(y), _Winners(winners)

    @fast
    def max_pool_backward(
        self,
        grad_y: Array,
        saved: Any,
        x_shape: Dims,
        kernel: Dims,
        stride: Dims,
        padding: Dims,
        dilation: Dims,
    ) -> Array:
        if not isinstance(saved, _Winners):
            raise Unsupported("another kernel served the forward pass")
        element_type(grad_y)
        rows = _channels_last(grad_y)
        grad_x = _empty_rows(x_shape, grad_y.dtype)
        geometry = _geometry(x_shape[2:], grad_y.shape[2:], kernel, stride, padding, dilation)
        large = saved.positions.itemsize > 1
        _launch_max("backward", large, (rows, saved.positions, grad_x), grad_x, geometry)
        return _channels_first(grad_x)

    @fast
    def avg_pool_forward(
        self,
        x: Array,
        kernel: Dims,
        stride: Dims,
        padding: Dims,
        ceil_mode: bool,
        count_include_pad: bool,
    ) -> Array:
        element_type(x)
        require_elements(x)
        ones = (1,) * len(kernel)
        y_shape = pooled_shape(x.shape, kernel, stride, padding, ones, ceil_mode)
        rows = _channels_last(x)
        y = _empty_rows(y_shape, x.dtype)
        whole = math.prod(kernel)
        if kernel == x.shape[2:] and not any(padding) and whole > _FEW and len(x) < 1 << 16:
            _launch_mean(rows, y, whole)
        else:
            geometry = _geometry(x.shape[2:], y_shape[2:], kernel, stride, padding, ones)
            _launch_avg("forward", rows, y, count_include_pad, geometry)
        return _channels_first(y)

    @fast
    def avg_pool_backward(
        self,
        grad_y: Array,
        x_shape: Dims,
        kernel: Dims,
        stride: Dims,
        padding: Dims,
        ceil_mode: bool,
        count_include_pad: bool,
    ) -> Array:
        element_type(grad_y)
        require_elements(grad_y)
        rows = _channels_last(grad_y)
        grad_x = _empty_rows(x_shape, grad_y.dtype)
        ones = (1,) * len(kernel)
        geometry = _geometry(x_shape[2:], grad_y.shape[2:], kernel, stride, padding, ones)
        _launch_avg("backward", rows, grad_x, count_include_pad, geometry)
        return _channels_first(grad_x)


_Geometry = tuple[np.int32, ...]


@functools.lru_cache(maxsize=1024)
def _geometry(*groups: Dims) -> _Geometry:
    """The last arguments of the kernels: input, output, kernel, stride, padding, dilation.

    Each as (d, h, w); dimensions that there are not have size, window and stride 1.
    """
    neutral = (1, 1, 1, 1, 0, 1)
    wide = [(n,) * (3 - len(g)) + g for n, g in zip(neutral, groups, strict=True)]
    return tuple(np.int32(v) for group in wide for v in group)


def _channels_last(x: Array) -> Array:
    """(N, C, *S) as C-contiguous (N, *S, C), copied unless it lies so."""
    return cupy.ascontiguousarray(x.transpose(0, *range(2, x.ndim), 1))


def _empty_rows(shape: Dims, dtype: np.dtype[Any]) -> Array:
    """Memory (N, *S, C) for a logical (N, C, *S)."""
    return cupy.empty((shape[0], *shape[2:], shape[1]), dtype)


def _channels_first(rows: Array) -> Array:
    """(N, *S, C) as logical (N, C, *S)."""
    return rows.transpose(0, rows.ndim - 1, *range(1, rows.ndim - 1))


def _items(result: Array, *arrays: Array, one: bool = False) -> tuple[int, bool]:
    """(work items, whether an item is 16 bytes of channels)."""
    width = 16 // result.itemsize
    vector = not one and result.shape[-1] % width == 0
    vector = vector and all(address_of(a) % 16 == 0 for a in (result, *arrays))
    items = result.size // width if vector else result.size
    if items >= 1 << 31:
        raise Unsupported(f"{items} work items; a kernel counts them with 31 bits")
    return items, vector


def _launch_max(
    way: str, large: bool, arrays: tuple[Array, ...], result: Array, geometry: _Geometry
) -> None:
    items, vector = _items(result, *arrays, one=large)
    name = f"max_pool_large_{way}" if large else f"max_pool_{way}"
    sizes = (np.int64(items), np.int32(result.shape[-1]))
    flag = () if large else (np.int32(vector),)
    args = (*arrays, *sizes, *flag, *geometry)
    launch(name, result.dtype, blocks(items, _BLOCK), (_BLOCK,), args)


def _launch_avg(
    way: str, source: Array, result: Array, include_pad: bool, geometry: _Geometry
) -> None:
    items, vector = _items(result, source)
    sizes = (np.int64(items), np.int32(result.shape[-1]), np.int32(vector))
    args = (source, result, *sizes, np.int32(include_pad), *geometry)
    launch(f"avg_pool_{way}", result.dtype, blocks(items, _BLOCK), (_BLOCK,), args)


def _launch_mean(rows: Array, y: Array, positions: int) -> None:
    channels = rows.shape[-1]
    cut = Columns(positions, channels, rows)
    args = (rows, y, np.int64(positions), np.int64(channels), np.int32(cut.vector))
    launch("mean_pool_forward", y.dtype, (cut.tiles, len(rows)), cut.block, args)
