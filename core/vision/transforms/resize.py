"""Images of another size: resizing, and random crops that are resized.

Resizing is linear in each direction, so it is a product with one matrix per direction. With
antialiasing the filter widens with the scale, as in Pillow.

Source: Heckbert 1989, "Fundamentals of texture mapping and image warping", section 3.5; Keys 1981,
"Cubic convolution interpolation".
"""

from __future__ import annotations

import enum
import functools
import math
from collections.abc import Sequence

import numpy as np

from ...dtypes import FLOATING
from ...errors import OptionError
from ...utils.data.streams import Draws
from .base import Transform

_TRIES = 10
_CACHED = 64


class InterpolationMode(enum.Enum):
    """How values between pixels are found; every argument also takes the string."""

    NEAREST = "nearest"
    NEAREST_EXACT = "nearest-exact"
    BILINEAR = "bilinear"
    BICUBIC = "bicubic"


def mode_name(interpolation: InterpolationMode | str, known: Sequence[str] | None = None) -> str:
    """The name of a mode.

    Raises:
        OptionError: an unknown one; the message lists the known ones.
    """
    name = interpolation.value if isinstance(interpolation, InterpolationMode) else interpolation
    names = known or [mode.value for mode in InterpolationMode]
    if name not in names:
        raise OptionError.unknown("interpolation", interpolation, names)
    return name


def _triangle(x: np.ndarray) -> np.ndarray:
    return np.maximum(0, 1 - np.abs(x))


def _cubic(x: np.ndarray, a: float) -> np.ndarray:
    x = np.abs(x)
    near = ((a + 2) * x - (a + 3)) * x * x + 1
    far = ((a * x - 5 * a) * x + 8 * a) * x - 4 * a
    return np.where(x < 1, near, np.where(x < 2, far, 0))


@functools.lru_cache(_CACHED)
def _matrix(before: int, after: int, mode: str, antialias: bool, dtype: type) -> np.ndarray:
    """(after, before): each row the weights of the pixels that make one new pixel."""
    scale = before / after
    centres = (np.arange(after) + 0.5) * scale
    if antialias:
        stretch = max(scale, 1.0)
        reach = (1 if mode == "bilinear" else 2) * stretch
        pixels = np.arange(before)
        first = np.maximum((centres - reach + 0.5).astype(int), 0)[:, None]
        last = np.minimum((centres + reach + 0.5).astype(int), before)[:, None]
        x = (pixels - centres[:, None] + 0.5) / stretch
        weights = _triangle(x) if mode == "bilinear" else _cubic(x, -0.5)
        weights = np.where((pixels >= first) & (pixels < last), weights, 0)
        weights /= weights.sum(axis=1, keepdims=True)
    else:
        source = centres - 0.5
        if mode == "bilinear":
            source = np.maximum(source, 0)
        below = np.floor(source).astype(int)
        weights = np.zeros((after, before))
        for offset in (0, 1) if mode == "bilinear" else (-1, 0, 1, 2):
            x = source - (below + offset)
            share = _triangle(x) if mode == "bilinear" else _cubic(x, -0.75)
            np.add.at(weights, (np.arange(after), np.clip(below + offset, 0, before - 1)), share)
    made: np.ndarray = weights.astype(dtype)
    made.flags.writeable = False
    return made


def resize(array: np.ndarray, size: tuple[int, int], mode: str, antialias: bool) -> np.ndarray:
    """(..., H, W, C) to (..., *size, C); integers are rounded."""
    height, width = array.shape[-3:-1]
    if (height, width) == size:
        return array
    if mode.startswith("nearest"):
        half = 0.5 if mode == "nearest-exact" else 0.0
        rows, columns = (
            np.minimum(((np.arange(n) + half) * (old / n)).astype(int), old - 1)
            for old, n in zip((height, width), size, strict=True)
        )
        return array[..., rows[:, None], columns, :]
    dtype = np.float64 if array.dtype == np.float64 else np.float32
    vertical = _matrix(height, size[0], mode, antialias, dtype)
    horizontal = _matrix(width, size[1], mode, antialias, dtype)
    channels = array.shape[-1]
    x = array.astype(dtype, copy=False)
    y = vertical @ x.reshape(*x.shape[:-3], height, width * channels)
    y = y.reshape(*x.shape[:-3], size[0], width, channels)
    y = np.ascontiguousarray(np.moveaxis(np.moveaxis(y, -1, -3) @ horizontal.T, -3, -1))
    return in_range(y, array.dtype)


