"""Transforms of colours: brightness, contrast, saturation, hue, and blur.

The arithmetic is torchvision's for tensors: in float32, limited to the range of the dtype, and
truncated for integers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ...dtypes import FLOATING
from ...errors import OptionError
from ...utils.data.streams import Draws
from .base import Transform
from .values import Grayscale, converted

_grey = Grayscale()


def _top(array: np.ndarray) -> float:
    """The value of white."""
    return 1.0 if array.dtype.kind in FLOATING else float(np.iinfo(array.dtype).max)


def _floating(array: np.ndarray) -> np.ndarray:
    return array if array.dtype.kind in FLOATING else array.astype(np.float32)


def _blend(array: np.ndarray, other: Any, ratio: float) -> np.ndarray:
    """Between `other` (ratio 0) and `array` (ratio 1), or beyond."""
    mixed = _floating(array) * ratio
    mixed += other * (1.0 - ratio)
    return mixed.clip(0, _top(array)).astype(array.dtype)


def _positive(factor: float, who: str) -> None:
    if factor < 0:
        raise OptionError(f"{who}: expected a factor >= 0, came {factor}")


def brightness(array: np.ndarray, factor: float) -> np.ndarray:
    """0 gives black, 1 the image."""
    _positive(factor, "adjust_brightness")
    return _blend(array, np.float32(0), factor)


def contrast(array: np.ndarray, factor: float) -> np.ndarray:
    """0 gives the mean grey of the image everywhere, 1 the image."""
    _positive(factor, "adjust_contrast")
    grey = _grey.apply(array, None)  # type: ignore[arg-type]  # draws nothing
    mean = _floating(grey).mean(axis=(-3, -2, -1), keepdims=True)
    return _blend(array, mean, factor)


def saturation(array: np.ndarray, factor: float) -> np.ndarray:
    """0 gives the grey image, 1 the image; a grey image stays."""
    _positive(factor, "adjust_saturation")
    if array.shape[-1] == 1:
        return array
    grey = _grey.apply(array, None)  # type: ignore[arg-type]  # draws nothing
    return _blend(array, _floating(grey), factor)


def hue(array: np.ndarray, factor: float) -> np.ndarray:
    """Turn the circle of colours by `factor` of a turn, in [-0.5, 0.5]; a grey image stays."""
    if not -0.5 <= factor <= 0.5:
        raise OptionError(f"adjust_hue: expected a factor in [-0.5, 0.5], came {factor}")
    if array.shape[-1] == 1:
        return array
    rgb = converted(array, np.dtype(np.float32)) if array.dtype.kind not in FLOATING else array
    turned = _to_rgb(*_to_hsv(rgb, factor))
    return converted(turned, array.dtype)


def _to_hsv(rgb: np.ndarray, turn: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Hue (turned), saturation and value, each (..., H, W).

    Source: Smith 1978, "Color gamut transform pairs".
    """
    red, green, blue = (rgb[..., c] for c in range(3))
    value, low = rgb.max(axis=-1), rgb.min(axis=-1)
    spread = value - low
    grey = spread == 0
    safe = np.where(grey, 1, spread)
    r, g, b = ((value - c) / safe for c in (red, green, blue))
    sector = np.where(value == red, b - g, np.where(value == green, 2 + r - b, 4 + g - r))
    turned = (np.where(grey, 0, sector) / 6 + 1) % 1
    share = spread / np.where(grey, 1, value)
    return (turned + np.asarray(turn, rgb.dtype)) % 1, share, value


def _to_rgb(hue: np.ndarray, share: np.ndarray, value: np.ndarray) -> np.ndarray:
    sector = np.floor(hue * 6)
    part = hue * 6 - sector
    low = (value * (1 - share)).clip(0, 1)
    falling = (value * (1 - share * part)).clip(0, 1)
    rising = (value * (1 - share * (1 - part))).clip(0, 1)
    which = sector.astype(int) % 6
    red = np.choose(which, (value, falling, low, low, rising, value))
    green = np.choose(which, (rising, value, value, falling, low, low))
    blue = np.choose(which, (low, low, rising, value, value, falling))
    return np.stack([red, green, blue], axis=-1)


def gamma(array: np.ndarray, exponent: float, gain: float = 1.0) -> np.ndarray:
    """``gain * image ** exponent`` on values in [0, 1]."""
    if exponent < 0:
        raise OptionError(f"adjust_gamma: expected gamma >= 0, came {exponent}")
    values = array if array.dtype.kind in FLOATING else converted(array, np.dtype(np.float32))
    return converted((gain * values**exponent).clip(0, 1).astype(values.dtype), array.dtype)


def invert(array: np.ndarray) -> np.ndarray:
    """White becomes black."""
    return (array.dtype.type(_top(array)) - array).astype(array.dtype, copy=False)


