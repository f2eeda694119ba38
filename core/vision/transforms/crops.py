"""Several crops of one image, for tests that average over them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ...errors import ShapeError
from .base import on_image
from .geometry import CenterCrop, pair


def five_crop(image: Any, size: int | Sequence[int]) -> tuple[Any, ...]:
    """The four corners (upper left, upper right, lower left, lower right) and the middle.

    Raises:
        ShapeError: the image is smaller than a crop.
    """
    height, width = pair(size, "five_crop")

    def corner(down: bool, right: bool) -> Any:
        def cut(array: np.ndarray) -> np.ndarray:
            missing = height > array.shape[-3] or width > array.shape[-2]
            if missing:
                raise ShapeError(
                    f"five_crop: the image is {array.shape[-3]} x {array.shape[-2]}, a crop "
                    f"{height} x {width}"
                )
            top = array.shape[-3] - height if down else 0
            left = array.shape[-2] - width if right else 0
            return array[..., top : top + height, left : left + width, :]

        return on_image(image, cut, "five_crop")

    places = ((False, False), (False, True), (True, False), (True, True))
    return (*(corner(*place) for place in places), CenterCrop((height, width))(image))


def ten_crop(image: Any, size: int | Sequence[int], vertical_flip: bool = False) -> tuple[Any, ...]:
    """The five crops of an image, and those of its mirror image."""

    def mirror(array: np.ndarray) -> np.ndarray:
        return array[..., ::-1, :, :] if vertical_flip else array[..., ::-1, :]

    return five_crop(image, size) + five_crop(on_image(image, mirror, "ten_crop"), size)


class FiveCrop:
    """The four corners and the middle of an image, as a tuple.

    Args:
        size: (height, width), or one number for both.
    """

    batchable = False

    def __init__(self, size: int | Sequence[int]) -> None:
        self.size = pair(size, "FiveCrop")

    def __call__(self, image: Any) -> tuple[Any, ...]:
        return five_crop(image, self.size)

    def __repr__(self) -> str:
        return f"FiveCrop(size={self.size})"


class TenCrop:
    """The five crops of an image and of its mirror image, as a tuple.

    Args:
        size: (height, width), or one number for both.
        vertical_flip: mirror top and bottom instead of left and right.
    """

    batchable = False

    def __init__(self, size: int | Sequence[int], vertical_flip: bool = False) -> None:
        self.size, self.vertical_flip = pair(size, "TenCrop"), vertical_flip

    def __call__(self, image: Any) -> tuple[Any, ...]:
        return ten_crop(image, self.size, self.vertical_flip)

    def __repr__(self) -> str:
        return f"TenCrop(size={self.size}, vertical_flip={self.vertical_flip})"
