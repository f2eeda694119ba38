"""Twins of `layer_norm.cu`, `group_norm.cu` and `group_norm_last.cu`."""

from __future__ import annotations

import numpy as np

from ....protocol import Array
from .arrays import named, wide


def _or_one(weight: Array | None) -> Array:
    return np.ones((), np.float32) if weight is None else weight


def _or_zero(bias: Array | None) -> Array:
    return np.zeros((), np.float32) if bias is None else bias


def _column(mean: Array | None) -> Array:
    """(rows,) as (rows, 1)."""
    return np.zeros((1, 1), np.float32) if mean is None else mean[:, None]


def _statistics(x: Array, eps: float) -> tuple[Array, Array]:
    """Mean and 1/std of each row."""
    mean = x.mean(axis=1, keepdims=True)
    var = ((x - mean) ** 2).mean(axis=1, keepdims=True)
    return mean, 1 / np.sqrt(var + np.float32(eps))


def layer_norm_forward(
    x: Array, weight: Array | None, bias: Array | None, y: Array, mean: Array | None, rstd: Array,
    rows: int, cols: int, eps: float, threads: int,
) -> None:  # fmt: skip
    v = wide(x).reshape(rows, cols)
    if mean is None:  # RMS normalisation
        m = np.zeros((1, 1), np.float32)
        scale = 1 / np.sqrt((v * v).mean(axis=1, keepdims=True) + np.float32(eps))
    else:
        m, scale = _statistics(v, eps)
        mean[:] = m.ravel()
    y[:] = ((v - m) * scale * _or_one(weight) + _or_zero(bias)).ravel()
    rstd[:] = scale.ravel()


def layer_norm_backward(
    grad_y: Array, x: Array, weight: Array | None, mean: Array | None, rstd: Array, grad_x: Array,
    rows: int, cols: int, threads: int,
) -> None:  # fmt: skip
    scale = rstd[:, None]
    n = (wide(x).reshape(rows, cols) - _column(mean)) * scale
    g = wide(grad_y).reshape(rows, cols) * _or_one(weight)
    along = (g * n).mean(axis=1, keepdims=True)
    level = 0 if mean is None else g.mean(axis=1, keepdims=True)
    grad_x[:] = ((g - level - n * along) * scale).ravel()


def layer_norm_weights(
    grad_y: Array, x: Array, mean: Array | None, rstd: Array, partial: Array, rows: int, cols: int,
    chunk: int, vector: int,
) -> None:  # fmt: skip
    g = wide(grad_y).reshape(rows, cols)
    along = g * ((wide(x).reshape(rows, cols) - _column(mean)) * rstd[:, None])
    sums = partial.reshape(-1, 2, cols)
    for k, start in enumerate(range(0, int(rows), int(chunk))):
        sums[k, 0] = along[start : start + chunk].sum(axis=0)
        sums[k, 1] = g[start : start + chunk].sum(axis=0)


def group_norm_forward(
    x: Array, weight: Array | None, bias: Array | None, y: Array, mean: Array, rstd: Array,
    rows: int, groups: int, channels: int, inner: int, eps: float, threads: int,
) -> None:  # fmt: skip
    v = wide(x).reshape(rows, channels * inner)
    m, scale = _statistics(v, eps)
    a = scale.reshape(-1, groups, 1, 1) * _or_one(weight).reshape(
        -1, 1 if weight is None else channels, 1
    )
    b = _or_zero(bias).reshape(-1, 1 if bias is None else channels, 1)
    n = (v - m).reshape(-1, groups, channels, inner)
    y[:] = (n * a + b).ravel()
    mean[:], rstd[:] = m.ravel(), scale.ravel()


def group_norm_sums(
    grad_y: Array, x: Array, mean: Array, rstd: Array, sums: Array, planes: int, groups: int,
    channels: int, inner: int, threads: int,
) -> None:  # fmt: skip
    shape = (-1, groups, channels, inner)
    g = wide(grad_y).reshape(shape)
    n = (wide(x).reshape(shape) - _spread(mean, groups)) * _spread(rstd, groups)
    both = sums.reshape(-1, 2, groups * channels)
    both[:, 0] = (g * n).sum(axis=3).reshape(len(both), -1)
    both[:, 1] = g.sum(axis=3).reshape(len(both), -1)


def _spread(statistic: Array, groups: int) -> Array:
    """(N, G) as (N, G, 1, 1)."""
    return statistic.reshape(-1, groups, 1, 1)


def _means(sums: Array, weight: Array | None, groups: int, channels: int, inner: int) -> Array:
    """(N, 2, G): means of grad_y * weight * n and of grad_y * weight over a group."""
    weighted = sums.reshape(-1, 2, groups * channels) * _or_one(weight)
    total = weighted.reshape(-1, 2, groups, channels).sum(axis=3)
    return total / np.float32(channels * inner)


