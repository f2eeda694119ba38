"""Gradients of many parameters on a GPU: loss scaling, and clipping by the norm of all.

Nothing here waits for the GPU: norms, scales and whether all is finite stay in device memory.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import cupy
import numpy as np

from ...errors import DeviceError
from ..protocol import Array
from . import device
from .kernels import launch
from .tables import Row, Table, by_type, table_of

_BLOCK = (256,)
_SLOTS = 16


def _table(arrays: Sequence[Array], index: int) -> tuple[Table, tuple[Array, np.int32]]:
    table = table_of([Row(None, array) for array in arrays], index)
    return table, (table.array, np.int32(table.tensors))


def norm(arrays: Sequence[Array], index: int, most: float = math.inf) -> Array:
    """float32 {norm of all, min(1, most / (norm + 1e-6))}; the order of summation is fixed.

    Raises:
        Unsupported: an array that kernels do not serve.
    """
    groups = by_type(arrays)
    with device.At(index):
        tables = [_table(group, index) for group in groups]
        partial = cupy.empty(sum(table.chunks for table, _ in tables), np.float64)
        first = 0
        for (table, head), group in zip(tables, groups, strict=True):
            part = partial[first : first + table.chunks]
            launch("grads_squares", group[0].dtype, (table.chunks,), _BLOCK, (*head, part))
            first += table.chunks
        out = cupy.empty(2, np.float32)
        args = (partial, np.int64(first), np.float32(most), out)
        launch("grads_norm", None, (1,), _BLOCK, args)
        return out


def clip(arrays: Sequence[Array], index: int, coefficient: Array) -> None:
    """Multiply by a float32 in device memory, unless it is 1 or more: then nothing is moved.

    Raises:
        Unsupported: an array that kernels do not serve; then none was changed.
    """
    with device.At(index):
        for group in by_type(arrays):
            table, head = _table(group, index)
            args = (*head, coefficient)
            launch("grads_clip", group[0].dtype, (table.chunks,), _BLOCK, args)


class LossScale:
    """A loss scale in device memory.

    Args:
        index: the GPU.
        scale, tracker: the scale, and for how many good steps it has stood.

    Attributes:
        scale: float32 {scale, 1 / scale}.
        tracker: int32 (1,).
        found: float32, for each optimizer whether it met gradients that are not finite.
    """

    def __init__(self, index: int, scale: float, tracker: int) -> None:
        self.index = index
        if device.capturing():
            raise DeviceError(
                "cuda.capture: a GradScaler scaled its first loss inside of the captured step, so "
                "every replay would start from the first scale. Make one step before"
            )
        with device.At(index):
            self.scale = cupy.empty(2, np.float32)
            self.tracker = cupy.empty(1, np.int32)
            self.found = cupy.zeros(_SLOTS, np.float32)
        self.set(scale, tracker)

    def set(self, scale: float, tracker: int | None = None) -> None:
        """Start from this scale (and count)."""
        with device.At(self.index):
            self.scale[0:1].fill(np.float32(scale))
            self.scale[1:2].fill(np.float32(1.0 / np.float32(scale)))
            if tracker is not None:
                self.tracker.fill(tracker)

    def slot(self, number: int) -> Array:
        """Where optimizer `number` notes what it met, (1,)."""
        place: Array = self.found[number % _SLOTS : number % _SLOTS + 1]
        return place

    def unscale(self, arrays: Sequence[Array], found: Array, writes: bool) -> None:
        """Look whether all is finite, and with `writes` divide by the scale.

        Raises:
            Unsupported: an array that kernels do not serve; then none was changed.
        """
        with device.At(self.index):
            for group in by_type(arrays):
                table, head = _table(group, self.index)
                args = (*head, self.scale, found, np.int32(writes))
                launch("grads_unscale", group[0].dtype, (table.chunks,), _BLOCK, args)

    def update(self, growth: float, backoff: float, interval: int) -> None:
        """The end of an iteration: adapt the scale, and forget what was found."""
        numbers = (np.float32(growth), np.float32(backoff), np.int32(interval))
        with device.At(self.index):
            args = (self.scale, self.tracker, self.found, np.int32(_SLOTS), *numbers)
            launch("scale_update", None, (1,), (32,), args)
