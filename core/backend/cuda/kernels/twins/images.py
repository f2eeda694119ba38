"""Twins of `augment.cu`; on the CPU they make the batches of `vision.DeviceLoader`."""

from __future__ import annotations

import numpy as np

from ....protocol import Array
from .arrays import named
from .draws import philox


def _below(bits: Array, n: int) -> Array:
    return (bits.astype(np.uint64) * np.uint64(n) >> np.uint64(32)).astype(np.int64)


def _hashed(x: Array) -> Array:
    """Wellons' lowbias32 of uint32."""
    x = x ^ (x >> np.uint32(16))
    x = x * np.uint32(0x7FEB352D)
    x = x ^ (x >> np.uint32(15))
    x = x * np.uint32(0x846CA68B)
    return x ^ (x >> np.uint32(16))


def _draws(places: Array, epoch: int, seed: int) -> Array:
    counters = np.zeros((len(places), 4), np.uint32)
    counters[:, 0] = places & 0xFFFFFFFF
    counters[:, 1] = places >> 32
    counters[:, 2] = epoch & 0xFFFFFFFF
    return philox(counters, int(seed) & 0xFFFFFFFF, int(seed) >> 32)


def _mirrored(i: Array, n: int) -> Array:
    i = np.where(i < 0, -i, i)
    return np.where(i >= n, 2 * n - 2 - i, i)


def _flipped(flip: int, draws: Array, chosen: Array, epoch: int, seed: int) -> Array:
    if flip == 1:
        return draws[:, 0] >> np.uint32(31) == 1
    if flip == 2:
        mixed = chosen.astype(np.uint32) + np.uint32(int(seed) & 0xFFFFFFFF)
        return (_hashed(mixed) + np.uint32(epoch & 0xFFFFFFFF)) & np.uint32(1) == 1
    return np.zeros(len(draws), np.bool_)


def image_batch(
    images: Array,
    labels: Array,
    order: Array,
    position: Array,
    out: Array,
    targets: Array | None,
    n: int,
    size: int,
    total: int,
    scale: Array,
    shift: Array,
    seed: int,
    height: int,
    width: int,
    channels: int,
    padded_channels: int,
    pad: int,
    reflect: int,
    flip: int,
    cutout: int,
) -> None:
    n, height, width, channels = int(n), int(height), int(width), int(channels)
    epoch = int(position[0])
    places = np.minimum(int(position[1]) * int(size) + np.arange(n), int(total) - 1)
    chosen = order[places]
    if targets is not None:
        targets[:n] = labels[chosen]
    draws = _draws(places, epoch, seed)
    y = np.broadcast_to(np.arange(height)[None, :, None], (n, height, width))
    x = np.broadcast_to(np.arange(width)[None, None, :], (n, height, width))
    turned = _flipped(int(flip), draws, chosen, epoch, seed)[:, None, None]
    from_y, from_x = y, np.where(turned, width - 1 - x, x)
    if pad:
        from_y = from_y + (_below(draws[:, 1], 2 * int(pad) + 1) - int(pad))[:, None, None]
        from_x = from_x + (_below(draws[:, 2], 2 * int(pad) + 1) - int(pad))[:, None, None]
    if reflect:
        from_y, from_x = _mirrored(from_y, height), _mirrored(from_x, width)
    inside = (from_y >= 0) & (from_y < height) & (from_x >= 0) & (from_x < width)
    rows, columns = np.where(inside, from_y, 0), np.where(inside, from_x, 0)
    pictures = images.reshape(-1, height, width, channels)
    picked = pictures[chosen[:, None, None], rows, columns].astype(np.float32)
    picked[~inside] = 0
    picked = picked * scale[:channels] + shift[:channels]
    if cutout:
        bits, side = draws[:, 3], int(cutout)
        top = (_below(bits << np.uint32(16), height) - side // 2)[:, None, None]
        left = (_below(bits & np.uint32(0xFFFF0000), width) - side // 2)[:, None, None]
        picked[(y >= top) & (y < top + side) & (x >= left) & (x < left + side)] = 0
    result = out[: n * height * width * int(padded_channels)]
    result = result.reshape(n, height, width, int(padded_channels))
    result[..., :channels] = picked
    result[..., channels:] = 0


def next_batch(position: Array) -> None:
    position[1] += 1


TWINS = named(image_batch, next_batch)
