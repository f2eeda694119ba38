"""Arrays cross process borders without being copied through a pipe.

Stage: below the worker processes. An object is pickled, but its large arrays are laid into one
block of anonymous shared memory whose file descriptor is sent along. Such a block has no name:
nothing is left in /dev/shm whatever happens to either side, `kill -9` included.
"""

from __future__ import annotations

import io
import mmap
import os
import pickle
import tempfile
import weakref
from collections import deque
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ...tensors import Tensor

# Below this an array travels inside the pickle; two page faults cost about as much.
_MIN_BYTES = 8192
_ALIGN = 64
_PAGE = 1 << 16


@dataclass(slots=True)
class Packed:
    """A pickle, and the large arrays that stay outside of it.

    Attributes:
        payload: the pickle.
        slots: per array: offset in the block, shape in memory order, axes, dtype.
        arrays: the arrays, on the sending side.
        size: bytes that the block must have.
    """

    payload: bytes = b""
    slots: list[tuple[int, tuple[int, ...], tuple[int, ...], str]] = field(default_factory=list)
    arrays: list[np.ndarray] = field(default_factory=list)
    size: int = 0

    def write(self, memory: Any) -> None:
        """Copy the arrays to their places in `memory` (a writable buffer of `size` bytes)."""
        for (offset, shape, _, dtype), array in zip(self.slots, self.arrays, strict=True):
            np.copyto(np.ndarray(shape, np.dtype(dtype), memory, offset), array)

    def equals(self, other: Packed, memory: Any) -> bool:
        """True if `other`, whose arrays lie in `memory`, is the same object."""
        if (self.payload, self.slots) != (other.payload, other.slots):
            return False
        return all(
            np.array_equal(np.ndarray(shape, np.dtype(dtype), memory, offset), array)
            for (offset, shape, _, dtype), array in zip(self.slots, self.arrays, strict=True)
        )


class _Pickler(pickle.Pickler):
    """Replaces large arrays and plain tensors by (slot number, is a tensor)."""

    def __init__(self, file: io.BytesIO, packed: Packed) -> None:
        super().__init__(file, protocol=5)
        self._packed = packed
        self._slots: dict[int, int] = {}

    def persistent_id(self, obj: Any) -> tuple[int, bool] | None:
        is_tensor = type(obj) is Tensor and not obj.requires_grad
        if not is_tensor and type(obj) is not np.ndarray:
            return None
        array = obj._array if is_tensor else obj
        if array.nbytes < _MIN_BYTES or array.dtype.kind not in "biufc":
            return None
        if id(array) not in self._slots:
            self._slots[id(array)] = self._add(array)
        return self._slots[id(array)], is_tensor

    def _add(self, array: np.ndarray) -> int:
        packed = self._packed
        # Outermost axis first, so that channels-last memory stays channels-last.
        axes = tuple(sorted(range(array.ndim), key=lambda d: -abs(array.strides[d])))
        ordered = array.transpose(axes)
        packed.slots.append((packed.size, ordered.shape, axes, array.dtype.str))
        packed.arrays.append(ordered)
        packed.size += -(-array.nbytes // _ALIGN) * _ALIGN
        return len(packed.slots) - 1


class _Unpickler(pickle.Unpickler):
    def __init__(self, packed: Packed, memory: Any, copy: bool) -> None:
        super().__init__(io.BytesIO(packed.payload))
        self._packed, self._memory, self._copy = packed, memory, copy

    def persistent_load(self, pid: tuple[int, bool]) -> Any:
        number, is_tensor = pid
        offset, shape, axes, dtype = self._packed.slots[number]
        array = np.ndarray(shape, np.dtype(dtype), self._memory, offset)
        if self._copy:
            array = array.copy()
        array = array.transpose(np.argsort(axes))
        return Tensor(array) if is_tensor else array


def pack(obj: Any) -> Packed:
    """Pickle `obj`, large arrays apart; raises what pickle raises."""
    packed, file = Packed(), io.BytesIO()
    _Pickler(file, packed).dump(obj)
    packed.payload = file.getvalue()
    return packed


def unpack(packed: Packed, memory: Any, copy: bool = False) -> Any:
    """Rebuild the object; its large arrays are views of `memory`, or copies."""
    return _Unpickler(packed, memory, copy).load()


def new_block(size: int) -> tuple[int, int]:
    """An anonymous shared block: (file descriptor, size rounded up)."""
    size = max(_PAGE, -(-size // _PAGE) * _PAGE)
    if hasattr(os, "memfd_create"):
        fd = os.memfd_create("allgrad")
    else:
        with tempfile.TemporaryFile() as file:  # has no name either
            fd = os.dup(file.fileno())
    os.ftruncate(fd, size)
    return fd, size


def map_block(fd: int, size: int, private: bool = False) -> mmap.mmap:
    """Map a block; `private` makes writes invisible to the other side (copy on write)."""
    return mmap.mmap(fd, size, flags=mmap.MAP_PRIVATE if private else mmap.MAP_SHARED)


class Leases:
    """Receiving side of recycled blocks: which are still looked at by arrays of the user.

    Args:
        limit: blocks in use at once before batches are copied out instead; keeps a user who
            collects all batches from exhausting the process's memory mappings.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._blocks: dict[int, mmap.mmap] = {}
        self._leased = 0
        self._collected = 0
        # A deque because arrays die in any thread, and its operations are atomic.
        self._free: deque[int] = deque()

    def add(self, number: int, fd: int, size: int) -> None:
        """Learn of a new block; takes the descriptor over."""
        self._blocks[number] = map_block(fd, size)
        os.close(fd)

    def unpack(self, packed: Packed, number: int) -> Any:
        """Rebuild a batch; when its last array dies, block `number` counts as free again."""
        if number < 0:
            return unpack(packed, None)
        lease = np.frombuffer(self._blocks[number], dtype=np.uint8)
        copy = self._leased - self._collected - len(self._free) >= self._limit
        self._leased += 1
        weakref.finalize(lease, self._free.append, number).atexit = False
        return unpack(packed, lease, copy)

    def drop(self, number: int) -> None:
        """A batch in block `number` is not wanted."""
        if number >= 0:
            self._leased += 1
            self._free.append(number)

    def take_free(self) -> list[int]:
        """The blocks that became free since the last call."""
        freed = []
        while self._free:
            freed.append(self._free.popleft())
        self._collected += len(freed)
        return freed