def group_norm_backward(
    grad_y: Array, x: Array, weight: Array | None, mean: Array, rstd: Array, sums: Array,
    grad_x: Array, rows: int, groups: int, channels: int, inner: int, threads: int,
) -> None:  # fmt: skip
    shape = (-1, groups, channels, inner)
    scale = _spread(rstd, groups)
    n = (wide(x).reshape(shape) - _spread(mean, groups)) * scale
    w = _or_one(weight) if weight is None else weight.reshape(groups, channels, 1)
    means = _means(sums, weight, groups, channels, inner)
    along, level = (_spread(means[:, k], groups) for k in (0, 1))
    grad_x[:] = ((wide(grad_y).reshape(shape) * w - level - n * along) * scale).ravel()


def group_norm_last_moments(
    x: Array, partial: Array, inner: int, chunk: int, channels: int, vector: int
) -> None:
    v = wide(x).reshape(-1, inner, channels)
    parts = partial.reshape(len(v), -1, 2, channels)
    for k, start in enumerate(range(0, int(inner), int(chunk))):
        piece = v[:, start : start + chunk]
        parts[:, k, 0] = piece.mean(axis=1)
        parts[:, k, 1] = ((piece - piece.mean(axis=1, keepdims=True)) ** 2).sum(axis=1)


def group_norm_last_statistics(
    partial: Array, mean: Array, rstd: Array, rows: int, groups: int, channels: int, inner: int,
    chunk: int, chunks: int, eps: float,
) -> None:  # fmt: skip
    parts = partial.reshape(-1, chunks, 2, groups, channels)
    counts = np.minimum(inner - np.arange(chunks) * chunk, chunk).reshape(-1, 1, 1)
    m = (parts[:, :, 0] * counts).sum(axis=(1, 3)) / (inner * channels)
    spread = counts * (parts[:, :, 0] - m[:, None, :, None]) ** 2
    m2 = (parts[:, :, 1] + spread).sum(axis=(1, 3))
    mean[:] = m.ravel()
    rstd[:] = (1 / np.sqrt(m2 / (inner * channels) + np.float32(eps))).ravel()


def _of_channels(statistic: Array, groups: int, channels: int) -> Array:
    """(N, G) as (N, 1, C)."""
    return np.repeat(statistic.reshape(-1, groups), channels, axis=1)[:, None]


def group_norm_last_forward(
    x: Array, weight: Array | None, bias: Array | None, mean: Array, rstd: Array, y: Array,
    inner: int, chunk: int, groups: int, channels: int, vector: int,
) -> None:  # fmt: skip
    v = wide(x).reshape(-1, inner, groups * channels)
    m, scale = (_of_channels(s, groups, channels) for s in (mean, rstd))
    y[:] = ((v - m) * scale * _or_one(weight) + _or_zero(bias)).ravel()


def group_norm_last_sums(
    grad_y: Array, x: Array, mean: Array, rstd: Array, partial: Array, inner: int, chunk: int,
    groups: int, channels: int, vector: int,
) -> None:  # fmt: skip
    shape = (-1, inner, groups * channels)
    g, v = wide(grad_y).reshape(shape), wide(x).reshape(shape)
    along = g * (v - _of_channels(mean, groups, channels)) * _of_channels(rstd, groups, channels)
    parts = partial.reshape(len(g), -1, 2, shape[2])
    for k, start in enumerate(range(0, int(inner), int(chunk))):
        parts[:, k, 0] = along[:, start : start + chunk].sum(axis=1)
        parts[:, k, 1] = g[:, start : start + chunk].sum(axis=1)


def group_norm_last_means(
    sums: Array, weight: Array | None, means: Array, rows: int, groups: int, channels: int,
    inner: int,
) -> None:  # fmt: skip
    means[:] = _means(sums, weight, groups, channels, inner).ravel()


def group_norm_last_backward(
    grad_y: Array, x: Array, weight: Array | None, mean: Array, rstd: Array, means: Array,
    grad_x: Array, inner: int, chunk: int, groups: int, channels: int, vector: int,
) -> None:  # fmt: skip
    shape = (-1, inner, groups * channels)
    m, scale = (_of_channels(s, groups, channels) for s in (mean, rstd))
    along, level = (
        _of_channels(means.reshape(-1, 2, groups)[:, k], groups, channels) for k in (0, 1)
    )
    n = (wide(x).reshape(shape) - m) * scale
    g = wide(grad_y).reshape(shape) * _or_one(weight)
    grad_x[:] = ((g - level - n * along) * scale).ravel()


TWINS = named(
    layer_norm_forward, layer_norm_backward, layer_norm_weights, group_norm_forward,
    group_norm_sums, group_norm_backward, group_norm_last_moments, group_norm_last_statistics,
    group_norm_last_forward, group_norm_last_sums, group_norm_last_means, group_norm_last_backward,
)  # fmt: skip