def in_range(values: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """`values` in `dtype`, rounded and limited to its range if it holds integers."""
    if dtype.kind in FLOATING:
        return values.astype(dtype, copy=False)
    info = np.iinfo(dtype)
    return np.rint(values).clip(info.min, info.max).astype(dtype)


def output_size(
    height: int, width: int, size: int | Sequence[int], max_size: int | None, who: str
) -> tuple[int, int]:
    """The size after `Resize(size, max_size)`.

    Raises:
        OptionError: not one or two positive numbers, or a max_size that does not fit them.
    """
    numbers = [size] if isinstance(size, int) else list(size)
    if len(numbers) not in (1, 2) or min(numbers) < 1:
        raise OptionError(f"{who}: expected a size or (height, width), both > 0, came {size}")
    if len(numbers) == 2:
        if max_size is not None:
            raise OptionError(f"{who}: max_size={max_size} needs a size of one number, came {size}")
        return int(numbers[0]), int(numbers[1])
    short, long = sorted((height, width))
    new_short = int(numbers[0])
    new_long = int(new_short * long / short)
    if max_size is not None:
        if max_size <= new_short:
            raise OptionError(
                f"{who}: expected max_size > size, came max_size={max_size} and size={size}"
            )
        if new_long > max_size:
            new_short, new_long = int(max_size * new_short / new_long), max_size
    return (new_short, new_long) if height <= width else (new_long, new_short)


class Resize(Transform):
    """Another size.

    Args:
        size: (height, width), or the length of the shorter side; the ratio of the sides stays.
        interpolation: "bilinear", "bicubic", "nearest" or "nearest-exact".
        max_size: the longer side is at most this, if `size` is one number.
        antialias: widen the filter where the image shrinks.

    >>> import numpy as np
    >>> Resize(16)(np.zeros((32, 48, 3), np.uint8)).shape
    (16, 24, 3)
    """

    def __init__(
        self,
        size: int | Sequence[int],
        interpolation: InterpolationMode | str = InterpolationMode.BILINEAR,
        max_size: int | None = None,
        antialias: bool | None = True,
    ) -> None:
        output_size(1, 1, size, None, "Resize")
        self.size, self.max_size, self.antialias = size, max_size, bool(antialias)
        self.interpolation = mode_name(interpolation)

    def apply(self, array: np.ndarray, draws: Draws) -> np.ndarray:
        height, width = array.shape[-3:-1]
        size = output_size(height, width, self.size, self.max_size, "Resize")
        return resize(array, size, self.interpolation, self.antialias)

    def __repr__(self) -> str:
        return (
            f"Resize(size={self.size}, interpolation={self.interpolation}, "
            f"max_size={self.max_size}, antialias={self.antialias})"
        )


class RandomResizedCrop(Transform):
    """A window of random size, ratio and place, resized (Szegedy et al. 2015).

    Args:
        size: (height, width) of the result, or one number for both.
        scale: range of the window's share of the area.
        ratio: range of its width over its height.
        interpolation, antialias: as in `Resize`.
    """

    def __init__(
        self,
        size: int | Sequence[int],
        scale: Sequence[float] = (0.08, 1.0),
        ratio: Sequence[float] = (3 / 4, 4 / 3),
        interpolation: InterpolationMode | str = InterpolationMode.BILINEAR,
        antialias: bool | None = True,
    ) -> None:
        numbers = (size, size) if isinstance(size, int) else tuple(size) * (3 - len(tuple(size)))
        self.size = output_size(1, 1, numbers, None, "RandomResizedCrop")
        if not 0 < scale[0] <= scale[1] or not 0 < ratio[0] <= ratio[1]:
            raise OptionError(
                f"RandomResizedCrop: expected ascending scale and ratio > 0, came {scale}, {ratio}"
            )
        self.scale, self.ratio = tuple(scale), tuple(ratio)
        self.interpolation, self.antialias = mode_name(interpolation), bool(antialias)

    def apply(self, array: np.ndarray, draws: Draws) -> np.ndarray:
        top, left, height, width = self.window(array.shape[-3], array.shape[-2], draws)
        part = array[..., top : top + height, left : left + width, :]
        return resize(part, self.size, self.interpolation, self.antialias)

    def window(self, height: int, width: int, draws: Draws) -> tuple[int, int, int, int]:
        """(top, left, height, width) of the window; the middle if ten draws do not fit."""
        low, high = math.log(self.ratio[0]), math.log(self.ratio[1])
        for _ in range(_TRIES):
            share = self.scale[0] + (self.scale[1] - self.scale[0]) * draws.uniform()
            ratio = math.exp(low + (high - low) * draws.uniform())
            w = round(math.sqrt(height * width * share * ratio))
            h = round(math.sqrt(height * width * share / ratio))
            if 0 < w <= width and 0 < h <= height:
                top, left = draws.integer(0, height - h + 1), draws.integer(0, width - w + 1)
                return top, left, h, w
        h, w = height, width
        if width / height < self.ratio[0]:
            h = round(width / self.ratio[0])
        elif width / height > self.ratio[1]:
            w = round(height * self.ratio[1])
        return (height - h) // 2, (width - w) // 2, h, w

    def __repr__(self) -> str:
        return (
            f"RandomResizedCrop(size={self.size}, scale={self.scale}, ratio={self.ratio}, "
            f"interpolation={self.interpolation}, antialias={self.antialias})"
        )
