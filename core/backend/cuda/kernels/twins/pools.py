"""Twins of `pool.cu`: arrays are (N, D, H, W, C), windows are visited in row-major order."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import numpy as np

from ....protocol import Array
from .arrays import named, wide

_Triple = tuple[int, int, int]


class _Geometry:
    """The last 18 arguments: sizes, window, stride, padding and dilation as (d, h, w)."""

    def __init__(self, *numbers: int) -> None:
        groups = [tuple(map(int, numbers[i : i + 3])) for i in range(0, 18, 3)]
        self.inside, self.out, self.kernel, self.stride, self.padding, self.dilation = groups

    def taps(self) -> Iterator[tuple[int, tuple[Array, Array]]]:
        """(number of the tap, (windows, inputs) that it joins) as index arrays, both flattened."""
        for number, tap in enumerate(itertools.product(*map(range, self.kernel))):
            at, lies = [], []
            for k in range(3):
                o = np.arange(self.out[k])
                i = o * self.stride[k] - self.padding[k] + tap[k] * self.dilation[k]
                keep = (i >= 0) & (i < self.inside[k])
                at.append(o[keep])
                lies.append(i[keep])
            yield number, (_flat(at, self.out), _flat(lies, self.inside))

    def counts(self, include_pad: int) -> Array:
        """Elements of each window that count, flattened."""
        total = np.ones((), np.float32)
        for k in range(3):
            start = np.arange(self.out[k]) * self.stride[k] - self.padding[k]
            limit = self.inside[k] + (self.padding[k] if include_pad else 0)
            end = np.minimum(start + self.kernel[k], limit)
            first = start if include_pad else np.maximum(start, 0)
            total = total[..., None] * (end - first).astype(np.float32)
        return total.ravel()


def _flat(axes: list[Array], size: tuple[int, ...]) -> Array:
    d, h, w = np.ix_(*axes)
    return ((d * size[1] + h) * size[2] + w).ravel()


def _planes(x: Array, size: tuple[int, ...], channels: int) -> Array:
    """x as (N, positions, C)."""
    return x.reshape(-1, int(np.prod(size)), channels)


def _max_forward(x: Array, y: Array, winners: Array, channels: int, g: _Geometry) -> None:
    x = wide(_planes(x, g.inside, channels))
    best = np.full((x.shape[0], int(np.prod(g.out)), channels), -np.inf, np.float32)
    winner = np.full(best.shape, -1)
    for tap, (at, lies) in g.taps():
        v, top = x[:, lies], best[:, at]
        better = (winner[:, at] < 0) | (v > top) | (np.isnan(v) & ~np.isnan(top))
        best[:, at] = np.where(better, v, top)
        winner[:, at] = np.where(better, tap, winner[:, at])
    y[:] = best.ravel()
    winners[:] = np.maximum(winner, 0).ravel()


def _max_backward(
    grad_y: Array, winners: Array, grad_x: Array, channels: int, g: _Geometry
) -> None:
    grad = wide(_planes(grad_y, g.out, channels))
    winner = _planes(winners, g.out, channels)
    total = np.zeros((grad.shape[0], int(np.prod(g.inside)), channels), np.float32)
    for tap, (at, lies) in g.taps():
        total[:, lies] += np.where(winner[:, at] == tap, grad[:, at], 0)
    grad_x[:] = total.ravel()


def max_pool_forward(
    x: Array, y: Array, winners: Array, items: int, channels: int, vector: int,
    id: int, ih: int, iw: int, od: int, oh: int, ow: int, kd: int, kh: int, kw: int,
    sd: int, sh: int, sw: int, pd: int, ph: int, pw: int, dd: int, dh: int, dw: int,
) -> None:  # fmt: skip
    g = _Geometry(id, ih, iw, od, oh, ow, kd, kh, kw, sd, sh, sw, pd, ph, pw, dd, dh, dw)
    _max_forward(x, y, winners, channels, g)


def max_pool_backward(
    grad_y: Array, winners: Array, grad_x: Array, items: int, channels: int, vector: int,
    id: int, ih: int, iw: int, od: int, oh: int, ow: int, kd: int, kh: int, kw: int,
    sd: int, sh: int, sw: int, pd: int, ph: int, pw: int, dd: int, dh: int, dw: int,
) -> None:  # fmt: skip
    g = _Geometry(id, ih, iw, od, oh, ow, kd, kh, kw, sd, sh, sw, pd, ph, pw, dd, dh, dw)
    _max_backward(grad_y, winners, grad_x, channels, g)


def max_pool_large_forward(
    x: Array, y: Array, winners: Array, items: int, channels: int,
    id: int, ih: int, iw: int, od: int, oh: int, ow: int, kd: int, kh: int, kw: int,
    sd: int, sh: int, sw: int, pd: int, ph: int, pw: int, dd: int, dh: int, dw: int,
) -> None:  # fmt: skip
    g = _Geometry(id, ih, iw, od, oh, ow, kd, kh, kw, sd, sh, sw, pd, ph, pw, dd, dh, dw)
    _max_forward(x, y, winners, channels, g)


def max_pool_large_backward(
    grad_y: Array, winners: Array, grad_x: Array, items: int, channels: int,
    id: int, ih: int, iw: int, od: int, oh: int, ow: int, kd: int, kh: int, kw: int,
    sd: int, sh: int, sw: int, pd: int, ph: int, pw: int, dd: int, dh: int, dw: int,
) -> None:  # fmt: skip
    g = _Geometry(id, ih, iw, od, oh, ow, kd, kh, kw, sd, sh, sw, pd, ph, pw, dd, dh, dw)
    _max_backward(grad_y, winners, grad_x, channels, g)


def avg_pool_forward(
    x: Array, y: Array, items: int, channels: int, vector: int, include_pad: int,
    id: int, ih: int, iw: int, od: int, oh: int, ow: int, kd: int, kh: int, kw: int,
    sd: int, sh: int, sw: int, pd: int, ph: int, pw: int, dd: int, dh: int, dw: int,
) -> None:  # fmt: skip
    g = _Geometry(id, ih, iw, od, oh, ow, kd, kh, kw, sd, sh, sw, pd, ph, pw, dd, dh, dw)
    x = wide(_planes(x, g.inside, channels))
    total = np.zeros((x.shape[0], int(np.prod(g.out)), channels), np.float32)
    for _, (at, lies) in g.taps():
        total[:, at] += x[:, lies]
    y[:] = (total / g.counts(include_pad)[:, None]).ravel()


def avg_pool_backward(
    grad_y: Array, grad_x: Array, items: int, channels: int, vector: int, include_pad: int,
    id: int, ih: int, iw: int, od: int, oh: int, ow: int, kd: int, kh: int, kw: int,
    sd: int, sh: int, sw: int, pd: int, ph: int, pw: int, dd: int, dh: int, dw: int,
) -> None:  # fmt: skip
    g = _Geometry(id, ih, iw, od, oh, ow, kd, kh, kw, sd, sh, sw, pd, ph, pw, dd, dh, dw)
    share = wide(_planes(grad_y, g.out, channels)) / g.counts(include_pad)[:, None]
    total = np.zeros((share.shape[0], int(np.prod(g.inside)), channels), np.float32)
    for _, (at, lies) in g.taps():
        total[:, lies] += share[:, at]
    grad_x[:] = total.ravel()


def mean_pool_forward(x: Array, y: Array, positions: int, channels: int, vector: int) -> None:
    y[:] = wide(x).reshape(-1, positions, channels).mean(axis=1).ravel()


TWINS = named(
    max_pool_forward, max_pool_backward, max_pool_large_forward, max_pool_large_backward,
    avg_pool_forward, avg_pool_backward, mean_pool_forward,
)  # fmt: skip
