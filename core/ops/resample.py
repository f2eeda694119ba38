"""Linear resampling along the spatial axes: interpolation of images, volumes and lines."""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import numpy as np

from ..backend import Array
from ..backend.arrays import constant
from .base import Op
from .elementwise import Grads


class Taps(NamedTuple):
    """A sparse matrix: output o is the sum over k of weight[k, o] * input[places[k, o]].

    `weight` None stands for ones, with a single k: plain picking.
    """

    places: Array
    weight: Array | None
    size: int  # of the input


_transposed: dict[int, tuple[Taps, Taps]] = {}  # by id: NumPy arrays have no hash


def transposed(taps: Taps) -> Taps:
    """The taps of the transposed matrix, kept for the next time."""
    found = _transposed.get(id(taps))
    if found is None:
        if len(_transposed) >= 256:
            _transposed.clear()
        found = _transposed[id(taps)] = (taps, _transpose(taps))
    return found[1]


def _transpose(taps: Taps) -> Taps:
    count, outputs = taps.places.shape
    weight = np.ones(taps.places.shape) if taps.weight is None else taps.weight
    source = taps.places.ravel()
    target = np.broadcast_to(np.arange(outputs), (count, outputs)).ravel()
    order = np.argsort(source, kind="stable")
    source, target, values = source[order], target[order], weight.ravel()[order]
    used = np.bincount(source, minlength=taps.size)
    depth = int(used.max()) if used.size else 0
    position = np.arange(len(source)) - np.repeat(np.cumsum(used) - used, used)
    index = np.zeros((depth, taps.size), np.int64)
    back = np.zeros((depth, taps.size))
    index[position, source] = target
    back[position, source] = values
    return Taps(index, back, outputs)


def resample(x: Array, axis: int, taps: Taps) -> Array:
    """`x` with `taps` applied along `axis`."""
    if taps.weight is None:
        return np.take(x, constant(taps.places, x)[0], axis=axis)
    shape = [1] * x.ndim
    shape[axis] = -1
    total = None
    places, weights = constant(taps.places, x), constant(taps.weight, x)
    weights = weights.astype(x.dtype, copy=False)
    for k in range(len(places)):
        part = np.take(x, places[k], axis=axis)
        part *= weights[k].reshape(shape)
        total = part if total is None else np.add(total, part, out=total)
    if total is None:  # nothing feeds the outputs
        return np.zeros(
            (*x.shape[:axis], taps.places.shape[1], *x.shape[axis + 1 :]), x.dtype, like=x
        )
    return total


class Resample(Op):
    """(N, C, *S) resampled along each spatial axis in turn.

    Args:
        taps: for each spatial axis, or None where it stays as it is.
    """

    def __init__(self, taps: tuple[Taps | None, ...]) -> None:
        self.taps = taps

    def _in_order(self, shape: tuple[int, ...]) -> list[int]:
        """Axes from the one that shrinks most to the one that grows most."""
        growth = {
            i + 2: t.places.shape[1] / max(shape[i + 2], 1)
            for i, t in enumerate(self.taps)
            if t is not None
        }
        return sorted(growth, key=lambda axis: growth[axis])

    def forward(self, x: Array) -> Array:
        self.x_shape = x.shape
        for axis in self._in_order(x.shape):
            taps = self.taps[axis - 2]
            if taps is not None:
                x = resample(x, axis, taps)
        return x

    def backward(self, grad: Array) -> Grads:
        for axis in reversed(self._in_order(self.x_shape)):
            taps = self.taps[axis - 2]
            if taps is not None:
                grad = resample(grad, axis, transposed(taps))
        return (grad,)


# -- the matrices -------------------------------------------------------------------------------
def _ratio(size: int, outputs: int, align_corners: bool, scale: float | None) -> float:
    """Input positions per output position."""
    if align_corners:
        return (size - 1) / (outputs - 1) if outputs > 1 else 0.0
    return 1.0 / scale if scale is not None and scale > 0 else size / outputs


@lru_cache(maxsize=256)
def nearest_taps(size: int, outputs: int, scale: float | None, exact: bool) -> Taps:
    """The input under each output ("nearest"), or under its centre ("nearest-exact")."""
    ratio = np.float32(_ratio(size, outputs, False, scale))  # rounds as PyTorch does
    place = np.arange(outputs, dtype=np.float32)
    source = np.floor((place + np.float32(0.5)) * ratio if exact else place * ratio)
    return Taps(np.clip(source.astype(np.int64), 0, size - 1)[None], None, size)


@lru_cache(maxsize=256)
def linear_taps(size: int, outputs: int, align_corners: bool, scale: float | None) -> Taps:
    """The two neighbours of each output."""
    ratio = _ratio(size, outputs, align_corners, scale)
    place = np.arange(outputs)
    source = ratio * place if align_corners else np.maximum(ratio * (place + 0.5) - 0.5, 0)
    low = np.minimum(source.astype(np.int64), size - 1)
    share = np.clip(source - low, 0, 1)
    index = np.stack([low, np.minimum(low + 1, size - 1)])
    return Taps(index, np.stack([1 - share, share]), size)


def cubic(distance: Array, a: float) -> Array:
    """Keys' cubic convolution kernel. Source: Keys 1981, with parameter `a`."""
    d = np.abs(distance)
    near = ((a + 2) * d - (a + 3)) * d * d + 1
    far = ((a * d - 5 * a) * d + 8 * a) * d - 4 * a
    return np.where(d <= 1, near, np.where(d < 2, far, 0.0))


@lru_cache(maxsize=256)
def cubic_taps(size: int, outputs: int, align_corners: bool, scale: float | None) -> Taps:
    """The four neighbours of each output."""
    ratio = _ratio(size, outputs, align_corners, scale)
    place = np.arange(outputs)
    source = ratio * place if align_corners else ratio * (place + 0.5) - 0.5
    low = np.floor(source).astype(np.int64)
    near = low + np.arange(-1, 3)[:, None]
    return Taps(np.clip(near, 0, size - 1), cubic(source - near, -0.75), size)


@lru_cache(maxsize=256)
def smooth_taps(
    size: int, outputs: int, align_corners: bool, scale: float | None, cubic_kernel: bool
) -> Taps:
    """Triangle or cubic kernel, widened when shrinking so that nothing aliases (as Pillow does)."""
    ratio = _ratio(size, outputs, align_corners, scale)
    widened = max(ratio, 1.0)
    support = (2.0 if cubic_kernel else 1.0) * widened
    centre = ratio * (np.arange(outputs) + 0.5)
    first = np.maximum((centre - support + 0.5).astype(np.int64), 0)
    last = np.minimum((centre + support + 0.5).astype(np.int64), size)
    depth = int((last - first).max())
    index = first + np.arange(depth)[:, None]
    distance = (index - centre + 0.5) / widened
    kernel = cubic(distance, -0.5) if cubic_kernel else np.maximum(1 - np.abs(distance), 0)
    kernel = np.where(index < last, kernel, 0)
    total = kernel.sum(axis=0)
    weight = kernel / np.where(total == 0, 1, total)
    return Taps(np.clip(index, 0, size - 1), weight, size)
