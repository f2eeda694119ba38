"""Twins of `random.cu` and `dropout.cu`."""

from __future__ import annotations

from typing import Any

import numpy as np

from ....protocol import Array
from .arrays import named, wide

_LOW = np.uint64(0xFFFFFFFF)
_HALF = np.uint64(32)


def philox(counters: Array, key0: int, key1: int) -> Array:
    """Philox4x32-10 of uint32 counters (n, 4) -> uint32 (n, 4).

    >>> philox(np.zeros((1, 4), np.uint32), 0, 0)[0].tolist() == [
    ...     0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]
    True
    """
    c = [counters[:, i].astype(np.uint64) for i in range(4)]
    k0, k1 = int(key0), int(key1)
    for _ in range(10):
        first, second = c[0] * np.uint64(0xD2511F53), c[2] * np.uint64(0xCD9E8D57)
        c = [
            second >> _HALF ^ c[1] ^ np.uint64(k0),
            second & _LOW,
            first >> _HALF ^ c[3] ^ np.uint64(k1),
            first & _LOW,
        ]
        k0, k1 = (k0 + 0x9E3779B9) & 0xFFFFFFFF, (k1 + 0xBB67AE85) & 0xFFFFFFFF
    return np.stack(c, axis=1).astype(np.uint32)


def words(state: Array, site: int, blocks: Any) -> Array:
    """Words (n, 4) of the blocks numbered `blocks`: an array, or 0 to `blocks` - 1."""
    index = (np.arange(blocks) if np.ndim(blocks) == 0 else np.asarray(blocks)).astype(np.uint64)
    seed, step = int(state[0]), int(state[1])
    counters = np.empty((len(index), 4), np.uint32)
    counters[:, 0], counters[:, 1] = index & _LOW, index >> _HALF
    counters[:, 2], counters[:, 3] = step & 0xFFFFFFFF, site
    return philox(counters, seed & 0xFFFFFFFF, seed >> 32)


def random_set(state: Array, seed: int, step: int) -> None:
    state[:] = seed, step


def random_begin(state: Array) -> None:
    state[1] += np.uint64(1)


def random_words(out: Array, blocks: int, counters: Array, key0: int, key1: int) -> None:
    out[:] = philox(counters.reshape(-1, 4)[:blocks], key0, key1).reshape(-1)


def random_bits(out: Array, n: int, state: Array, site: int) -> None:
    out[:n] = words(state, site, -(-int(n) // 4)).reshape(-1)[:n]


def random_integers(out: Array, n: int, low: int, span: int, state: Array, site: int) -> None:
    halves = words(state, site, -(-int(n) // 2)).reshape(-1, 2)[:n].astype(object)
    out[:n] = [int(low) + ((int(a) | int(b) << 32) * int(span) >> 64) for a, b in halves]


def _fraction_bits(dtype: np.dtype[Any]) -> int:
    return 24 if dtype == np.float32 else 11 if dtype == np.float16 else 8


def _uniform(bits: Array, kept: int) -> Array:
    return (bits >> np.uint32(32 - kept)).astype(np.float32) * np.float32(2.0**-kept)


def random_uniform(out: Array, n: int, state: Array, site: int) -> None:
    bits = words(state, site, -(-int(n) // 4)).reshape(-1)[:n]
    out[:n] = _uniform(bits, _fraction_bits(out.dtype))


def random_normal(out: Array, n: int, state: Array, site: int) -> None:
    pairs = words(state, site, -(-int(n) // 4)).reshape(-1, 2)
    u = ((pairs[:, 0] >> np.uint32(8)) + np.uint32(1)).astype(np.float32) * np.float32(2.0**-24)
    radius = np.sqrt(np.float32(-2) * np.log(u))
    turns = 2 * np.pi * _uniform(pairs[:, 1], 24).astype(np.float64)
    both = radius[:, None] * np.stack([np.cos(turns), np.sin(turns)], axis=1).astype(np.float32)
    out[:n] = both.reshape(-1)[:n]


def dropout(
    x: Array,
    y: Array,
    n: int,
    threshold: int,
    scale: float,
    state: Array,
    site: int,
    channels: int,
    inner: int,
    outer: int,
) -> None:
    unit = np.arange(int(n))
    if channels:
        unit = unit // int(outer) * int(channels) + unit // int(inner) % int(channels)
    draws = words(state, site, int(unit.max(initial=0)) // 8 + 1).reshape(-1)
    pair = draws[unit // 2]
    bits = np.where(unit % 2, pair >> np.uint32(16), pair & np.uint32(0xFFFF))
    y[:n] = np.where(bits >= threshold, wide(x[:n]) * np.float32(scale), np.float32(0))


TWINS = named(
    random_set, random_begin, random_words, random_bits, random_integers, random_uniform,
    random_normal, dropout,
)  # fmt: skip
