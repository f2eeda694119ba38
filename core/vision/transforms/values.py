"""Transforms of the values of pixels: to tensors, other dtypes, normalised, grey."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ... import dtypes
from ...errors import DtypeError, OptionError, ShapeError
from ...tensors import Tensor
from ...utils.data.streams import BatchDraws, Draws
from .base import ImageBatch, Transform, image_array, to_chw, to_hwc

_255 = np.float32(255)
_RED, _GREEN, _BLUE = np.float32(0.2989), np.float32(0.587), np.float32(0.114)
# Up to here a whole image of means is kept; broadcasting only 3 numbers is several times slower.
_MAX_TILE = 1 << 16


class ToTensor(Transform):
    """An image (H, W, C) or (H, W) to a float32 tensor (C, H, W).

    uint8 is scaled to [0, 1], bool becomes 0 and 1, other dtypes are kept as they are (as
    PyTorch does for arrays). The tensor is channels-last in memory.
    """

    def __call__(self, image: Any) -> Tensor:
        if isinstance(image, Tensor):
            raise DtypeError("ToTensor: expected an image array, came a Tensor; drop this step")
        array = image_array(image, "ToTensor")
        return Tensor(to_chw(_scaled(array if array.ndim == 3 else array[..., None])))

    def batch(self, images: ImageBatch, draws: BatchDraws) -> ImageBatch:
        """Many images at once."""
        return ImageBatch(_scaled(images.array), is_tensor=True)


def _scaled(array: np.ndarray) -> np.ndarray:
    """A C-contiguous copy, float32 in [0, 1] if `array` holds bytes."""
    if array.dtype == np.uint8:
        out = np.empty(array.shape, np.float32)
        return np.divide(array, _255, out=out)
    return array.astype(np.float32 if array.dtype == np.bool_ else array.dtype, order="C")


class PILToTensor(Transform):
    """An image (H, W, C) or (H, W) to a tensor (C, H, W) of the same dtype, not scaled."""

    def __call__(self, image: Any) -> Tensor:
        array = image_array(image, "PILToTensor")
        return Tensor(to_chw(np.array(array if array.ndim == 3 else array[..., None])))

    def batch(self, images: ImageBatch, draws: BatchDraws) -> ImageBatch:
        """Many images at once."""
        return ImageBatch(images.array, is_tensor=True)


def converted(array: np.ndarray, target: np.dtype[Any]) -> np.ndarray:
    """`array` in `target`, its values scaled to the range of that dtype."""
    if array.dtype == target:
        return array
    if target.kind in dtypes.FLOATING:
        if array.dtype.kind in dtypes.FLOATING:
            return array.astype(target)
        return array.astype(target) / target.type(np.iinfo(array.dtype).max)
    top = np.iinfo(target).max
    if array.dtype.kind in dtypes.FLOATING:
        # Source: torchvision; the small number keeps 1.0 from rounding past the maximum.
        return (array * (top + 1.0 - 1e-3)).astype(target)
    shift = np.iinfo(array.dtype).max.bit_length() - int(top).bit_length()
    if shift >= 0:
        return (array >> shift).astype(target)
    return array.astype(target) << -shift


class ConvertImageDtype(Transform):
    """Another dtype, with the values scaled to its range: [0, 1] for floating, 0..max for integers.

    Args:
        dtype: an allgrad dtype.
    """

    def __init__(self, dtype: dtypes.dtype) -> None:
        self.dtype = dtype

    def apply(self, array: np.ndarray, draws: Draws) -> np.ndarray:
        return converted(array, dtypes.to_numpy(self.dtype))

    def batch(self, images: ImageBatch, draws: BatchDraws) -> ImageBatch:
        """Many images at once."""
        images.array = self.apply(images.array, None)  # type: ignore[arg-type]  # draws nothing
        return images

    def __repr__(self) -> str:
        return f"ConvertImageDtype({self.dtype!r})"


class Normalize(Transform):
    """``(image - mean) / std`` per channel, for a floating tensor (..., C, H, W).

    Args:
        mean, std: one number per channel; `std` must not contain 0.
        inplace: write into the tensor given.

    Raises:
        OptionError: lengths differ or a `std` is 0. DtypeError: an integer or plain image.
        ShapeError: the number of channels differs.
    """

    def __init__(self, mean: Sequence[float], std: Sequence[float], inplace: bool = False) -> None:
        self.mean, self.std, self.inplace = mean, std, inplace
        self._mean = np.atleast_1d(np.asarray(mean, dtype=np.float64))
        self._std = np.atleast_1d(np.asarray(std, dtype=np.float64))
        if len(self._mean) != len(self._std) or self._mean.ndim != 1:
            raise OptionError(f"Normalize: mean {mean} and std {std} need one number per channel")
        if (self._std == 0).any():
            raise OptionError(f"Normalize: std {std} contains 0, which would divide by it")
        self._tiles: dict[tuple[Any, ...], tuple[np.ndarray, np.ndarray]] = {}

    def __call__(self, tensor: Tensor) -> Tensor:
        if not isinstance(tensor, Tensor):
            raise DtypeError(
                f"Normalize: expected a tensor, came {type(tensor).__name__}; put ToTensor first"
            )
        array = to_hwc(tensor._array)
        if not self.inplace:
            return Tensor(to_chw(self.apply(array, None)))  # type: ignore[arg-type]
        self._check(array)
        mean, std = (v.astype(array.dtype)[:, None, None] for v in (self._mean, self._std))
        tensor.sub_(Tensor(mean)).div_(Tensor(std))
        return tensor

    def _check(self, array: np.ndarray) -> None:
        if array.dtype.kind not in dtypes.FLOATING:
            raise DtypeError(
                f"Normalize: expected a floating tensor, came {array.dtype}; put ToTensor or "
                "ConvertImageDtype first"
            )
        if len(self._mean) not in (1, array.shape[-1]):
            raise ShapeError(
                f"Normalize: {len(self._mean)} means for an image of {array.shape[-1]} channels"
            )

    def _tile(self, array: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Means and stds spread over an image, or over a row if the image is large."""
        key = (*array.shape[-3:], array.dtype)
        tiles = self._tiles.get(key)
        if tiles is None:
            shape = key[:3] if np.prod(key[:3]) <= _MAX_TILE else key[1:3]
            tiles = tuple(  # type: ignore[assignment]
                np.ascontiguousarray(np.broadcast_to(v.astype(array.dtype), shape))
                for v in (self._mean, self._std)
            )
            self._tiles[key] = tiles  # type: ignore[assignment]
        return tiles  # type: ignore[return-value]

    def apply(self, array: np.ndarray, draws: Draws) -> np.ndarray:
        self._check(array)
        mean, std = self._tile(array)
        out = array - mean
        out /= std
        return out

    def batch(self, images: ImageBatch, draws: BatchDraws) -> ImageBatch:
        """Many images at once, in place."""
        if not images.is_tensor:
            raise DtypeError("Normalize: expected tensors, came plain images; put ToTensor first")
        self._check(images.array)
        mean, std = self._tile(images.array)
        images.array -= mean
        images.array /= std
        return images

    def __repr__(self) -> str:
        return f"Normalize(mean={self.mean}, std={self.std})"


