"""The device that this thread works on, its stream, and the capture that is under way.

Imports: CuPy, `availability`. All work of a process on one device goes to one stream, made here:
not CUDA's default stream, which would wait for every other one. Threads share it, so arrays may
pass between them; communication has streams of its own (`allgrad.ddp`).
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import cupy

from ...errors import DeviceError
from .. import arrays
from . import availability

arrays.register(cupy.ndarray)

_streams: dict[int, Any] = {}
_lock = threading.Lock()


class _Thread(threading.local):
    def __init__(self) -> None:
        self.index = -1  # none yet


_thread = _Thread()


class Capture:
    """A CUDA graph that is being captured.

    Attributes:
        callbacks: called before every launch of the graph, in order.
        kept: what the graph's memory depends on; lives as long as the graph.
    """

    def __init__(self) -> None:
        self.callbacks: list[Callable[[], None]] = []
        self.kept: list[Any] = []


_captures: dict[int, Capture] = {}  # those under way, by device: ranks may be threads


def count() -> int:
    """The number of GPUs that can be used."""
    return availability.count()


def current() -> int:
    """The number of the device that this thread works on."""
    if _thread.index < 0:
        use(availability.first())
    return _thread.index


def use(index: int) -> None:
    """Work on this device from now on, on its compute stream.

    Raises:
        DeviceError: there is no such device.
    """
    if index == _thread.index:
        return
    reason = availability.why_not()
    if reason is not None:
        raise DeviceError(f"device 'cuda:{index}': {reason}")
    if not 0 <= index < availability.count():
        raise DeviceError(
            f"device 'cuda:{index}': expected a number below {availability.count()}, the number of "
            "GPUs that this process sees"
        )
    availability.used()
    cupy.cuda.Device(index).use()
    with _lock:
        if index not in _streams:
            _streams[index] = cupy.cuda.Stream(non_blocking=True)
    _streams[index].use()
    _thread.index = index


def stream() -> Any:
    """The compute stream of the device that this thread works on."""
    return _streams[current()]


class At:
    """Work on a device inside of a ``with`` block, which gets the array module."""

    __slots__ = ("_before", "_index")

    def __init__(self, index: int | None) -> None:
        self._index = index

    def __enter__(self) -> Any:
        self._before = current()
        use(self._before if self._index is None else self._index)
        return cupy

    def __exit__(self, *exc: object) -> None:
        use(self._before)


def synchronize(index: int | None = None) -> None:
    """Wait until the device has done all that was asked of it."""
    with At(index):
        cupy.cuda.Device(current()).synchronize()


def capturing(index: int | None = None) -> bool:
    """Whether a CUDA graph is being captured on a device (default: that of this thread)."""
    return bool(_captures) and (_thread.index if index is None else index) in _captures


def under_way(index: int | None = None) -> Capture | None:
    """The capture that is under way on a device (default: that of this thread), or None."""
    return _captures.get(current() if index is None else index)


def begin_capture(capture: Capture) -> None:
    """`capture` is under way from now on.

    Raises:
        DeviceError: another one is.
    """
    if current() in _captures:
        raise DeviceError(f"cuda.capture: another capture is under way on cuda:{current()}")
    _captures[current()] = capture


def end_capture() -> None:
    """The capture that was under way is over."""
    _captures.pop(current(), None)


def lasting(shape: Any, dtype: Any) -> Any:
    """Memory that the host fills between replays, such as settings and tables of addresses.

    It never comes from the pool of a capture: other work of the graph may have had that memory
    before, and would write to it again in every replay. Whoever captures keeps it.
    """
    with cupy.cuda.using_allocator(cupy.get_default_memory_pool().malloc):
        return cupy.empty(shape, dtype)


def on_replay(callback: Callable[[], None]) -> None:
    """Call it on the host before every launch of the graph that is being captured."""
    _captures[current()].callbacks.append(callback)


def keep(value: Any) -> None:
    """Keep `value` alive as long as the graph that is being captured."""
    _captures[current()].kept.append(value)
