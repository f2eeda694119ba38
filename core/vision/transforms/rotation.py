"""Rotation, translation, scaling and shear by given or random amounts.

An affine map is given by its inverse, six numbers: where each pixel of the result comes from,
relative to the middle of the image.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from ...errors import OptionError
from ...utils.data.streams import Draws
from .base import Transform
from .resize import InterpolationMode, mode_name

_INTERPOLATIONS = ("nearest", "bilinear")
_EXACT = 1e-4  # pixels; less does not touch another one (as in torchvision)
Matrix = tuple[float, float, float, float, float, float]
Fill = float | Sequence[float] | None


def _degrees(degrees: float | Sequence[float], who: str) -> tuple[float, float]:
    """(low, high) from one number or two."""
    if isinstance(degrees, int | float):
        limits: tuple[float, ...] = (-degrees, degrees)
    else:
        limits = tuple(float(d) for d in degrees)
    if len(limits) != 2 or limits[0] > limits[1]:
        raise OptionError(f"{who}: expected d >= 0 or (low, high), came {degrees}")
    return limits[0], limits[1]


class RandomRotation(Transform):
    """Rotate by an angle drawn uniformly.

    Args:
        degrees: range (low, high) counter-clockwise, or one number d for (-d, d).
        interpolation: "nearest" (default, as PyTorch) or "bilinear".
        expand: enlarge the image so that nothing is cut off.
        center: (x, y) of the fixed point in pixels from the upper left; default the middle.
        fill: value outside of the image, or one per channel.
    """

    def __init__(
        self,
        degrees: float | Sequence[float],
        interpolation: InterpolationMode | str = InterpolationMode.NEAREST,
        expand: bool = False,
        center: Sequence[float] | None = None,
        fill: Fill = 0,
    ) -> None:
        self.degrees = _degrees(degrees, "RandomRotation")
        self.interpolation = mode_name(interpolation, _INTERPOLATIONS)
        self.expand, self.center, self.fill = bool(expand), center, fill

    def apply(self, array: np.ndarray, draws: Draws) -> np.ndarray:
        low, high = self.degrees
        angle = math.radians(low + (high - low) * draws.uniform())
        return rotate(array, angle, self.interpolation, self.fill, self.expand, self.center)

    def __repr__(self) -> str:
        return (
            f"RandomRotation(degrees={self.degrees}, interpolation={self.interpolation!r}, "
            f"expand={self.expand}, fill={self.fill})"
        )


class RandomAffine(Transform):
    """Rotate, move, scale and shear by random amounts; the size stays.

    Args:
        degrees: range (low, high) clockwise, or one number d for (-d, d); 0 for none.
        translate: largest shares (of width, of height) to move by.
        scale: range of the scale.
        shear: degrees: d for x in (-d, d), (low, high) for x, or four numbers for x and y.
        interpolation: "nearest" or "bilinear".
        fill: value outside of the image, or one per channel.
        center: (x, y) of the fixed point in pixels from the upper left; default the middle.
    """

    def __init__(
        self,
        degrees: float | Sequence[float],
        translate: Sequence[float] | None = None,
        scale: Sequence[float] | None = None,
        shear: float | Sequence[float] | None = None,
        interpolation: InterpolationMode | str = InterpolationMode.NEAREST,
        fill: Fill = 0,
        center: Sequence[float] | None = None,
    ) -> None:
        self.degrees = _degrees(degrees, "RandomAffine")
        if translate is not None and not all(0 <= t <= 1 for t in translate):
            raise OptionError(f"RandomAffine: expected translate in [0, 1], came {translate}")
        if scale is not None and not 0 < scale[0] <= scale[1]:
            raise OptionError(f"RandomAffine: expected 0 < low <= high, came scale={scale}")
        self.translate, self.scale = translate, scale
        if shear is None:
            self.shear: tuple[float, ...] | None = None
        elif isinstance(shear, int | float) or len(shear) == 2:
            self.shear = (*_degrees(shear, "RandomAffine"), 0.0, 0.0)
        else:
            self.shear = tuple(float(s) for s in shear)
        self.interpolation = mode_name(interpolation, _INTERPOLATIONS)
        self.fill, self.center = fill, center

    def apply(self, array: np.ndarray, draws: Draws) -> np.ndarray:
        def between(low: float, high: float) -> float:
            return low + (high - low) * draws.uniform()

        height, width = array.shape[-3:-1]
        angle = between(*self.degrees)
        across, down = self.translate or (0.0, 0.0)
        move = (
            float(round(between(-across * width, across * width))),
            float(round(between(-down * height, down * height))),
        )
        factor = between(*(self.scale or (1.0, 1.0)))
        x_low, x_high, y_low, y_high = self.shear or (0.0,) * 4
        shear = (between(x_low, x_high), between(y_low, y_high))
        matrix = inverse(
            math.radians(angle), move, factor, shear, middle(self.center, height, width)
        )
        return warp(array, matrix, (height, width), self.interpolation, self.fill)

    def __repr__(self) -> str:
        return (
            f"RandomAffine(degrees={self.degrees}, translate={self.translate}, scale={self.scale}, "
            f"shear={self.shear}, interpolation={self.interpolation!r}, fill={self.fill})"
        )


def middle(center: Sequence[float] | None, height: int, width: int) -> tuple[float, float]:
    """The fixed point relative to the middle of the image."""
    return (0.0, 0.0) if center is None else (center[0] - width / 2, center[1] - height / 2)


def inverse(
    angle: float,
    move: tuple[float, float],
    scale: float,
    shear: tuple[float, float],
    center: tuple[float, float],
) -> Matrix:
    """The inverse of: shear (degrees), scale, rotate clockwise (radians) about `center`, move."""
    x_shear, y_shear = math.radians(shear[0]), math.radians(shear[1])
    turn = angle - y_shear
    a = math.cos(turn) / math.cos(y_shear)
    b = -math.cos(turn) * math.tan(x_shear) / math.cos(y_shear) - math.sin(angle)
    c = math.sin(turn) / math.cos(y_shear)
    d = -math.sin(turn) * math.tan(x_shear) / math.cos(y_shear) + math.cos(angle)
    # The determinant of (a b; c d) is 1.
    xx, xy, yx, yy = d / scale, -b / scale, -c / scale, a / scale
    x, y = -center[0] - move[0], -center[1] - move[1]
    return xx, xy, xx * x + xy * y + center[0], yx, yy, yx * x + yy * y + center[1]


def rotate(
    array: np.ndarray,
    angle: float,
    interpolation: str,
    fill: Fill,
    expand: bool = False,
    center: Sequence[float] | None = None,
) -> np.ndarray:
    """Rotate (..., H, W, C) by `angle` radians counter-clockwise."""
    height, width = array.shape[-3:-1]
    matrix = inverse(-angle, (0, 0), 1, (0, 0), middle(center, height, width))
    size = (height, width)
    if expand:
        cos, sin = abs(math.cos(angle)), abs(math.sin(angle))
        size = (
            _extent(height, (width * sin + height * cos) / 2),
            _extent(width, (width * cos + height * sin) / 2),
        )
    return warp(array, matrix, size, interpolation, fill)


def _extent(length: int, reach: float) -> int:
    """Pixels that are touched by what lies within `reach` of the middle of `length` pixels."""
    ends = (math.trunc((length / 2 + way * reach) / _EXACT) * _EXACT for way in (1, -1))
    return math.ceil(next(ends)) - math.floor(next(ends))


def warp(
    array: np.ndarray, matrix: Matrix, size: tuple[int, int], interpolation: str, fill: Fill
) -> np.ndarray:
    """(..., H, W, C) to (..., *size, C): each pixel from where the inverse map `matrix` says."""
    height, width = array.shape[-3:-1]
    y = np.arange(size[0])[:, None] - (size[0] - 1) / 2
    x = np.arange(size[1])[None, :] - (size[1] - 1) / 2
    source_x = matrix[0] * x + matrix[1] * y + (matrix[2] + (width - 1) / 2)
    source_y = matrix[3] * x + matrix[4] * y + (matrix[5] + (height - 1) / 2)
    fill = 0 if fill is None else fill
    if interpolation == "nearest":
        return _pick(array, np.rint(source_y).astype(int), np.rint(source_x).astype(int), fill)
    y0, x0 = np.floor(source_y).astype(int), np.floor(source_x).astype(int)
    part_y, part_x = (source_y - y0)[..., None], (source_x - x0)[..., None]
    total = np.zeros((*array.shape[:-3], *size, array.shape[-1]), np.float64)
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
