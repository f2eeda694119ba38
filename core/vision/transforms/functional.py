"""Transforms as functions with given amounts, under torchvision's names.

Each takes an image in any of the forms of Note [Images]: an array (H, W, C) or (H, W), a PIL image,
or a tensor (..., C, H, W); an array or PIL image gives an array.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from ... import dtypes
from ...errors import BoundsError, OptionError
from ...tensors import Tensor
from . import colour, geometry, rotation
from .base import image_array, on_image
from .colour import kernel_sizes
from .crops import five_crop, ten_crop
from .geometry import CenterCrop, Fill
from .pictures import to_pil_image
from .resize import InterpolationMode, mode_name, output_size
from .resize import resize as resized
from .values import ConvertImageDtype, Grayscale, Normalize, PILToTensor, ToTensor

__all__ = [
    "InterpolationMode",
    "adjust_brightness",
    "adjust_contrast",
    "adjust_gamma",
    "adjust_hue",
    "adjust_saturation",
    "affine",
    "center_crop",
    "convert_image_dtype",
    "crop",
    "erase",
    "five_crop",
    "gaussian_blur",
    "get_dimensions",
    "get_image_num_channels",
    "get_image_size",
    "hflip",
    "invert",
    "normalize",
    "pad",
    "pil_to_tensor",
    "posterize",
    "resize",
    "resized_crop",
    "rgb_to_grayscale",
    "rotate",
    "solarize",
    "ten_crop",
    "to_grayscale",
    "to_pil_image",
    "to_tensor",
    "vflip",
]
Interpolation = InterpolationMode | str


# -- kinds and values ------------------------------------------------------------------------------
def to_tensor(pic: Any) -> Tensor:
    """As the transform `ToTensor`."""
    return ToTensor()(pic)


def pil_to_tensor(pic: Any) -> Tensor:
    """As the transform `PILToTensor`."""
    return PILToTensor()(pic)


def convert_image_dtype(image: Any, dtype: Any = dtypes.float32) -> Any:
    """As the transform `ConvertImageDtype`."""
    return ConvertImageDtype(dtype)(image)


def normalize(
    tensor: Tensor, mean: Sequence[float], std: Sequence[float], inplace: bool = False
) -> Tensor:
    """As the transform `Normalize`."""
    return Normalize(mean, std, inplace)(tensor)


def get_dimensions(img: Any) -> list[int]:
    """[channels, height, width]."""
    if isinstance(img, Tensor):
        return [int(img.shape[-3]) if img.ndim > 2 else 1, int(img.shape[-2]), int(img.shape[-1])]
    array = image_array(img, "get_dimensions")
    return [array.shape[2] if array.ndim == 3 else 1, array.shape[0], array.shape[1]]


def get_image_size(img: Any) -> list[int]:
    """[width, height]."""
    return get_dimensions(img)[:0:-1]


def get_image_num_channels(img: Any) -> int:
    """Number of channels."""
    return get_dimensions(img)[0]


# -- geometry --------------------------------------------------------------------------------------
def hflip(img: Any) -> Any:
    """Left becomes right."""
    return on_image(img, lambda array: array[..., ::-1, :], "hflip")


def vflip(img: Any) -> Any:
    """Top becomes bottom."""
    return on_image(img, lambda array: array[..., ::-1, :, :], "vflip")


def crop(img: Any, top: int, left: int, height: int, width: int) -> Any:
    """A window; what of it lies outside of the image is 0."""

    def cut(array: np.ndarray) -> np.ndarray:
        rows, columns = array.shape[-3:-1]
        sides = (
            max(-left, 0), max(-top, 0),
            max(left + width - columns, 0), max(top + height - rows, 0),
        )  # fmt: skip
        if any(sides):
            array = geometry.pad(array, sides, 0, "constant")
        y, x = top + sides[1], left + sides[0]
        return array[..., y : y + height, x : x + width, :]

    if height < 1 or width < 1:
        raise OptionError(f"crop: expected height and width > 0, came {height} x {width}")
    return on_image(img, cut, "crop")


def center_crop(img: Any, output_size: int | Sequence[int]) -> Any:
    """As the transform `CenterCrop`."""
    return CenterCrop(output_size)(img)


def pad(
    img: Any, padding: int | Sequence[int], fill: Fill = 0, padding_mode: str = "constant"
) -> Any:
    """As the transform `Pad`."""
    return geometry.Pad(padding, fill, padding_mode)(img)


def resize(
    img: Any,
    size: int | Sequence[int],
    interpolation: Interpolation = InterpolationMode.BILINEAR,
    max_size: int | None = None,
    antialias: bool | None = True,
) -> Any:
    """As the transform `Resize`."""
    mode = mode_name(interpolation)

    def change(array: np.ndarray) -> np.ndarray:
        height, width = array.shape[-3:-1]
        to = output_size(height, width, size, max_size, "resize")
        return resized(array, to, mode, bool(antialias))

    return on_image(img, change, "resize")


def resized_crop(
    img: Any,
    top: int,
    left: int,
    height: int,
    width: int,
    size: int | Sequence[int],
    interpolation: Interpolation = InterpolationMode.BILINEAR,
    antialias: bool | None = True,
) -> Any:
    """A window, resized."""
    return resize(crop(img, top, left, height, width), size, interpolation, None, antialias)


def rotate(
    img: Any,
    angle: float,
    interpolation: Interpolation = InterpolationMode.NEAREST,
    expand: bool = False,
    center: Sequence[float] | None = None,
    fill: Any = None,
) -> Any:
    """Rotate by `angle` degrees counter-clockwise; see `RandomRotation`."""
    mode = mode_name(interpolation, ("nearest", "bilinear"))
    return on_image(
        img,
        lambda array: rotation.rotate(array, math.radians(angle), mode, fill, expand, center),
        "rotate",
    )


def affine(
    img: Any,
    angle: float,
    translate: Sequence[float],
    scale: float,
    shear: float | Sequence[float],
    interpolation: Interpolation = InterpolationMode.NEAREST,
    fill: Any = None,
    center: Sequence[float] | None = None,
) -> Any:
    """Shear (degrees), scale, rotate by `angle` degrees clockwise, and move by pixels (x, y)."""
    mode = mode_name(interpolation, ("nearest", "bilinear"))
    if scale <= 0:
        raise OptionError(f"affine: expected scale > 0, came {scale}")
    given = [shear] if isinstance(shear, int | float) else list(shear)
    both = (given[0], given[1] if len(given) > 1 else 0.0)

    def change(array: np.ndarray) -> np.ndarray:
        height, width = array.shape[-3:-1]
        middle = rotation.middle(center, height, width)
        move = (translate[0], translate[1])
        matrix = rotation.inverse(math.radians(angle), move, scale, both, middle)
        return rotation.warp(array, matrix, (height, width), mode, fill)

    return on_image(img, change, "affine")


def erase(img: Tensor, i: int, j: int, h: int, w: int, v: Any, inplace: bool = False) -> Tensor:
    """Overwrite the window of `h` rows from `i` and `w` columns from `j` by `v`."""
    if not isinstance(img, Tensor):
        raise TypeError(f"erase: expected a tensor, came {type(img).__name__}")
    if not (0 <= i <= i + h <= img.shape[-2] and 0 <= j <= j + w <= img.shape[-1]):
        raise BoundsError(
            f"erase: the window of {h} x {w} from ({i}, {j}) is not within {tuple(img.shape)}"
        )
    out = img if inplace else img.clone()
    out[..., i : i + h, j : j + w] = v
    return out


# -- colours ---------------------------------------------------------------------------------------
def rgb_to_grayscale(img: Any, num_output_channels: int = 1) -> Any:
    """As the transform `Grayscale`."""
    return Grayscale(num_output_channels)(img)


to_grayscale = rgb_to_grayscale


def adjust_brightness(img: Any, brightness_factor: float) -> Any:
    """0 gives black, 1 the image, 2 twice the brightness."""
    return on_image(img, lambda a: colour.brightness(a, brightness_factor), "adjust_brightness")


def adjust_contrast(img: Any, contrast_factor: float) -> Any:
    """0 gives the mean grey, 1 the image."""
    return on_image(img, lambda a: colour.contrast(a, contrast_factor), "adjust_contrast")


def adjust_saturation(img: Any, saturation_factor: float) -> Any:
    """0 gives the grey image, 1 the image."""
    return on_image(img, lambda a: colour.saturation(a, saturation_factor), "adjust_saturation")


def adjust_hue(img: Any, hue_factor: float) -> Any:
    """Turn the circle of colours by a share in [-0.5, 0.5]."""
    return on_image(img, lambda a: colour.hue(a, hue_factor), "adjust_hue")


def adjust_gamma(img: Any, gamma: float, gain: float = 1) -> Any:
    """``gain * image ** gamma`` on values in [0, 1]."""
    return on_image(img, lambda a: colour.gamma(a, gamma, gain), "adjust_gamma")


def invert(img: Any) -> Any:
    """White becomes black."""
    return on_image(img, colour.invert, "invert")


def posterize(img: Any, bits: int) -> Any:
    """Keep the upper `bits` of each uint8 value."""
    if not 0 <= bits <= 8:
        raise OptionError(f"posterize: expected 0 to 8 bits, came {bits}")

    def change(array: np.ndarray) -> np.ndarray:
        if array.dtype != np.uint8:
            raise TypeError(f"posterize: expected uint8, came {array.dtype}")
        return array & np.uint8(-(2 ** (8 - bits)) & 255)

    return on_image(img, change, "posterize")


def solarize(img: Any, threshold: float) -> Any:
    """Invert the values of at least `threshold`."""
    return on_image(img, lambda a: np.where(a >= threshold, colour.invert(a), a), "solarize")


def gaussian_blur(
    img: Any, kernel_size: int | Sequence[int], sigma: float | Sequence[float] | None = None
) -> Any:
    """Blur by a Gaussian.

    Args:
        kernel_size: odd; one number, or (horizontal, vertical).
        sigma: width in pixels, or (horizontal, vertical); default 0.15 kernel_size + 0.35.
    """
    sizes = kernel_sizes(kernel_size, "gaussian_blur")
    if sigma is None:
        widths = (sizes[0] * 0.15 + 0.35, sizes[1] * 0.15 + 0.35)
    else:
        given = (sigma, sigma) if isinstance(sigma, int | float) else tuple(sigma)
        widths = (given[0], given[-1])
    if min(widths) <= 0:
        raise OptionError(f"gaussian_blur: expected sigma > 0, came {sigma}")
    return on_image(img, lambda a: colour.blur(a, sizes[::-1], widths[::-1]), "gaussian_blur")
