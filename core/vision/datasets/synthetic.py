"""Images that are made up but can be learnt, in the shape of real data sets.

For benchmarks and trials without a network. A figure obtained with them says nothing about real
images, and every report must say so.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ...errors import OptionError
from ...utils.data.dataset import Dataset
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
        turns = size // num_classes * num_classes
        # broadcast: an array of patterns as large as the data would take as long as the noise
        data[:turns].reshape(-1, *patterns.shape)[...] += patterns
        data[turns:] += patterns[: size - turns]
        self.data = data[..., 0] if channels == 1 else data


class FakeData(Dataset[tuple[Any, Any]]):
    """Random images and classes, each a function of its index; nothing can be learnt from them.

    An image is a uint8 array (H, W, C), where torchvision gives a PIL image.

    Args:
        size: number of images.
        image_size: (C, H, W).
        num_classes: number of classes.
        transform, target_transform: applied to image and class.
        random_offset: other numbers give other images.

    >>> image, target = FakeData(10, (3, 8, 8))[2]
    >>> image.shape, 0 <= target < 10
    ((8, 8, 3), True)
    """

    def __init__(
        self,
        size: int = 1000,
        image_size: Sequence[int] = (3, 224, 224),
        num_classes: int = 10,
        transform: Callable[[Any], Any] | None = None,
        target_transform: Callable[[Any], Any] | None = None,
        random_offset: int = 0,
    ) -> None:
        if len(image_size) != 3 or min(*image_size, num_classes) < 1 or size < 0:
            raise OptionError(
                "FakeData: expected image_size (C, H, W) and positive numbers, came "
                f"image_size={tuple(image_size)}, num_classes={num_classes}, size={size}"
            )
        self.size, self.image_size, self.num_classes = size, tuple(image_size), num_classes
        self.transform, self.target_transform = transform, target_transform
        self.random_offset = random_offset

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> tuple[Any, Any]:
        if not 0 <= index < self.size:
            raise IndexError(f"FakeData: expected an index within 0..{self.size - 1}, came {index}")
        numbers = np.random.Generator(np.random.Philox([self.random_offset, index]))
        channels, height, width = self.image_size
        image: Any = numbers.integers(0, 256, (height, width, channels), dtype=np.uint8)
        target: Any = int(numbers.integers(0, self.num_classes))
        if self.transform is not None:
            image = self.transform(image)
        if self.target_transform is not None:
            target = self.target_transform(target)
        return image, target


def _patterns(shape: tuple[int, int, int, int], seed: int) -> np.ndarray:
    """uint8 (classes, H, W, C) of blocks a quarter of an image wide."""
    classes, height, width, channels = shape
    random = np.random.Generator(np.random.Philox([seed, 0]))
    coarse = random.random((classes, _COARSE, _COARSE, channels))
    rows = np.arange(height) * _COARSE // height
    columns = np.arange(width) * _COARSE // width
    fine = coarse[:, rows][:, :, columns]
    return (_DARK + _CONTRAST * fine).astype(np.uint8)
