"""Images on a GPU: batches by one kernel, also inside of a captured step."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import cupy
import numpy as np

from ...errors import DeviceError, ShapeError
from ..images import Augmentation, ImageStore
from ..protocol import Array
from . import device, transfer
from .kernels import launch

_THREADS = 256
_MOST_BLOCKS = 1 << 16
_SHARED_BYTES = 48 << 10


class CudaImageStore(ImageStore):
    """An `ImageStore` on a GPU; arguments as there, arrays from anywhere.

    Those that lie on this GPU already are shared, not copied.

    Args:
        index: which GPU.

    Raises:
        ShapeError: also for so many channels that their table is too large.
    """

    xp = cupy

    def __init__(
        self,
        images: Array,
        labels: Array,
        augmentation: Augmentation,
        dtype: np.dtype[Any],
        index: int,
        by_place: bool = False,
    ) -> None:
        self.index = index
        self._recorded = False
        table_bytes = 258 * images.shape[-1] * dtype.itemsize
        if table_bytes > _SHARED_BYTES:
            raise ShapeError(
                f"images of {images.shape[-1]} channels: expected at most "
                f"{_SHARED_BYTES // (258 * dtype.itemsize)} for {dtype}, whose table fits a GPU's "
                "shared memory"
            )
        with device.At(index):
            super().__init__(images, labels, augmentation, dtype, by_place)

    def begin(self, order: np.ndarray, seed: int, epoch: int, passed: int = 0) -> None:
        with device.At(self.index):
            super().begin(order, seed, epoch, passed)

    def fetch(self, count: int) -> tuple[Array, Array]:
        with device.At(self.index):
            return super().fetch(count)

    def recording(self) -> device.Capture | None:
        return device.under_way(self.index)

    def on_replay(self, callback: Callable[[], None]) -> None:
        with device.At(self.index):
            device.on_replay(callback)
            device.keep(self)
        self._recorded = True

    def _placed(self, array: Array) -> Array:
        if isinstance(array, np.ndarray):
            return transfer.to_device(np.ascontiguousarray(array), self.index)
        if int(array.device.id) != self.index:
            array = transfer.to_other_device(array, self.index)
        return cupy.ascontiguousarray(array)

    def _lasting(self, size: int, dtype: Any) -> Array:
        return device.lasting(size, dtype)

    def _copy(self, order: np.ndarray) -> None:
        self._order[: len(order)].set(np.ascontiguousarray(order), stream=device.stream())

    def _grow(self, size: int) -> None:
        if self._recorded:
            raise DeviceError(
                f"cuda.capture: an epoch of {size} images is longer than those when the step was "
                f"captured, up to {len(self._order)}. Call reset() of the captured step before"
            )
        super()._grow(size)

    def _run(self, name: str, dtype: Any, blocks: int, args: tuple[Any, ...]) -> None:
        shared = self._table_bytes if name == "augment" else 0
        grid, block = (min(blocks, _MOST_BLOCKS),), (_THREADS if name == "augment" else 32,)
        launch(name, dtype, grid, block, args, shared_mem=shared)
