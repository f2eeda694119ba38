"""Streams and events of a GPU, as scripts use them to measure times.

Note [One stream]: all of a process's work on one GPU goes to one stream, which is not CUDA's
default stream. `Stream` objects are names for it: code that moves work to a side stream and back,
as PyTorch's manual does before a capture, is right here and loses nothing but the concurrency.
Communication has streams of its own, which events put in order (`allgrad.ddp`).
"""

from __future__ import annotations

from typing import Any

from ..errors import UnsupportedInputError
from .info import driver, index_of


class Stream:
    """The queue of a GPU's work; see Note [One stream].

    Args:
        device: the GPU; default: the current one.
        priority: accepted as in PyTorch, without effect.

    Attributes:
        device_index: the number of its GPU.
    """

    def __init__(self, device: Any = None, priority: int = 0) -> None:
        state = driver("Stream")
        self.device_index = index_of("Stream", device)
        with state.At(self.device_index):
            self._stream = state.stream()

    @property
    def cuda_stream(self) -> int:
        """Its handle."""
        return int(self._stream.ptr)

    def synchronize(self) -> None:
        """Wait on the host until all its work is done."""
        self._stream.synchronize()

    def query(self) -> bool:
        """Whether all its work is done."""
        return bool(self._stream.done)

    def wait_stream(self, stream: Stream) -> None:
        """What comes later in this stream waits for all that is in `stream` now."""
        self.wait_event(stream.record_event())

    def wait_event(self, event: Event) -> None:
        """What comes later in this stream waits for `event`."""
        self._stream.wait_event(event._cupy())

    def record_event(self, event: Event | None = None) -> Event:
        """Mark this place in the stream; returns the event."""
        event = event or Event()
        event.record(self)
        return event

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Stream) and self.cuda_stream == other.cuda_stream

    def __hash__(self) -> int:
        return hash(self.cuda_stream)

    def __repr__(self) -> str:
        place = f"device=cuda:{self.device_index}"
        return f"<allgrad.cuda.Stream {place} cuda_stream={self.cuda_stream:#x}>"


class Event:
    """A mark in a stream.

    Args:
        enable_timing: whether times between events can be asked for.
        blocking: whether `synchronize` sleeps instead of spinning.
        interprocess: accepted as in PyTorch; must be False.

    Raises:
        RuntimeError: no GPU can be used.
        UnsupportedInputError: `interprocess` is set.
    """

    def __init__(
        self, enable_timing: bool = False, blocking: bool = False, interprocess: bool = False
    ) -> None:
        driver("Event")
        if interprocess:
            raise UnsupportedInputError(
                "cuda.Event: interprocess=True is not supported: events stay in their process. "
                "Leave it False, and let ranks wait for each other by ddp.barrier()"
            )
        self._options = {"block": blocking, "disable_timing": not enable_timing}
        self._event: Any = None

    def _cupy(self) -> Any:
        if self._event is None:
            import cupy  # noqa: PLC0415 - there is a GPU

            self._event = cupy.cuda.Event(**self._options)
        return self._event

    def record(self, stream: Stream | None = None) -> None:
        """Mark the place that `stream` (default: the current one) has come to."""
        self._cupy().record((stream or current_stream())._stream)

    def wait(self, stream: Stream | None = None) -> None:
        """What comes later in `stream` waits for this event."""
        (stream or current_stream()).wait_event(self)

    def query(self) -> bool:
        """Whether the work before it is done; True if it was never recorded."""
        return self._event is None or bool(self._event.done)

    def synchronize(self) -> None:
        """Wait on the host until the work before it is done."""
        if self._event is not None:
            self._event.synchronize()

    def elapsed_time(self, end_event: Event) -> float:
        """Milliseconds from this event to `end_event`, both recorded with `enable_timing`."""
        import cupy  # noqa: PLC0415 - there is a GPU

        return float(cupy.cuda.get_elapsed_time(self._cupy(), end_event._cupy()))


def current_stream(device: Any = None) -> Stream:
    """The stream that work on a GPU goes to.

    Raises:
        RuntimeError: no GPU can be used.
    """
    return Stream(index_of("current_stream", device))


def default_stream(device: Any = None) -> Stream:
    """The stream that work on a GPU goes to, as `current_stream`."""
    return Stream(index_of("default_stream", device))


class StreamContext:
    """Work on the GPU of `stream` inside of the ``with`` block; None changes nothing."""

    def __init__(self, stream: Stream | None) -> None:
        self.stream = stream

    def __enter__(self) -> None:
        if self.stream is not None:
            self._at = driver("stream").At(self.stream.device_index)
            self._at.__enter__()

    def __exit__(self, *exc: object) -> None:
        if self.stream is not None:
            self._at.__exit__(*exc)


def stream(stream: Stream | None) -> StreamContext:
    """``with allgrad.cuda.stream(s):``, see `StreamContext`."""
    return StreamContext(stream)