def blur(array: np.ndarray, kernel: tuple[int, int], sigma: tuple[float, float]) -> np.ndarray:
    """Gaussian blur; `kernel` and `sigma` are (vertical, horizontal), edges are mirrored."""
    dtype = array.dtype
    x = _floating(array)
    for axis, size, width in ((-3, kernel[0], sigma[0]), (-2, kernel[1], sigma[1])):
        half = size // 2
        places = np.linspace(-half, half, size)
        weights = np.exp(-0.5 * (places / width) ** 2)
        weights = (weights / weights.sum()).astype(x.dtype)
        margins = [(0, 0)] * x.ndim
        margins[axis] = (half, half)
        wide = np.moveaxis(np.pad(x, margins, mode="reflect"), axis, 0)
        length = x.shape[axis]
        total = weights[0] * wide[:length]
        for i in range(1, size):
            total += weights[i] * wide[i : i + length]
        x = np.moveaxis(total, 0, axis)
    return np.ascontiguousarray(x if dtype.kind in FLOATING else np.rint(x).astype(dtype))


def _range(
    value: float | Sequence[float], what: str, centre: float, low: float, high: float
) -> tuple[float, float] | None:
    """(low, high) of a factor from one number or two; None if it is never changed."""
    if isinstance(value, int | float):
        if value < 0:
            raise OptionError(f"ColorJitter: expected {what} >= 0, came {value}")
        first = centre - value
        limits = (max(first, low) if centre == 1 else first, centre + value)
    else:
        limits = (float(value[0]), float(value[1]))
    if not low <= limits[0] <= limits[1] <= high:
        raise OptionError(
            f"ColorJitter: expected an ascending range of {what} within [{low}, {high}], came "
            f"{value}"
        )
    return None if limits == (centre, centre) else limits


class ColorJitter(Transform):
    """Brightness, contrast, saturation and hue changed by random factors, in random order.

    Args:
        brightness, contrast, saturation: d for factors in [max(0, 1 - d), 1 + d], or (low, high).
        hue: d <= 0.5 for turns in [-d, d], or (low, high).
    """

    def __init__(
        self,
        brightness: float | Sequence[float] = 0,
        contrast: float | Sequence[float] = 0,
        saturation: float | Sequence[float] = 0,
        hue: float | Sequence[float] = 0,
    ) -> None:
        infinity = float("inf")
        self.brightness = _range(brightness, "brightness", 1, 0, infinity)
        self.contrast = _range(contrast, "contrast", 1, 0, infinity)
        self.saturation = _range(saturation, "saturation", 1, 0, infinity)
        self.hue = _range(hue, "hue", 0, -0.5, 0.5)

    def apply(self, array: np.ndarray, draws: Draws) -> np.ndarray:
        steps: tuple[tuple[Callable[..., np.ndarray], Any], ...] = (
            (brightness, self.brightness),
            (contrast, self.contrast),
            (saturation, self.saturation),
            (hue, self.hue),
        )
        turns = [draws.uniform() for _ in steps]
        factors = [draws.uniform() for _ in steps]
        for i in sorted(range(len(steps)), key=turns.__getitem__):
            function, limits = steps[i]
            if limits is not None:
                array = function(array, limits[0] + (limits[1] - limits[0]) * factors[i])
        return array

    def __repr__(self) -> str:
        return (
            f"ColorJitter(brightness={self.brightness}, contrast={self.contrast}, "
            f"saturation={self.saturation}, hue={self.hue})"
        )


class RandomGrayscale(Transform):
    """Grey, with probability `p`; the number of channels stays.

    Args:
        p: probability in [0, 1].
    """

    def __init__(self, p: float = 0.1) -> None:
        if not 0 <= p <= 1:
            raise OptionError(f"RandomGrayscale: expected 0 <= p <= 1, came {p}")
        self.p = p

    def apply(self, array: np.ndarray, draws: Draws) -> np.ndarray:
        if draws.uniform() >= self.p:
            return array
        return Grayscale(array.shape[-1]).apply(array, draws)

    def __repr__(self) -> str:
        return f"RandomGrayscale(p={self.p})"


class GaussianBlur(Transform):
    """Blur by a Gaussian of random width.

    Args:
        kernel_size: odd; one number, or (horizontal, vertical).
        sigma: width in pixels: one number, or a range to draw from.
    """

    def __init__(
        self, kernel_size: int | Sequence[int], sigma: float | Sequence[float] = (0.1, 2.0)
    ) -> None:
        self.kernel_size = kernel_sizes(kernel_size, "GaussianBlur")
        limits = (sigma, sigma) if isinstance(sigma, int | float) else tuple(sigma)
        if len(limits) != 2 or not 0 < limits[0] <= limits[1]:
            raise OptionError(f"GaussianBlur: expected 0 < low <= high, came sigma={sigma}")
        self.sigma = limits

    def apply(self, array: np.ndarray, draws: Draws) -> np.ndarray:
        sigma = self.sigma[0] + (self.sigma[1] - self.sigma[0]) * draws.uniform()
        return blur(array, self.kernel_size[::-1], (sigma, sigma))

    def __repr__(self) -> str:
        return f"GaussianBlur(kernel_size={self.kernel_size}, sigma={self.sigma})"


def kernel_sizes(given: int | Sequence[int], who: str) -> tuple[int, int]:
    """(horizontal, vertical) sizes of a kernel.

    Raises:
        OptionError: not odd.
    """
    sizes = (given, given) if isinstance(given, int) else tuple(given)
    if len(sizes) != 2 or any(n < 1 or n % 2 == 0 for n in sizes):
        raise OptionError(f"{who}: expected one or two odd kernel sizes, came {given}")
    return int(sizes[0]), int(sizes[1])
