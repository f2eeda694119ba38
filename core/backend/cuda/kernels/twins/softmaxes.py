"""Twins of `softmax.cu` and `cross_entropy.cu`."""

from __future__ import annotations

import numpy as np

from ....protocol import Array
from .arrays import named, wide


def _log_softmax(x: Array, outer: int, dim: int, inner: int) -> tuple[Array, Array, Array]:
    """(log-softmax (outer, dim, inner), top and log of the sum (outer, 1, inner))."""
    v = wide(x).reshape(outer, dim, inner)
    top = v.max(axis=1, keepdims=True)
    log_sum = np.log(np.exp(v - top).sum(axis=1, keepdims=True))
    return (v - top) - log_sum, top, log_sum


def softmax_forward(
    x: Array, y: Array, outer: int, dim: int, inner: int, threads: int, log: int
) -> None:
    log_p, top, _ = _log_softmax(x, outer, dim, inner)
    e = np.exp(wide(x).reshape(outer, dim, inner) - top)
    y[:] = (log_p if log else e / e.sum(axis=1, keepdims=True)).ravel()


def softmax_backward(
    grad_y: Array, y: Array, grad_x: Array, outer: int, dim: int, inner: int, threads: int, log: int
) -> None:
    g, v = (wide(a).reshape(outer, dim, inner) for a in (grad_y, y))
    addends = g if log else g * v
    slope = np.exp(v) if log else v
    grad_x[:] = (addends - slope * addends.sum(axis=1, keepdims=True)).ravel()


def _weights(weight: Array | None, target: Array, dim: int, ignore: int) -> tuple[Array, Array]:
    """(weights of all classes, of the targets: NaN outside of 0..dim-1, 0 where ignored)."""
    every = np.ones(dim, np.float32) if weight is None else weight
    inside = (target >= 0) & (target < dim)
    own = np.where(inside, every[np.where(inside, target, 0)], np.float32(np.nan))
    return every, np.where(target == ignore, np.float32(0), own)


def cross_entropy_forward(
    x: Array,
    target: Array,
    weight: Array | None,
    stats: Array,
    losses: Array | None,
    partial: Array,
    outer: int,
    dim: int,
    inner: int,
    threads: int,
    ignore_index: int,
    smoothing: float,
) -> None:
    log_p, top, log_sum = _log_softmax(x, outer, dim, inner)
    stats[:] = np.concatenate([top.ravel(), log_sum.ravel()])
    every, own = _weights(weight, target, dim, ignore_index)
    safe = np.where((target >= 0) & (target < dim), target, 0).reshape(outer, 1, inner)
    loss = own * -np.take_along_axis(log_p, safe, 1).ravel()
    if smoothing > 0:
        spread = -(log_p * every[:, None]).sum(axis=1).ravel()
        loss = (1 - smoothing) * loss + smoothing / np.float32(dim) * spread
    loss = np.where(target == ignore_index, 0, loss)
    if losses is not None:
        losses[:] = loss
    partial[:] = 0
    partial[:2] = loss.sum(), own.sum()


def cross_entropy_finish(partial: Array, loss: Array, total: Array, blocks: int, mean: int) -> None:
    losses, weights = partial.reshape(-1, 2)[:blocks].sum(axis=0)
    total[0] = weights if mean else 1
    loss[0] = losses / total[0]


def cross_entropy_backward(
    x: Array,
    target: Array,
    weight: Array | None,
    stats: Array,
    total: Array,
    grad_y: Array,
    grad_x: Array,
    outer: int,
    dim: int,
    inner: int,
    threads: int,
    ignore_index: int,
    smoothing: float,
    per_row: int,
) -> None:
    top, log_sum = stats.reshape(2, outer, 1, inner)
    p = np.exp((wide(x).reshape(outer, dim, inner) - top) - log_sum)
    every, own = _weights(weight, target, dim, ignore_index)
    hit = (own * (1 - smoothing)).reshape(outer, 1, inner)
    spread = smoothing / np.float32(dim)
    scale = (wide(grad_y if per_row else grad_y[:1]) / total[0]).reshape(
        -1, 1, inner if per_row else 1
    )
    classes = np.arange(dim)[:, None] == target.reshape(outer, 1, inner)
    g = p * (hit + spread * every.sum()) - np.where(classes, hit, 0) - spread * every[:, None]
    ignored = (target == ignore_index).reshape(outer, 1, inner)
    grad_x[:] = np.where(ignored, 0, scale * g).ravel()


TWINS = named(
    softmax_forward, softmax_backward, cross_entropy_forward, cross_entropy_finish,
    cross_entropy_backward,
)  # fmt: skip
