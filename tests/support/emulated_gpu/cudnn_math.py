"""What cuDNN's nodes compute, in plain NumPy on float32 arrays of logical shape (N, C, *S)."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

Array = np.ndarray


def _padded(x: Array, padding: Sequence[int]) -> Array:
    return np.pad(x, ((0, 0), (0, 0), *((p, p) for p in padding)))


def _taps(
    kernel: Sequence[int], sizes: Sequence[int], stride: Sequence[int], dilation: Sequence[int]
) -> Iterator[tuple[tuple[int, ...], tuple[slice, ...]]]:
    """Every place of the kernel, and which padded inputs it meets, one per output."""
    for tap in itertools.product(*map(range, kernel)):
        yield (
            tap,
            tuple(
                slice(t * d, t * d + s * (n - 1) + 1, s)
                for t, d, s, n in zip(tap, dilation, stride, sizes, strict=True)
            ),
        )


def _groups(x_channels: int, w: Array) -> list[tuple[slice, slice]]:
    """(input channels, output channels) of each group."""
    count = x_channels // w.shape[1]
    per = w.shape[0] // count
    return [
        (slice(g * w.shape[1], (g + 1) * w.shape[1]), slice(g * per, (g + 1) * per))
        for g in range(count)
    ]


def output_sizes(x: Any, w: Any, window: Any) -> tuple[int, ...]:
    """Spatial sizes of a convolution."""
    return tuple(
        (n + 2 * p - d * (k - 1) - 1) // s + 1
        for n, k, s, p, d in zip(x, w, window.stride, window.padding, window.dilation, strict=True)
    )


def conv_fprop(x: Array, w: Array, window: Any) -> Array:
    sizes = output_sizes(x.shape[2:], w.shape[2:], window)
    y = np.zeros((x.shape[0], w.shape[0], *sizes), np.float32)
    source = _padded(x, window.padding)
    for tap, at in _taps(w.shape[2:], sizes, window.stride, window.dilation):
        for ins, outs in _groups(x.shape[1], w):
            met = source[(slice(None), ins, *at)]
            share = np.tensordot(met, w[(outs, slice(None), *tap)], axes=(1, 1))
            y[:, outs] += np.moveaxis(share, -1, 1)
    return y


def conv_dgrad(dy: Array, w: Array, window: Any, x_shape: tuple[int, ...]) -> Array:
    sizes = dy.shape[2:]
    whole = np.zeros(
        (*x_shape[:2], *(n + 2 * p for n, p in zip(x_shape[2:], window.padding, strict=True))),
        np.float32,
    )
    for tap, at in _taps(w.shape[2:], sizes, window.stride, window.dilation):
        for ins, outs in _groups(x_shape[1], w):
            share = np.tensordot(dy[:, outs], w[(outs, slice(None), *tap)], axes=(1, 0))
            whole[(slice(None), ins, *at)] += np.moveaxis(share, -1, 1)
    inner = tuple(slice(p, p + n) for n, p in zip(x_shape[2:], window.padding, strict=True))
    return whole[(slice(None), slice(None), *inner)]


def conv_wgrad(x: Array, dy: Array, window: Any, w_shape: tuple[int, ...]) -> Array:
    dw = np.zeros(w_shape, np.float32)
    source = _padded(x, window.padding)
    others = (0, *range(2, x.ndim))
    for tap, at in _taps(w_shape[2:], dy.shape[2:], window.stride, window.dilation):
        for ins, outs in _groups(x.shape[1], dw):
            met = source[(slice(None), ins, *at)]
            dw[(outs, slice(None), *tap)] = np.tensordot(dy[:, outs], met, axes=(others, others))
    return dw


def batchnorm(x: Array, scale: Array, bias: Array, eps: float) -> tuple[Array, Array, Array]:
    """(y, mean, 1/std)."""
    axes = (0, *range(2, x.ndim))
    mean = x.mean(axis=axes, keepdims=True, dtype=np.float64)
    rstd = 1 / np.sqrt(((x - mean) ** 2).mean(axis=axes, keepdims=True) + eps)
    y = (x - mean) * rstd * scale + bias
    return y.astype(np.float32), mean.astype(np.float32), rstd.astype(np.float32)


def batchnorm_backward(
    dy: Array, x: Array, scale: Array, mean: Array, rstd: Array
) -> tuple[Array, Array, Array]:
    """(dx, dscale, dbias)."""
    axes = (0, *range(2, x.ndim))
    centred = (x - mean) * rstd
    dbias = dy.sum(axis=axes, keepdims=True, dtype=np.float64)
    dscale = (dy * centred).sum(axis=axes, keepdims=True, dtype=np.float64)
    count = x.size // x.shape[1]
    dx = scale * rstd * (dy - dbias / count - centred * dscale / count)
    return dx.astype(np.float32), dscale.astype(np.float32), dbias.astype(np.float32)


def batchnorm_inference(x: Array, mean: Array, rstd: Array, scale: Array, bias: Array) -> Array:
    return (x - mean) * rstd * scale + bias
