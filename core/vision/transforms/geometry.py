"""Transforms that move pixels without changing them: padding, crops, flips."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import as_strided

from ...errors import OptionError, ShapeError
from ...utils.data.streams import BatchDraws, Draws
from .base import ImageBatch, Transform

PAD_MODES = {
    "constant": "constant",
    "edge": "edge",
    "reflect": "reflect",
    "symmetric": "symmetric",
}
Fill = float | Sequence[float]


def pair(size: int | Sequence[int], who: str) -> tuple[int, int]:
    """(height, width) from one number or two."""
    pair = (size, size) if isinstance(size, int) else tuple(size)
    if len(pair) == 1:
        pair = (pair[0], pair[0])
    if len(pair) != 2 or min(pair) < 1:
        raise OptionError(f"{who}: expected a size or (height, width), both > 0, came {size}")
    return int(pair[0]), int(pair[1])


def sides_of(padding: int | Sequence[int], who: str) -> tuple[int, int, int, int]:
    """(left, top, right, bottom) from one number, (left/right, top/bottom) or all four."""
    numbers = (padding,) if isinstance(padding, int) else tuple(padding)
    if len(numbers) not in (1, 2, 4) or min(numbers) < 0:
        raise OptionError(f"{who}: expected 1, 2 or 4 paddings >= 0, came {padding}")
    left, top, right, bottom = (numbers * 4)[:4] if len(numbers) != 4 else numbers
    return left, top, right, bottom


def pad(array: np.ndarray, sides: tuple[int, ...], fill: Fill, mode: str) -> np.ndarray:
    """(..., H, W, C) with margins (left, top, right, bottom)."""
    left, top, right, bottom = sides
    height, width, channels = array.shape[-3:]
    if mode != "constant":
        widths = [(0, 0)] * (array.ndim - 3) + [(top, bottom), (left, right), (0, 0)]
        return np.pad(array, widths, mode=mode)  # type: ignore[call-overload]
    values = np.asarray(fill, dtype=array.dtype)
    if values.ndim and len(values) not in (1, channels):
        raise ShapeError(f"pad: {len(values)} fill values for an image of {channels} channels")
    shape = (*array.shape[:-3], height + top + bottom, width + left + right, channels)
    out = np.zeros(shape, array.dtype)
    if values.any():
        out[...] = values
    out[..., top : top + height, left : left + width, :] = array
    return out


class Pad(Transform):
    """Add a border.

    Args:
        padding: one number, (left and right, top and bottom), or (left, top, right, bottom).
        fill: value of the border, or one per channel; only for mode "constant".
        padding_mode: "constant", "edge", "reflect" or "symmetric".
    """

    def __init__(
        self, padding: int | Sequence[int], fill: Fill = 0, padding_mode: str = "constant"
    ) -> None:
        if padding_mode not in PAD_MODES:
            raise OptionError.unknown("padding_mode", padding_mode, PAD_MODES)
        self.padding, self.fill, self.padding_mode = padding, fill, padding_mode
        self._sides = sides_of(padding, type(self).__name__)

    def apply(self, array: np.ndarray, draws: Draws) -> np.ndarray:
        return pad(array, self._sides, self.fill, self.padding_mode)

    def batch(self, images: ImageBatch, draws: BatchDraws) -> ImageBatch:
        """Many images at once."""
        images.array = pad(images.array, self._sides, self.fill, self.padding_mode)
        return images

    def __repr__(self) -> str:
        return f"Pad(padding={self.padding}, fill={self.fill}, padding_mode={self.padding_mode})"


class CenterCrop(Transform):
    """The middle of an image; a smaller image is padded with zeros.

    Args:
        size: height and width, or one number for both.
    """

    def __init__(self, size: int | Sequence[int]) -> None:
        self.size = pair(size, "CenterCrop")

    def apply(self, array: np.ndarray, draws: Draws) -> np.ndarray:
        height, width = self.size
        missing_h = max(0, height - array.shape[-3])
        missing_w = max(0, width - array.shape[-2])
        if missing_h or missing_w:
            # Source: torchvision, which puts the odd pixel to the right and below.
            left, top = missing_w // 2, missing_h // 2
            sides = (left, top, missing_w - left, missing_h - top)
            array = pad(array, sides, 0, "constant")
        top = round((array.shape[-3] - height) / 2.0)
        left = round((array.shape[-2] - width) / 2.0)
        return array[..., top : top + height, left : left + width, :]

    def batch(self, images: ImageBatch, draws: BatchDraws) -> ImageBatch:
        """Many images at once."""
        images.array = self.apply(images.array, None)  # type: ignore[arg-type]  # draws nothing
        return images

    def __repr__(self) -> str:
        return f"CenterCrop(size={self.size})"


class RandomCrop(Transform):
    """A window at a random place.

    Args:
        size: height and width of the window, or one number for both.
        padding: border added first: one number, (left and right, top and bottom), or
            (left, top, right, bottom).
        pad_if_needed: pad an image that is smaller than the window.
        fill: value of the border, or one per channel.
        padding_mode: "constant", "edge", "reflect" or "symmetric".

    Raises:
        ShapeError: the image is smaller than the window.
    """

    def __init__(
        self,
        size: int | Sequence[int],
        padding: int | Sequence[int] | None = None,
        pad_if_needed: bool = False,
        fill: Fill = 0,
        padding_mode: str = "constant",
    ) -> None:
        if padding_mode not in PAD_MODES:
            raise OptionError.unknown("padding_mode", padding_mode, PAD_MODES)
        self.size = pair(size, "RandomCrop")
        self.padding, self.pad_if_needed = padding, pad_if_needed
        self.fill, self.padding_mode = fill, padding_mode
        self._border = (0, 0, 0, 0) if padding is None else sides_of(padding, "RandomCrop")

    def _sides_for(self, height: int, width: int) -> tuple[int, int, int, int]:
        """All the padding an image of that size gets."""
        left, top, right, bottom = self._border
        if self.pad_if_needed:
            extra_w = max(0, self.size[1] - (width + left + right))
            extra_h = max(0, self.size[0] - (height + top + bottom))
            left, right = left + extra_w, right + extra_w
            top, bottom = top + extra_h, bottom + extra_h
        if height + top + bottom < self.size[0] or width + left + right < self.size[1]:
            raise ShapeError(
                f"RandomCrop: the image is {height + top + bottom} x {width + left + right} with "
                f"its padding, the window {self.size[0]} x {self.size[1]}; use pad_if_needed=True"
            )
        return left, top, right, bottom

    def apply(self, array: np.ndarray, draws: Draws) -> np.ndarray:
        height, width, channels = array.shape[-3:]
        sides = left, top, right, bottom = self._sides_for(height, width)
        out_h, out_w = self.size
        y = draws.integer(0, height + top + bottom - out_h + 1)
        x = draws.integer(0, width + left + right - out_w + 1)
        if self.padding_mode != "constant" or self.fill != 0 or array.ndim != 3:
            padded = pad(array, sides, self.fill, self.padding_mode)
            return padded[..., y : y + out_h, x : x + out_w, :]
        # Only the part of the window that lies on the image is copied, nothing is padded first.
        y, x = y - top, x - left
        if y >= 0 and x >= 0 and y + out_h <= height and x + out_w <= width:
            return array[y : y + out_h, x : x + out_w]
        out = np.zeros((out_h, out_w, channels), array.dtype)
        y0, y1, x0, x1 = max(y, 0), min(y + out_h, height), max(x, 0), min(x + out_w, width)
        if y0 < y1 and x0 < x1:
            out[y0 - y : y1 - y, x0 - x : x1 - x] = array[y0:y1, x0:x1]
        return out

    def batch(self, images: ImageBatch, draws: BatchDraws) -> ImageBatch:
        """Many images at once: one gather from all windows of the padded images."""
        count, height, width, channels = images.array.shape
        sides = left, top, right, bottom = self._sides_for(height, width)
        out_h, out_w = self.size
        rows, columns = height + top + bottom - out_h + 1, width + left + right - out_w + 1
        y, x = draws.integer(0, rows), draws.integer(0, columns)
        padded = np.ascontiguousarray(pad(images.array, sides, self.fill, self.padding_mode))
        per_image, per_row, per_pixel, per_value = padded.strides
        windows = as_strided(
            padded,
            (count, rows, columns, out_h, out_w * channels),
            (per_image, per_row, per_pixel, per_row, per_value),
            writeable=False,
        )
        chosen = windows[np.arange(count), y, x]
        images.array = chosen.reshape(count, out_h, out_w, channels)
        return images

    def __repr__(self) -> str:
        return f"RandomCrop(size={self.size}, padding={self.padding})"


class _RandomFlip(Transform):
    def __init__(self, p: float = 0.5) -> None:
        if not 0 <= p <= 1:
            raise OptionError(f"{type(self).__name__}: expected 0 <= p <= 1, came {p}")
        self.p = p

    def __repr__(self) -> str:
        return f"{type(self).__name__}(p={self.p})"


class RandomHorizontalFlip(_RandomFlip):
    """Left becomes right, with probability `p`.

    Args:
        p: probability in [0, 1].
    """

    def apply(self, array: np.ndarray, draws: Draws) -> np.ndarray:
        return array[..., ::-1, :] if draws.uniform() < self.p else array

    def batch(self, images: ImageBatch, draws: BatchDraws) -> ImageBatch:
        """Many images at once."""
        chosen = np.flatnonzero(draws.uniform() < self.p)
        before = images.array[chosen]
        flipped = np.empty_like(before)
        for c in range(before.shape[-1]):  # a pixel of 3 bytes is slow to move, a plane is not
            flipped[..., c] = before[..., ::-1, c]
        images.array = _owned(images.array)
        images.array[chosen] = flipped
        return images


class RandomVerticalFlip(_RandomFlip):
    """Top becomes bottom, with probability `p`.

    Args:
        p: probability in [0, 1].
    """

    def apply(self, array: np.ndarray, draws: Draws) -> np.ndarray:
        return array[..., ::-1, :, :] if draws.uniform() < self.p else array

    def batch(self, images: ImageBatch, draws: BatchDraws) -> ImageBatch:
        """Many images at once."""
        chosen = np.flatnonzero(draws.uniform() < self.p)
        images.array = _owned(images.array)
        images.array[chosen] = images.array[chosen][:, ::-1]
        return images


def _owned(array: Any) -> np.ndarray:
    """`array`, or a copy where several of its elements share memory or it is read-only."""
    return array if array.flags.writeable else array.copy()
