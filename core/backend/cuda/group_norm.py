"""Group normalisation on a GPU by our own kernels, for plain and for channels-last activations.

The result has the layout of the input. Forward: one launch (channels-last: three); backward: three
(channels-last: five), gradients of weight and bias included.
"""

from __future__ import annotations

import math
from typing import Any

import cupy
import numpy as np

from ...errors import Unsupported
from ..layout import is_channels_last
from ..protocol import Array
from .base import F32, CudaBase, element_type, fast, require_elements
from .elementwise import like
from .kernels import blocks, launch
from .layer_norm import parameter
from .sums import Columns, finished, team

_BLOCK = 256


class CudaGroupNorm(CudaBase):
    """Kernels `group_norm_*` of the backend protocol."""

    @fast
    def group_norm_forward(
        self, x: Array, num_groups: int, weight: Array | None, bias: Array | None, eps: float
    ) -> tuple[Array, Array, Array]:
        element_type(x)
        require_elements(x)
        x = _dense(x)
        y = cupy.empty_like(x)
        statistics = tuple(cupy.empty((len(x), num_groups), F32) for _ in range(2))
        affine = (parameter(weight), parameter(bias))
        if _plain(x):
            _forward(x, affine, y, statistics, eps)
        else:
            _forward_last(x, affine, y, statistics, eps)
        return y, *statistics

    @fast
    def group_norm_backward(
        self,
        grad_y: Array,
        x: Array,
        num_groups: int,
        weight: Array | None,
        mean: Array,
        rstd: Array,
    ) -> tuple[Array, Array | None, Array | None]:
        element_type(grad_y, x)
        require_elements(x)
        if mean.dtype != F32:
            raise Unsupported("another kernel served the forward pass")
        x = _dense(x)
        grad_y = like(grad_y, x)
        grad_x, factors = cupy.empty_like(x), parameter(weight)
        backward = _backward if _plain(x) else _backward_last
        sums = backward(grad_y, x, factors, (mean, rstd), grad_x)
        channels = x.shape[1]
        both = finished(sums, 1, len(x), 2 * channels, F32)
        return grad_x, both[:channels], both[channels:]


def _dense(x: Array) -> Array:
    if x.flags.c_contiguous or is_channels_last(x):
        return x
    return x.copy(order="C")


def _plain(x: Array) -> bool:
    """Whether each channel's positions lie side by side; one position or channel: either way."""
    return bool(x.flags.c_contiguous)


_Statistics = tuple[Array, ...]  # mean and 1/std (N, G)


def _sizes(x: Array, groups: int) -> tuple[np.int32, np.int32, np.int32]:
    """(groups, channels of a group, positions).

    Raises:
        Unsupported: a group has more elements than the kernels count.
    """
    channels, inner = x.shape[1] // groups, math.prod(x.shape[2:])
    if channels * inner >= 1 << 31:
        raise Unsupported(f"groups of {channels * inner} elements")
    return np.int32(groups), np.int32(channels), np.int32(inner)


def _forward(
    x: Array, affine: tuple[Any, ...], y: Array, statistics: _Statistics, eps: float
) -> None:
    rows, groups = statistics[0].size, statistics[0].shape[1]
    threads = team(rows, x.size // rows)
    sizes = (np.int64(rows), *_sizes(x, groups), np.float32(eps), np.int32(threads))
    args = (x, *affine, y, *statistics, *sizes)
    launch("group_norm_forward", x.dtype, blocks(rows * threads, _BLOCK), (_BLOCK,), args)


def _backward(
    grad_y: Array, x: Array, weight: Array, statistics: _Statistics, grad_x: Array
) -> Array:
    """Fill grad_x; returns sums (N, 2, C) of grad_y * n and of grad_y over the positions."""
    rows, groups = statistics[0].size, statistics[0].shape[1]
    sizes = _sizes(x, groups)
    planes, inner = len(x) * x.shape[1], int(sizes[2])
    sums = cupy.empty((len(x), 2, x.shape[1]), F32)
    threads = team(planes, inner)
    args = (grad_y, x, *statistics, sums, np.int64(planes), *sizes, np.int32(threads))
    launch("group_norm_sums", x.dtype, blocks(planes * threads, _BLOCK), (_BLOCK,), args)
    threads = team(rows, x.size // rows)
    args = (grad_y, x, weight, *statistics, sums, grad_x, np.int64(rows), *sizes)
    grid = blocks(rows * threads, _BLOCK)
    launch("group_norm_backward", x.dtype, grid, (_BLOCK,), (*args, np.int32(threads)))
    return sums


def _cut(x: Array, *arrays: Array) -> tuple[Columns, tuple[int, int, int]]:
    """(tiles and chunks, grid) of a channels-last array."""
    if len(x) >= 1 << 16:
        raise Unsupported(f"a batch of {len(x)}; a grid has fewer than 65536 layers")
    cut = Columns(math.prod(x.shape[2:]), x.shape[1], x, *arrays, matrices=len(x))
    return cut, (cut.tiles, cut.chunks, len(x))


def _forward_last(
    x: Array, affine: tuple[Any, ...], y: Array, statistics: _Statistics, eps: float
) -> None:
    cut, grid = _cut(x, y)
    rows, (groups, channels, positions) = statistics[0].size, _sizes(x, statistics[0].shape[1])
    inner, chunk, vector = np.int64(positions), np.int64(cut.chunk), np.int32(cut.vector)
    partial = cupy.empty((len(x), cut.chunks, 2, x.shape[1]), F32)
    args: tuple[Any, ...] = (x, partial, inner, chunk, np.int32(x.shape[1]), vector)
    launch("group_norm_last_moments", x.dtype, grid, cut.block, args)
    args = (partial, *statistics, np.int64(rows), groups, channels, inner, chunk)
    args = (*args, np.int32(cut.chunks), np.float32(eps))
    launch("group_norm_last_statistics", None, blocks(rows * 32, _BLOCK), (_BLOCK,), args)
    args = (x, *affine, *statistics, y, inner, chunk, groups, channels, vector)
    launch("group_norm_last_forward", x.dtype, grid, cut.block, args)


def _backward_last(
    grad_y: Array, x: Array, weight: Array, statistics: _Statistics, grad_x: Array
) -> Array:
    """As `_backward`."""
    cut, grid = _cut(x, grad_y, grad_x)
    rows, (groups, channels, positions) = statistics[0].size, _sizes(x, statistics[0].shape[1])
    sizes = (np.int64(positions), np.int64(cut.chunk), groups, channels, np.int32(cut.vector))
    partial = cupy.empty((len(x), cut.chunks, 2 * x.shape[1]), F32)
    args: tuple[Any, ...] = (grad_y, x, *statistics, partial, *sizes)
    launch("group_norm_last_sums", x.dtype, grid, cut.block, args)
    sums = finished(partial, len(x), cut.chunks, 2 * x.shape[1], F32)
    means = cupy.empty(2 * rows, F32)
    args = (sums, weight, means, np.int64(rows), groups, channels, sizes[0])
    launch("group_norm_last_means", None, blocks(rows * 32, _BLOCK), (_BLOCK,), args)
    args = (grad_y, x, weight, *statistics, means, grad_x, *sizes)
    launch("group_norm_last_backward", x.dtype, grid, cut.block, args)
    return sums