class Grayscale(Transform):
    """Colour (3 channels) to grey: 0.2989 R + 0.587 G + 0.114 B, truncated for integers.

    Args:
        num_output_channels: 1, or 3 equal ones.
    """

    def __init__(self, num_output_channels: int = 1) -> None:
        if num_output_channels not in (1, 3):
            raise OptionError.unknown("num_output_channels", num_output_channels, (1, 3))
        self.num_output_channels = num_output_channels

    def apply(self, array: np.ndarray, draws: Draws) -> np.ndarray:
        if array.shape[-1] == 1:
            grey = array
        elif array.shape[-1] == 3:
            red, green, blue = (array[..., c : c + 1] for c in range(3))
            grey = red * _RED + green * _GREEN + blue * _BLUE
            grey = grey.astype(array.dtype)
        else:
            raise ShapeError(f"Grayscale: expected 1 or 3 channels, came {array.shape[-1]}")
        return np.repeat(grey, self.num_output_channels, axis=-1)

    def batch(self, images: ImageBatch, draws: BatchDraws) -> ImageBatch:
        """Many images at once."""
        flat = images.flat and self.num_output_channels == 1
        return ImageBatch(
            self.apply(images.array, None),  # type: ignore[arg-type]  # draws nothing
            images.is_tensor,
            flat,
        )

    def __repr__(self) -> str:
        return f"Grayscale(num_output_channels={self.num_output_channels})"
