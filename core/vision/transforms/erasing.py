"""Random erasing: a rectangle of the image is overwritten.

Source: Zhong et al. 2017, "Random erasing data augmentation", algorithm 1.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from ...errors import DtypeError, OptionError, ShapeError
from ...tensors import Tensor
from ...utils.data.streams import BatchDraws, Draws
from .base import ImageBatch, Transform

_TRIES = 10


class RandomErasing(Transform):
    """Overwrite a random rectangle, with probability `p`; works on tensors, after `ToTensor`.

    Args:
        p: probability that anything is erased.
        scale: range of the rectangle's share of the area.
        ratio: range of its height over its width.
        value: a number, one per channel, or "random" for standard normal noise.
        inplace: accepted; the result is always a new tensor.
    """

    def __init__(
        self,
        p: float = 0.5,
        scale: Sequence[float] = (0.02, 0.33),
        ratio: Sequence[float] = (0.3, 3.3),
        value: float | Sequence[float] | str = 0,
        inplace: bool = False,
    ) -> None:
        if not 0 <= p <= 1:
            raise OptionError(f"RandomErasing: expected 0 <= p <= 1, came {p}")
        if not 0 <= scale[0] <= scale[1] <= 1 or not 0 < ratio[0] <= ratio[1]:
            raise OptionError(
                f"RandomErasing: expected ascending scale in [0, 1] and ratio > 0, came {scale}, "
                f"{ratio}"
            )
        if isinstance(value, str) and value != "random":
            raise OptionError.unknown("value", value, ("a number", "numbers", "random"))
        self.p, self.scale, self.ratio, self.value = p, scale, ratio, value
        self.inplace = inplace

    def __call__(self, image: Any) -> Any:
        if not isinstance(image, Tensor):
            raise DtypeError(
                f"RandomErasing: expected a tensor, came {type(image).__name__}; put it after "
                "ToTensor"
            )
        return super().__call__(image)

    def batch(self, images: ImageBatch, draws: BatchDraws) -> ImageBatch:
        """Many images, one after the other."""
        if not images.is_tensor:
            raise DtypeError("RandomErasing: expected tensors, came images; put it after ToTensor")
        return super().batch(images, draws)

    def apply(self, array: np.ndarray, draws: Draws) -> np.ndarray:
        if draws.uniform() >= self.p:
            return array
        place = self._rectangle(array.shape[-3], array.shape[-2], draws)
        if place is None:
            return array
        y, x, height, width = place
        out = array.copy()
        out[..., y : y + height, x : x + width, :] = self._values(array, height, width, draws)
        return out

    def _rectangle(self, height: int, width: int, draws: Draws) -> tuple[int, int, int, int] | None:
        """(y, x, height, width), or None if no draw fits into the image."""
        log_low, log_high = math.log(self.ratio[0]), math.log(self.ratio[1])
        for _ in range(_TRIES):
            share = self.scale[0] + (self.scale[1] - self.scale[0]) * draws.uniform()
            ratio = math.exp(log_low + (log_high - log_low) * draws.uniform())
            h = round(math.sqrt(height * width * share * ratio))
            w = round(math.sqrt(height * width * share / ratio))
            if h < height and w < width:
                y = draws.integer(0, height - h + 1)
                x = draws.integer(0, width - w + 1)
                return y, x, h, w
        return None

    def _values(self, array: np.ndarray, height: int, width: int, draws: Draws) -> Any:
        channels = array.shape[-1]
        if self.value == "random":
            noise = np.random.Generator(np.random.Philox(draws.integer(0, 2**32)))
            return noise.standard_normal((height, width, channels)).astype(array.dtype)
        values = np.asarray(self.value, dtype=array.dtype)
        if values.ndim and len(values) not in (1, channels):
            raise ShapeError(
                f"RandomErasing: {len(values)} values for an image of {channels} channels"
            )
        return values

    def __repr__(self) -> str:
        return (
            f"RandomErasing(p={self.p}, scale={self.scale}, ratio={self.ratio}, value={self.value})"
        )
