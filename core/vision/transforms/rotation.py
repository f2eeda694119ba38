"""Rotation by a random angle."""

from __future__ import annotations

import math
import numbers
from collections.abc import Sequence

import numpy as np

from ...errors import OptionError
from ...utils.data.streams import Draws
from .base import Transform

_INTERPOLATIONS = ("nearest", "bilinear")


class RandomRotation(Transform):
    """Rotate about the centre by an angle drawn uniformly; the size stays.

    Args:
        degrees: range (low, high) counter-clockwise, or one number d for (-d, d).
        interpolation: "nearest" (default, as PyTorch) or "bilinear".
        fill: value outside of the image, or one per channel.
    """

    def __init__(
        self,
        degrees: float | Sequence[float],
        interpolation: str = "nearest",
        fill: float | Sequence[float] = 0,
    ) -> None:
        if isinstance(degrees, numbers.Real):
            degrees = (-float(degrees), float(degrees))
        self.degrees = tuple(float(d) for d in degrees)  # type: ignore[union-attr]
        if len(self.degrees) != 2 or self.degrees[0] > self.degrees[1]:
            raise OptionError(f"RandomRotation: expected d >= 0 or (low, high), came {degrees}")
        if interpolation not in _INTERPOLATIONS:
            raise OptionError.unknown("interpolation", interpolation, _INTERPOLATIONS)
        self.interpolation, self.fill = interpolation, fill

    def apply(self, array: np.ndarray, draws: Draws) -> np.ndarray:
        low, high = self.degrees
        angle = math.radians(low + (high - low) * draws.uniform())
        return rotate(array, angle, self.interpolation, self.fill)

    def __repr__(self) -> str:
        return (
            f"RandomRotation(degrees={self.degrees}, interpolation={self.interpolation!r}, "
            f"fill={self.fill})"
        )


def rotate(
    array: np.ndarray, angle: float, interpolation: str, fill: float | Sequence[float]
) -> np.ndarray:
    """Rotate (..., H, W, C) by `angle` radians counter-clockwise about its centre."""
    height, width = array.shape[-3:-1]
    y = np.arange(height)[:, None] - (height - 1) / 2
    x = np.arange(width)[None, :] - (width - 1) / 2
    # For every output pixel, where it comes from (rows grow downwards).
    source_x = x * math.cos(angle) - y * math.sin(angle) + (width - 1) / 2
    source_y = x * math.sin(angle) + y * math.cos(angle) + (height - 1) / 2
    if interpolation == "nearest":
        return _pick(array, np.rint(source_y).astype(int), np.rint(source_x).astype(int), fill)
    y0, x0 = np.floor(source_y).astype(int), np.floor(source_x).astype(int)
    part_y, part_x = (source_y - y0)[..., None], (source_x - x0)[..., None]
    total = np.zeros(array.shape, np.float64)
    for dy, weight_y in ((0, 1 - part_y), (1, part_y)):
        for dx, weight_x in ((0, 1 - part_x), (1, part_x)):
            total += weight_y * weight_x * _pick(array, y0 + dy, x0 + dx, fill)
    if array.dtype.kind in "ui":
        total = np.rint(total)
    return total.astype(array.dtype)


def _pick(
    array: np.ndarray, y: np.ndarray, x: np.ndarray, fill: float | Sequence[float]
) -> np.ndarray:
    """The pixels at rows `y`, columns `x` (H, W); `fill` outside."""
    height, width = array.shape[-3:-1]
    inside = (y >= 0) & (y < height) & (x >= 0) & (x < width)
    out = array[..., np.clip(y, 0, height - 1), np.clip(x, 0, width - 1), :]
    out[..., ~inside, :] = np.asarray(fill, dtype=array.dtype)
    return out
