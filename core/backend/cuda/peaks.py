"""How many bytes tensors hold on each device, and the most that they held.

CuPy's pool counts what is in use; peaks need a look at every allocation, so they are watched only
once somebody has asked.
"""

from __future__ import annotations

import threading
from typing import Any

import cupy

from . import device

_lock = threading.Lock()
_peak: dict[int, int] = {}
_peak_reserved: dict[int, int] = {}


class _Watch(cupy.cuda.MemoryHook):  # type: ignore[misc]
    """Counts bytes in use on the device at every allocation and release."""

    name = "allgrad peaks"

    def __init__(self) -> None:
        self.used: dict[int, int] = {}

    def malloc_postprocess(self, **about: Any) -> None:
        index = int(about["device_id"])
        with _lock:
            self.used[index] = self.used.get(index, 0) + int(about["mem_size"])
            _peak[index] = max(_peak.get(index, 0), self.used[index])

    def free_postprocess(self, **about: Any) -> None:
        index = int(about["device_id"])
        with _lock:
            self.used[index] = self.used.get(index, 0) - int(about["mem_size"])


_watching: list[_Watch] = []


def used(index: int) -> int:
    """Bytes of tensors on a device."""
    with device.At(index):
        return int(cupy.get_default_memory_pool().used_bytes())


def reserved(index: int) -> int:
    """Bytes that the pool holds on a device."""
    with device.At(index):
        total = int(cupy.get_default_memory_pool().total_bytes())
    _peak_reserved[index] = max(total, _peak_reserved.get(index, 0))
    return total


def peak(index: int) -> int:
    """The most bytes of tensors on a device since `reset`, or since this was first asked."""
    if not _watching:
        reset(index)
    return _peak.get(index, used(index))


def peak_reserved(index: int) -> int:
    """The most bytes that the pool held whenever somebody asked."""
    reserved(index)
    return _peak_reserved[index]


def reset(index: int) -> None:
    """Forget the peak: what is in use now is the most."""
    if not _watching:
        watch = _Watch()
        _watching.append(watch)
        watch.__enter__()  # in this thread, to the end of the process
    now = used(index)
    _watching[0].used[index] = now
    _peak[index] = now
    _peak_reserved.pop(index, None)
