"""Twins of `augment.cu`."""

from __future__ import annotations

import numpy as np

from ....protocol import Array
from .arrays import named
from .draws import words

_ROWS, _PADDING, _CUT_OUT = 258, 256, 257


def augment_set(state: Array, seed: int, epoch: int, passed: int) -> None:
    state[:] = seed, epoch, 0, passed


def augment_advance(state: Array, count: int) -> None:
    state[2] += np.uint64(count)


def _below(bits: Array, limit: int) -> Array:
    """32 random bits -> whole numbers below `limit`, int64."""
    return (bits.astype(np.uint64) * np.uint64(limit) >> np.uint64(32)).astype(np.int64)


def _mirrored(
    drawn: Array, image: Array, state: Array, site: int, flip: int, threshold: int
) -> Array:
    """Which images are mirrored, bool (count,)."""
    if flip == 2:
        first = words(np.array([state[0], 0], np.uint64), int(site) + 1, image)[:, 0]
        return (first >> np.uint32(31)) != (int(state[1]) & 1)
    return (drawn[:, 2] < threshold) & (flip == 1)


def _inside(at: Array, size: int, reflect: int) -> Array:
    """Coordinates mirrored at the borders of [0, size), or -1 outside."""
    if reflect:
        return np.where(at < 0, -at, np.where(at >= size, 2 * (size - 1) - at, at))
    return np.where((at < 0) | (at >= size), -1, at)


def _holes(drawn: Array, rows: int, columns: int, hole: int) -> Array:
    """Which pixels are cut out, bool (count, rows, columns)."""
    corners = (drawn[:, 3] >> np.uint32(16), drawn[:, 3] & np.uint32(0xFFFF))
    within = []
    for corner, size in zip(corners, (rows, columns), strict=True):
        begin = (corner.astype(np.int64) * size >> 16) - hole // 2
        away = np.arange(size) - begin[:, None]
        within.append((away >= 0) & (away < hole))
    return within[0][:, :, None] & within[1][:, None, :]


def augment(
    images: Array,
    labels: Array,
    order: Array,
    state: Array,
    site: int,
    table: Array,
    y: Array,
    classes: Array,
    count: int,
    height: int,
    width: int,
    channels: int,
    rows: int,
    columns: int,
    lanes: int,
    vector: int,
    top: int,
    tops: int,
    left: int,
    lefts: int,
    reflect: int,
    flip: int,
    threshold: int,
    hole: int,
    by_place: int,
) -> None:
    n, c = int(count), int(channels)
    start = int(state[2])
    image = order[start : start + n]
    classes[:n] = labels[image]
    drawn = words(state, site, int(state[3]) + start + np.arange(n) if by_place else image)
    line = np.arange(columns)
    mirrored = _mirrored(drawn, image, state, site, flip, threshold)
    line = np.where(mirrored[:, None], line[::-1], line)
    h = _inside(int(top) + _below(drawn[:, 0], tops)[:, None] + np.arange(rows), height, reflect)
    w = _inside(int(left) + _below(drawn[:, 1], lefts)[:, None] + line, width, reflect)
    pixels = images.reshape(-1, height, width, c)
    entries = pixels[image[:, None, None], h[:, :, None], w[:, None, :]].astype(np.intp)
    if not reflect:
        entries[(h < 0)[:, :, None] | (w < 0)[:, None, :]] = _PADDING
    if hole:
        entries[_holes(drawn, int(rows), int(columns), int(hole))] = _CUT_OUT
    made = y.reshape(-1, rows, columns, lanes)[:n]
    made[..., :c] = np.take(table, entries * c + np.arange(c))
    made[..., c:] = 0


TWINS = named(augment_set, augment_advance, augment)
