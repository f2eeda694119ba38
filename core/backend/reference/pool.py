"""Max and average pooling in plain array code: the oracle and the fallback.

Any number of spatial dimensions and any strides; windows are a strided view of the padded input,
gradients scatter with one strided addition per kernel position. Sizes follow PyTorch, whose
ceil mode drops a window that would start in the right padding.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from typing import Any

from ...dtypes import FLOATING
from ..protocol import Array, Dims


def pooled_size(
    size: int, kernel: int, stride: int, padding: int, dilation: int = 1, ceil_mode: bool = False
) -> int:
    """Windows along one dimension.

    >>> pooled_size(5, 2, 2, 0), pooled_size(5, 2, 2, 0, ceil_mode=True)
    (2, 3)
    """
    span = size + 2 * padding - dilation * (kernel - 1) - 1
    count = (-(-span // stride) if ceil_mode else span // stride) + 1
    if ceil_mode and (count - 1) * stride >= size + padding:
        count -= 1
    return count


def pooled_shape(
    x_shape: Dims, kernel: Dims, stride: Dims, padding: Dims, dilation: Dims, ceil_mode: bool
) -> Dims:
    """Shape (N, C, *out) of a pooled array of shape `x_shape` (N, C, *S)."""
    spatial = zip(x_shape[2:], kernel, stride, padding, dilation, strict=True)
    return (*x_shape[:2], *(pooled_size(*a, ceil_mode=ceil_mode) for a in spatial))


def right_padding(
    x_shape: Dims, y_shape: Dims, kernel: Dims, stride: Dims, padding: Dims, dilation: Dims
) -> Dims:
    """Padding after the end of each dimension so that the last window fits."""
    rows = zip(x_shape[2:], y_shape[2:], kernel, stride, padding, dilation, strict=True)
    return tuple(
        max(p, (out - 1) * s + d * (k - 1) + 1 - size - p) for size, out, k, s, p, d in rows
    )


class PoolKernels:
    """Kernels `*_pool_*` of the backend protocol on the array module `xp`."""

    xp: Any

    def _pool_windows(
        self,
        x: Array,
        y_shape: Dims,
        kernel: Dims,
        stride: Dims,
        padding: Dims,
        dilation: Dims,
        fill: float,
    ) -> Array:
        """View (N, C, *out, *kernel) of x padded with `fill`."""
        xp = self.xp
        after = right_padding(x.shape, y_shape, kernel, stride, padding, dilation)
        if any(padding) or any(after):
            pads = ((0, 0), (0, 0), *zip(padding, after, strict=True))
            x = xp.pad(x, pads, constant_values=fill)
        spatial = x.strides[2:]
        strides = (
            *x.strides[:2],
            *(s * t for s, t in zip(spatial, stride, strict=True)),
            *(s * d for s, d in zip(spatial, dilation, strict=True)),
        )
        return xp.lib.stride_tricks.as_strided(x, (*y_shape, *kernel), strides)

    def max_pool_forward(
        self,
        x: Array,
        kernel: Dims,
        stride: Dims,
        padding: Dims,
        dilation: Dims,
        ceil_mode: bool,
    ) -> tuple[Array, Any]:
        xp = self.xp
        y_shape = pooled_shape(x.shape, kernel, stride, padding, dilation, ceil_mode)
        lowest = -math.inf if x.dtype.kind in FLOATING else xp.iinfo(x.dtype).min
        windows = self._pool_windows(x, y_shape, kernel, stride, padding, dilation, lowest)
        flat = windows.reshape(*y_shape, math.prod(kernel))
        winner = flat.argmax(axis=-1)  # the first maximum; a NaN wins, as in PyTorch
        return xp.take_along_axis(flat, winner[..., None], axis=-1)[..., 0], winner

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
        after = right_padding(x_shape, grad_y.shape, kernel, stride, padding, dilation)
        padded = _padded_shape(x_shape, padding, after)
        grad = self.xp.zeros(padded, dtype=grad_y.dtype)
        positions = _positions(grad_y.shape, kernel, stride, dilation)
        for index, where in enumerate(positions):
            grad[where] += grad_y * (saved == index)
        return grad[_inner(x_shape, padding)]

    def avg_pool_forward(
        self,
        x: Array,
        kernel: Dims,
        stride: Dims,
        padding: Dims,
        ceil_mode: bool,
        count_include_pad: bool,
    ) -> Array:
        ones = (1,) * len(kernel)
        y_shape = pooled_shape(x.shape, kernel, stride, padding, ones, ceil_mode)
        windows = self._pool_windows(x, y_shape, kernel, stride, padding, ones, 0)
        total = windows.sum(axis=tuple(range(x.ndim, windows.ndim)))
        args = (x.shape, y_shape, kernel, stride, padding, count_include_pad)
        return total / self._pool_counts(*args, dtype=total.dtype)

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
        ones = (1,) * len(kernel)
        args = (x_shape, grad_y.shape, kernel, stride, padding, count_include_pad)
        share = grad_y / self._pool_counts(*args, dtype=grad_y.dtype)
        after = right_padding(x_shape, grad_y.shape, kernel, stride, padding, ones)
        grad = self.xp.zeros(_padded_shape(x_shape, padding, after), dtype=grad_y.dtype)
        for where in _positions(grad_y.shape, kernel, stride, ones):
            grad[where] += share
        return grad[_inner(x_shape, padding)]

    def _pool_counts(
        self,
        x_shape: Dims,
        y_shape: Dims,
        kernel: Dims,
        stride: Dims,
        padding: Dims,
        include_pad: bool,
        dtype: Any,
    ) -> Array:
        """Divisors (*out): elements of each window, within the padding or within x."""
        xp = self.xp
        counts = xp.ones((), dtype=dtype)
        rows = zip(x_shape[2:], y_shape[2:], kernel, stride, padding, strict=True)
        for size, out, k, s, p in rows:
            start = xp.arange(out) * s - p
            end = xp.minimum(start + k, size + p)
            if not include_pad:
                start, end = xp.maximum(start, 0), xp.minimum(end, size)
            counts = counts[..., None] * (end - start).astype(dtype)
        return counts


def _padded_shape(x_shape: Dims, padding: Dims, after: Dims) -> Dims:
    rows = zip(x_shape[2:], padding, after, strict=True)
    return (*x_shape[:2], *(size + p + q for size, p, q in rows))


def _inner(x_shape: Dims, padding: Dims) -> tuple[slice, ...]:
    """Where the unpadded array lies in the padded one."""
    rows = zip(padding, x_shape[2:], strict=True)
    return (slice(None), slice(None), *(slice(p, p + size) for p, size in rows))


def _positions(
    y_shape: Dims, kernel: Dims, stride: Dims, dilation: Dims
) -> Iterator[tuple[slice, ...]]:
    """For each kernel position, in row-major order: which padded inputs the windows have there."""
    for position in itertools.product(*(range(k) for k in kernel)):
        rows = zip(position, y_shape[2:], stride, dilation, strict=True)
        where = (slice(q * d, q * d + (out - 1) * s + 1, s) for q, out, s, d in rows)
        yield (slice(None), slice(None), *where)
