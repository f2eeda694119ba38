"""Images that are made up but can be learnt, in the shape of real data sets.

For benchmarks and trials without a network. A figure obtained with them says nothing about real
images, and every report must say so.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ...errors import OptionError
from .images import ImageDataset

_COARSE = 4
_DARK, _CONTRAST, _NOISE = 24, 128, 96


class SyntheticImages(ImageDataset):
    """A coarse random pattern per class, under noise.

    Args:
        shape: (C, H, W) of an image; (1, 28, 28) looks like MNIST, (3, 32, 32) like CIFAR.
        num_classes: number of patterns.
        size: number of images; the classes come in turn.
        seed: fixes patterns and noise.
        train: other noise on the same patterns for training and for testing.
        transform, target_transform: applied to image (H, W, C), or (H, W) if C is 1, and class.

    Raises:
        OptionError: a number is not positive.

    >>> SyntheticImages((3, 32, 32), num_classes=10, size=100).data.shape
    (100, 32, 32, 3)
    """

    def __init__(
        self,
        shape: Sequence[int] = (1, 28, 28),
        num_classes: int = 10,
        size: int = 10_000,
        seed: int = 0,
        *,
        train: bool = True,
        transform: Callable[[Any], Any] | None = None,
        target_transform: Callable[[Any], Any] | None = None,
    ) -> None:
        super().__init__(None, transform, target_transform)
        if len(shape) != 3 or min(*shape, num_classes, size) < 1:
            raise OptionError(
                "SyntheticImages: expected shape (C, H, W) and positive numbers, came "
                f"shape={tuple(shape)}, num_classes={num_classes}, size={size}"
            )
        self.train = train
        self.classes = tuple(f"pattern {i}" for i in range(num_classes))
        channels, height, width = shape
        patterns = _patterns((num_classes, height, width, channels), seed)
        self.targets = np.arange(size, dtype=np.int64) % num_classes
        noise = np.random.Generator(np.random.Philox([seed, 1 if train else 2]))
        data = noise.integers(0, _NOISE, (size, height, width, channels), dtype=np.uint8)
        data += patterns[self.targets]
        self.data = data[..., 0] if channels == 1 else data


def _patterns(shape: tuple[int, int, int, int], seed: int) -> np.ndarray:
    """uint8 (classes, H, W, C) of blocks a quarter of an image wide."""
    classes, height, width, channels = shape
    random = np.random.Generator(np.random.Philox([seed, 0]))
    coarse = random.random((classes, _COARSE, _COARSE, channels))
    rows = np.arange(height) * _COARSE // height
    columns = np.arange(width) * _COARSE // width
    fine = coarse[:, rows][:, :, columns]
    return (_DARK + _CONTRAST * fine).astype(np.uint8)
