"""Batches of images on a GPU, from a data set that lies there as bytes."""

from __future__ import annotations

from typing import Any

import cupy
import numpy as np

from ..protocol import Array
from . import device
from .kernels import blocks, launch


class Images:
    """A data set in memory of one device, and where in it the next batch begins.

    Args:
        images: uint8 (N, H, W, C).
        labels: int64 (N,).
        scale, shift: float32 (C,): images become value * scale + shift.
        samples: how many samples an epoch has.
        size: of a batch.
        seed: of the augmentation, below 2**64.
        index: the GPU.
    """

    def __init__(
        self,
        images: np.ndarray,
        labels: np.ndarray,
        scale: np.ndarray,
        shift: np.ndarray,
        samples: int,
        size: int,
        seed: int,
        index: int,
    ) -> None:
        self.shape, self.index, self.size, self.seed = images.shape[1:], index, size, seed
        with device.At(index):
            self.images, self.labels = cupy.asarray(images), cupy.asarray(labels)
            self.scale, self.shift = cupy.asarray(scale), cupy.asarray(shift)
            self.order = cupy.zeros(samples, np.int64)
            self.position = cupy.zeros(2, np.int64)

    def begin(self, order: np.ndarray, epoch: int) -> None:
        """A new epoch: its samples in this order, and the first batch is next."""
        with device.At(self.index):
            stream = device.stream()
            self.order[: len(order)].set(np.ascontiguousarray(order, np.int64), stream=stream)
            self.position.set(np.array([epoch, 0], np.int64), stream=stream)

    def batch(
        self, n: int, total: int, dtype: np.dtype[Any], look: tuple[int, ...]
    ) -> tuple[Array, Array]:
        """The next `n` images, (n, H, W, C'), and their labels; then the batch behind is next.

        Args:
            n: how many; fewer than `size` in the last batch of an epoch.
            total: samples of this epoch.
            dtype: float32, float16 or bfloat16.
            look: channels of the result, and pad, reflect, flip, cutout of `kernels/augment.cu`.
        """
        with device.At(self.index):
            height, width, channels = self.shape
            out = cupy.empty((n, height, width, look[0]), dtype)
            targets = cupy.empty(n, np.int64)
            sizes = (np.int64(n), np.int64(self.size), np.int64(total))
            plan = map(np.int32, (height, width, channels, *look))
            args = (
                self.images, self.labels, self.order, self.position, out, targets, *sizes,
                self.scale, self.shift, np.uint64(self.seed), *plan,
            )  # fmt: skip
            grid = blocks(n * height * width, 256)
            launch("image_batch", dtype, grid, (256,), args)
            launch("next_batch", None, (1,), (32,), (self.position,))
            return out, targets
