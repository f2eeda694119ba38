"""Images for people: many tensors as one picture, and tensors as image files."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from typing import IO, Any

import numpy as np

from ..dtypes import FLOATING
from ..errors import OptionError, ShapeError
from ..tensors import Tensor
from .transforms.pictures import pillow

__all__ = ["make_grid", "save_image"]


def _batch(tensor: Any) -> np.ndarray:
    """Images as one array (N, C, H, W) of 3 channels, or more than 3."""
    listed = isinstance(tensor, list | tuple)
    given = list(tensor) if listed else [tensor]
    if not given or not all(isinstance(t, Tensor) for t in given):
        kinds = sorted({type(t).__name__ for t in given}) or "nothing"
        raise TypeError(f"make_grid: expected a tensor or a list of tensors, came {kinds}")
    if listed:
        shapes = {tuple(t.shape) for t in given}
        if len(shapes) != 1:
            raise ShapeError(f"make_grid: expected images of one shape, came {sorted(shapes)}")
        images = np.stack([t.detach()._array for t in given])
    else:
        images = tensor.detach()._array
    if images.ndim == 2:
        images = images[None, None]
    elif images.ndim == 3:  # one image (C, H, W), or a list of grey ones (H, W)
        images = images[:, None] if listed else images[None]
    if images.ndim != 4:
        raise ShapeError(f"make_grid: expected images (N, C, H, W), came shape {images.shape}")
    return np.repeat(images, 3, axis=1) if images.shape[1] == 1 else images


def make_grid(
    tensor: Tensor | Sequence[Tensor],
    nrow: int = 8,
    padding: int = 2,
    normalize: bool = False,
    value_range: Sequence[float] | None = None,
    scale_each: bool = False,
    pad_value: float = 0.0,
) -> Tensor:
    """Many images as one (C, H', W').

    Args:
        tensor: images (N, C, H, W), one image (C, H, W) or (H, W), or a list of images of one
            shape. Grey ones get three equal channels.
        nrow: images in a row.
        padding: pixels between them.
        normalize: map `value_range`, or the smallest and largest value, to [0, 1].
        value_range: (low, high); values outside are cut off.
        scale_each: with `normalize`, look at each image on its own.
        pad_value: value of the pixels between.

    >>> import allgrad as ag
    >>> make_grid(ag.zeros(5, 3, 4, 6), nrow=2, padding=1).shape
    allgrad.Size([3, 16, 15])
    """
    if nrow < 1 or padding < 0:
        raise OptionError(f"make_grid: expected nrow > 0 and padding >= 0, came {nrow}, {padding}")
    images = _batch(tensor)
    if normalize:
        images = _normalized(images, value_range, scale_each)
    count, channels, height, width = images.shape
    if count == 1:
        return Tensor(images[0].copy())
    columns = min(nrow, count)
    rows = math.ceil(count / columns)
    step_y, step_x = height + padding, width + padding
    shape = (channels, rows * step_y + padding, columns * step_x + padding)
    grid = np.full(shape, pad_value, images.dtype)
    for i, image in enumerate(images):
        y, x = i // columns * step_y + padding, i % columns * step_x + padding
        grid[:, y : y + height, x : x + width] = image
    return Tensor(grid)


def _normalized(images: np.ndarray, value_range: Sequence[float] | None, each: bool) -> np.ndarray:
    if images.dtype.kind not in FLOATING:
        images = images.astype(np.float32)
    axes = (1, 2, 3) if each else None
    low: Any = images.min(axis=axes, keepdims=True)
    high: Any = images.max(axis=axes, keepdims=True)
    if value_range is not None:
        low, high = (np.asarray(v, images.dtype) for v in value_range)
    return (images.clip(low, high) - low) / np.maximum(high - low, 1e-5).astype(images.dtype)


def save_image(
    tensor: Tensor | Sequence[Tensor],
    fp: str | os.PathLike[str] | IO[bytes],
    format: str | None = None,
    **kwargs: Any,
) -> None:
    """Write an image, or a grid of images, of numbers in [0, 1] to a file.

    Args:
        tensor: as in `make_grid`.
        fp: path (its ending tells the format), or a file open for writing bytes.
        format: Pillow's name of the format, such as "PNG".
        kwargs: further arguments of `make_grid`.

    Raises:
        ImportError: Pillow is missing.
    """
    pixels = make_grid(tensor, **kwargs)._array.astype(np.float32) * 255 + 0.5
    pixels = np.ascontiguousarray(pixels.clip(0, 255).astype(np.uint8).transpose(1, 2, 0))
    pillow().fromarray(pixels).save(fp, format=format)
