"""`cupy.cuda.Stream` and `Event`: order without time.

Work is done when it is asked for, in the order in which the host asks: one of the orders that a GPU
may choose. `hazards` finds where it might choose another one with other results. What waits for
other ranks (collectives) is pending until they have come; whoever needs its result waits for it.
"""

from __future__ import annotations

import itertools
import time
import weakref
from typing import Any

from support.emulated_gpu import hazards, state
from support.emulated_gpu.capture import Graph, Recording
from support.emulated_gpu.errors import CUDARuntimeError
from support.emulated_gpu.pending import Pending
from support.emulated_gpu.state import counts, settings, thread

_numbers = itertools.count(1)
_by_pointer: weakref.WeakValueDictionary[int, Stream] = weakref.WeakValueDictionary()
_names: dict[int, str] = {}
_null: dict[int, Stream] = {}  # CUDA's default streams by device
_blocking: weakref.WeakSet[Stream] = weakref.WeakSet()


class Stream:
    """A queue of work.

    Attributes:
        number: of this stream among all.
        tick: of its last piece of work.
        clock: stream number -> the tick up to which that one's work comes before the next here.
        pending: collectives that what comes next has to wait for.
        capture: what notes its work instead of doing it.
    """

    null: Any
    ptds: Any

    def __init__(
        self,
        null: bool = False,
        non_blocking: bool = False,
        ptds: bool = False,
        priority: int | None = None,
    ) -> None:
        self.device_id = thread.device
        self.number = next(_numbers)
        self.ptr = 0 if null else 0x5EA0_0000 + 0x100 * self.number
        self.is_non_blocking = non_blocking and not null
        self.priority = priority or 0
        self.tick = 0
        self.clock: dict[int, int] = {}
        self.pending: list[Pending] = []
        self.capture: Recording | None = None
        self._before: list[Stream] = []
        _names[self.number] = str(self)
        if not null:
            _by_pointer[self.ptr] = self
            if not non_blocking:
                _blocking.add(self)

    def __str__(self) -> str:
        kind = "" if self.is_non_blocking or not self.ptr else ", blocking"
        name = "the default stream" if not self.ptr else f"stream {self.number}"
        return f"{name} (device {self.device_id}, priority {self.priority}{kind})"

    def __repr__(self) -> str:
        return f"<Stream {self.ptr} (device {self.device_id})>"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Stream) and (other.ptr, other.device_id) == (
            self.ptr,
            self.device_id,
        )

    def __hash__(self) -> int:
        return hash((self.ptr, self.device_id))

    # -- current ---------------------------------------------------------------------------------
    def use(self) -> Stream:
        """Make it this thread's current stream on its device."""
        if self.device_id != thread.device:
            raise RuntimeError(
                f"This stream is tied to device {self.device_id} but used on device "
                f"{thread.device}."
            )
        thread.streams[self.device_id] = self
        return self

    def __enter__(self) -> Stream:
        self._before.append(current())
        return self.use()

    def __exit__(self, *exc: object) -> None:
        before = self._before.pop()
        thread.streams[before.device_id] = before

    # -- order -----------------------------------------------------------------------------------
    def knows(self, other: int) -> int:
        """Up to which tick the work of a stream comes before what is asked of this one next."""
        known = self.clock.get(other, 0)
        over = hazards.completed.get(other, 0)
        return max(over, known)

    @staticmethod
    def named(number: int) -> str:
        """A stream in words."""
        return _names[number]

    def begin(self) -> int:
        """The tick of new work. CUDA's default stream waits for blocking ones, and they for it."""
        if not self.ptr:
            for other in list(_blocking):
                if other.device_id == self.device_id:
                    self._follow(other)
        elif not self.is_non_blocking and self.device_id in _null:
            self._follow(_null[self.device_id])
        self.tick += 1
        self.clock[self.number] = self.tick
        return self.tick

    def __del__(self) -> None:
        # The default stream waits for a blocking stream's work, too, when that is gone.
        if self.ptr and not self.is_non_blocking and self.device_id in _null:
            _null[self.device_id]._follow(self)

    def _follow(self, other: Stream) -> None:
        _merge(self.clock, other.clock)
        self.pending += [p for p in other.pending if not p.done]

    def settle(self) -> None:
        """Wait for collectives that work here depends on."""
        if self.pending:
            for pending in self.pending:
                pending.wait()
            self.pending = []

    def allocated(self, chunk: Any) -> None:
        """A chunk was given out of this stream's arena."""
        if self.capture is None:
            hazards.given(self, chunk)
        else:
            self.capture.given(self, chunk)

    # -- CuPy's ----------------------------------------------------------------------------------
    @property
    def done(self) -> bool:
        """Whether all its work is done."""
        self._not_captured("Stream.done")
        if not all(p.done for p in self.pending):
            return False
        _over(self.clock)
        return True

    def synchronize(self) -> None:
        """Wait on the host until all its work is done."""
        self._not_captured("Stream.synchronize()")
        counts["synchronisations"] += 1
        self.settle()
        _over(self.clock)

    def _not_captured(self, what: str) -> None:
        if self.capture is not None:
            self.capture.broken = what
            raise CUDARuntimeError(900, what)

    def record(self, event: Event | None = None) -> Event:
        """Mark this place."""
        event = event or Event()
        event.record(self)
        return event

    def wait_event(self, event: Event) -> None:
        """What comes later waits for the event."""
        state.log.append(("wait_event", self.ptr))
        if event.capture is not None:
            if event.capture.ended:
                raise CUDARuntimeError(907, "that capture has ended")
            if self.capture not in (None, event.capture):
                raise CUDARuntimeError(902)
            if not self.ptr:
                raise CUDARuntimeError(900, "the default stream cannot take part in a capture")
            event.capture.join(self)
        elif self.capture is not None and event.clock is not None:
            self.capture.broken = "an event from outside of the capture"
            raise CUDARuntimeError(905)
        if event.clock is not None:
            _merge(self.clock, event.clock)
            self.pending += [p for p in event.pending if not p.done]

    def is_capturing(self) -> bool:
        """Whether its work is noted instead of done."""
        return self.capture is not None

    def begin_capture(self, mode: int | None = None) -> None:
        """Note all work from now on instead of doing it."""
        if not self.ptr:
            raise RuntimeError("cannot capture on the default (legacy) stream")
        if self.capture is not None:
            raise CUDARuntimeError(1, "the stream is capturing already")
        Recording(self)

    def end_capture(self) -> Graph:
        """The graph of all work since `begin_capture`."""
        if self.capture is None:
            raise CUDARuntimeError(1, "the stream is not capturing")
        return self.capture.end(self)

    def launch_host_func(self, callback: Any, arg: Any) -> None:
        """Call a function of the host when all work before it is done."""
        from support.emulated_gpu import device

        device.launch("host function", lambda: callback(arg), [], [], stream=self)


