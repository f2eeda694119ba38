"""From tensors and arrays to PIL images. Pillow is imported when it is first needed."""

from __future__ import annotations

from typing import Any

import numpy as np

from ...dtypes import FLOATING
from ...errors import DtypeError, ShapeError
from ...tensors import Tensor
from .base import image_array, to_hwc


def pillow() -> Any:
    """Pillow's module Image.

    Raises:
        ImportError: it is missing; the message says how to install it.
    """
    try:
        from PIL import Image  # noqa: PLC0415 - optional
    except ImportError as err:
        raise ImportError(
            "images and image files need the package Pillow: pip install allgrad[images]"
        ) from err
    return Image


def to_pil_image(pic: Any, mode: str | None = None) -> Any:
    """A PIL image.

    Args:
        pic: a tensor (C, H, W) or (H, W) of uint8, or of floating numbers in [0, 1]; or an array
            (H, W, C) or (H, W) of uint8.
        mode: Pillow's name of the colour space; default by the number of channels: "L", "LA",
            "RGB" or "RGBA".

    Raises:
        ShapeError: not such an image. DtypeError: another dtype. ImportError: Pillow is missing.
    """
    if isinstance(pic, Tensor):
        array = pic.detach()._array
        if array.ndim not in (2, 3):
            raise ShapeError(
                f"to_pil_image: expected a tensor (C, H, W) or (H, W), came {array.shape}"
            )
        array = array[..., None] if array.ndim == 2 else to_hwc(array)
        if array.dtype.kind in FLOATING:
            array = (array * array.dtype.type(255)).astype(np.uint8)
    else:
        array = image_array(pic, "to_pil_image")
        array = array[..., None] if array.ndim == 2 else array
    if array.dtype != np.uint8:
        raise DtypeError(f"to_pil_image: expected uint8, or a floating tensor, came {array.dtype}")
    if array.shape[-1] not in (1, 2, 3, 4):
        raise ShapeError(f"to_pil_image: expected 1 to 4 channels, came {array.shape[-1]}")
    array = np.ascontiguousarray(array[..., 0] if array.shape[-1] == 1 else array)
    image = pillow().fromarray(array)
    return (
        image
        if mode is None or mode == image.mode
        else pillow().frombytes(mode, image.size, image.tobytes())
    )


class ToPILImage:
    """A tensor or array to a PIL image; see `functional.to_pil_image`.

    Args:
        mode: Pillow's name of the colour space; default by the number of channels.
    """

    batchable = False

    def __init__(self, mode: str | None = None) -> None:
        self.mode = mode

    def __call__(self, pic: Any) -> Any:
        return to_pil_image(pic, self.mode)

    def __repr__(self) -> str:
        return f"ToPILImage(mode={self.mode})"