class ExternalStream(Stream):
    """A stream that somebody else made, by its pointer."""

    def __new__(cls, ptr: int, device_id: int = -1) -> Any:
        return by_pointer(ptr)

    def __init__(self, ptr: int, device_id: int = -1) -> None:
        raise AssertionError("by_pointer made it")


class Event:
    """A mark in a stream.

    Attributes:
        clock: what comes before it, once it was recorded.
        capture: in which it was recorded.
    """

    def __init__(
        self, block: bool = False, disable_timing: bool = False, interprocess: bool = False
    ) -> None:
        if interprocess and not disable_timing:
            raise ValueError("Timing must be disabled for interprocess events")
        self.ptr = id(self)
        self.timing, self._at_s = not disable_timing, 0.0
        self.clock: dict[int, int] | None = None
        self.pending: list[Pending] = []
        self.capture: Recording | None = None

    def record(self, stream: Stream | None = None) -> None:
        """Mark the place that the stream (default: the current one) has come to."""
        stream = current() if stream is None else stream
        state.log.append(("record", stream.ptr))
        with state.LOCK:
            stream.begin()
            self.clock = dict(stream.clock)
        self.pending = [p for p in stream.pending if not p.done]
        self.capture = stream.capture
        self._at_s = time.perf_counter()

    @property
    def done(self) -> bool:
        """Whether the work before it is done."""
        self._not_captured()
        if not all(p.done for p in self.pending):
            return False
        if self.clock is not None:
            _over(self.clock)
        return True

    def synchronize(self) -> None:
        """Wait on the host until the work before it is done."""
        self._not_captured()
        counts["synchronisations"] += 1
        for pending in self.pending:
            pending.wait()
        if self.clock is not None:
            _over(self.clock)

    def _not_captured(self) -> None:
        if self.capture is not None:
            self.capture.broken = "a question to an event of the capture"
            raise CUDARuntimeError(907)


def get_elapsed_time(start_event: Event, end_event: Event) -> float:
    """Milliseconds between two events."""
    for event in (start_event, end_event):
        if not event.timing or event.clock is None:
            raise CUDARuntimeError(400, "an event without timing, or never recorded")
        if not all(p.done for p in event.pending):
            raise CUDARuntimeError(600)
    return (end_event._at_s - start_event._at_s) * 1000


def current(index: int = -1) -> Stream:
    """This thread's current stream on a device."""
    index = thread.device if index < 0 else index
    found = thread.streams.get(index)
    return null(index) if found is None else found


def null(index: int) -> Stream:
    """CUDA's default stream of a device."""
    found = _null.get(index)
    if found is None:
        before, thread.device = thread.device, index
        found = _null[index] = Stream(null=True)
        thread.device = before
    return found


def by_pointer(ptr: int) -> Stream:
    """The stream that a library was given the pointer of.

    Raises:
        CUDARuntimeError: there is none.
    """
    if not ptr:
        return null(thread.device)
    found = _by_pointer.get(int(ptr))
    if found is None:
        raise CUDARuntimeError(400, f"there is no stream {ptr:#x}; keep the object that made it")
    return found


def synchronize_device(index: int) -> None:
    """Wait on the host until all work of a device is done."""
    counts["synchronisations"] += 1
    for stream in [*_by_pointer.values(), *_null.values()]:
        if stream.device_id == index:
            stream._not_captured("Device.synchronize()")
            stream.settle()
            _over(stream.clock)


def follow_all(stream: Stream, devices: tuple[int, ...]) -> None:
    """What comes next in a stream waits for all work of some devices."""
    for other in [*_by_pointer.values(), *_null.values()]:
        if other.device_id in devices:
            stream._follow(other)


def go_first(stream: Stream, devices: tuple[int, ...]) -> None:
    """All that comes later on some devices waits for a stream."""
    for other in [*_by_pointer.values(), *_null.values()]:
        if other.device_id in devices and other is not stream:
            other._follow(stream)


def capturing() -> Recording | None:
    """What notes the work of this thread's current stream."""
    return current().capture


def no_capture(what: str, stream: Stream | None = None) -> None:
    """Raise as CuPy does for what cannot be captured."""
    stream = stream or current()
    if stream.capture is not None:
        raise RuntimeError(f"{what} is not allowed while a stream is capturing")


def _merge(clock: dict[int, int], other: dict[int, int]) -> None:
    for number, tick in other.items():
        if tick > clock.get(number, 0):
            clock[number] = tick


def _over(clock: dict[int, int]) -> None:
    _merge(hazards.completed, clock)


def forget_devices() -> None:
    """Another number of devices: their default streams are made anew."""
    _null.clear()
    assert settings.devices > 0
