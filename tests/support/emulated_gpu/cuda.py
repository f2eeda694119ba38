"""The stand-in for `cupy.cuda`: devices, streams, events, memory pools, graphs."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
from support.emulated_gpu import device


class _Thread(threading.local):
    def __init__(self) -> None:
        self.device = 0
        self.streams: dict[int, Stream] = {}
        self.hooks: dict[str, MemoryHook] = {}


thread = _Thread()


class Stream:
    """A queue of work; here all work is done when it is asked for."""

    null: Stream
    ptds: Stream
    _made = 0x7F00_0000

    def __init__(
        self,
        null: bool = False,
        non_blocking: bool = False,
        ptds: bool = False,
        priority: int | None = None,
    ) -> None:
        self.device_id = thread.device
        Stream._made += 0x100
        self.ptr = 0 if null else Stream._made
        self.non_blocking, self.priority = non_blocking, priority or 0
        self._before: list[Stream] = []

    def use(self) -> Stream:
        """Make it this thread's current stream on its device."""
        thread.streams[thread.device] = self
        return self

    def __enter__(self) -> Stream:
        self._before.append(get_current_stream())
        return self.use()

    def __exit__(self, *exc: object) -> None:
        self._before.pop().use()

    @property
    def done(self) -> bool:
        """Whether all its work is done."""
        return True

    def synchronize(self) -> None:
        """Wait on the host until all its work is done."""
        device.no_capture("Stream.synchronize()")
        device.counts["synchronisations"] += 1

    def record(self, event: Event | None = None) -> Event:
        """Mark this place."""
        event = event or Event()
        event.record(self)
        return event

    def wait_event(self, event: Event) -> None:
        """What comes later waits for the event."""

    def is_capturing(self) -> bool:
        """Whether work is noted instead of done."""
        return device.capture.recording is not None

    def begin_capture(self, mode: int | None = None) -> None:
        """Note all work from now on instead of doing it."""
        if self.ptr == 0:
            raise RuntimeError("cannot capture on the default (legacy) stream")
        device.capture.recording = device.Recording()

    def end_capture(self) -> Graph:
        """The graph of all work since `begin_capture`."""
        recording = device.capture.recording
        if recording is None:
            raise CUDARuntimeError("cudaErrorIllegalState: the stream is not capturing")
        device.capture.recording = None
        recording.rewind()
        return Graph(recording.actions)


class ExternalStream(Stream):
    """A stream that somebody else made, by its pointer."""

    def __init__(self, ptr: int, device_id: int = -1) -> None:
        super().__init__()
        self.ptr = ptr


class Graph:
    """Work that was noted, to be done as often as wanted."""

    def __init__(self, actions: list[Callable[[], None]]) -> None:
        self._actions = actions

    def launch(self, stream: Stream | None = None) -> None:
        """Do it once."""
        for action in self._actions:
            action()

    def upload(self, stream: Stream | None = None) -> None:
        """Prepare the first launch."""

    def debug_dot_str(self, flags: int = 0) -> str:
        """The graph as text."""
        return f"digraph {{ /* {len(self._actions)} nodes */ }}"


class Event:
    """A mark in a stream."""

    def __init__(
        self, block: bool = False, disable_timing: bool = False, interprocess: bool = False
    ) -> None:
        self.ptr = id(self)
        self.timing, self._at_s = not disable_timing, 0.0

    def record(self, stream: Stream | None = None) -> None:
        """Mark the place that the stream has come to."""
        self._at_s = time.perf_counter()

    @property
    def done(self) -> bool:
        """Whether the work before it is done."""
        return True

    def synchronize(self) -> None:
        """Wait on the host until the work before it is done."""
        device.no_capture("Event.synchronize()")
        device.counts["synchronisations"] += 1


def get_elapsed_time(start_event: Event, end_event: Event) -> float:
    """Milliseconds between two events."""
    if not (start_event.timing and end_event.timing):
        raise CUDARuntimeError("cudaErrorInvalidResourceHandle: invalid resource handle")
    return (end_event._at_s - start_event._at_s) * 1000


CUDARuntimeError = device.CUDARuntimeError


class Device:
    """One of the emulated devices."""

    def __init__(self, device: int | None = None) -> None:
        self.id = thread.device if device is None else int(device)
        self._before: list[int] = []

    def __int__(self) -> int:
        return self.id

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Device) and other.id == self.id

    def __hash__(self) -> int:
        return hash(self.id)

    def use(self) -> None:
        """Make it this thread's current device."""
        if not 0 <= self.id < runtime.getDeviceCount():
            raise CUDARuntimeError("cudaErrorInvalidDevice: invalid device ordinal")
        thread.device = self.id

    def __enter__(self) -> Device:
        self._before.append(thread.device)
        self.use()
        return self

    def __exit__(self, *exc: object) -> None:
        thread.device = self._before.pop()

    def synchronize(self) -> None:
        """Wait on the host until all its work is done."""
        device.no_capture("Device.synchronize()")
        device.counts["synchronisations"] += 1

    compute_capability = "90"

    @property
    def pci_bus_id(self) -> str:
        """Where it sits."""
        return f"0000:{self.id + 1:02X}:00.0"

    @property
    def attributes(self) -> dict[str, int]:
        """CUDA's attributes, some of them."""
        return {"MultiProcessorCount": 132, "MaxThreadsPerBlock": 1024, "WarpSize": 32}

    @property
    def mem_info(self) -> tuple[int, int]:
        """(free, total) bytes."""
        return _memory_info()


def get_current_stream(device_id: int = -1) -> Stream:
    """This thread's current stream on a device."""
    index = thread.device if device_id < 0 else device_id
    return thread.streams.get(index, Stream.null)


class MemoryHook:
    """Told of every allocation of this thread inside of a ``with`` block."""

    name = "MemoryHook"

    def __enter__(self) -> MemoryHook:
        if self.name in thread.hooks:
            raise KeyError(f"memory hook {self.name} already exists")
        thread.hooks[self.name] = self
        return self

    def __exit__(self, *_: object) -> None:
        del thread.hooks[self.name]


class MemoryPool:
    """A pool of device memory."""

    def malloc(self, size: int) -> device.Pointer:
        """Device memory."""
        host = device.empty((size,), np.dtype(np.uint8))
        return device.Pointer(host, host.ctypes.data, size)

    def used_bytes(self) -> int:
        """Bytes in use."""
        return 0

    def total_bytes(self) -> int:
        """Bytes in use or kept for later."""
        return 0

    def free_bytes(self) -> int:
        """Bytes kept for later."""
        return 0

    def free_all_blocks(self, stream: Any = None) -> None:
        """Give back what is kept for later."""
        device.no_capture("MemoryPool.free_all_blocks()")


class using_allocator:  # noqa: N801 - CuPy's name
    """This thread allocates by `allocator` inside of the ``with`` block."""

    def __init__(self, allocator: Any = None) -> None:
        self._allocator = allocator

    def __enter__(self) -> None: ...

    def __exit__(self, *exc: object) -> None: ...


class PinnedMemoryPointer(bytearray):
    """Main memory that the device reads by itself; a buffer."""

    @property
    def ptr(self) -> int:
        """Its address."""
        return np.frombuffer(self, np.uint8).ctypes.data

    def size(self) -> int:
        """Bytes."""
        return len(self)


def alloc_pinned_memory(size: int) -> Any:
    """Pinned main memory."""
    return PinnedMemoryPointer(size)


def _memory_info() -> tuple[int, int]:
    return 140 << 30, 141 << 30


def _properties(index: int) -> dict[str, Any]:
    return {
        "name": b"Emulated GPU",
        "major": 9,
        "minor": 0,
        "totalGlobalMem": 141 << 30,
        "multiProcessorCount": 132,
        "sharedMemPerBlock": 48 << 10,
        "warpSize": 32,
        "l2CacheSize": 50 << 20,
    }


runtime = SimpleNamespace(
    CUDARuntimeError=CUDARuntimeError,
    getDeviceCount=lambda: 1,
    getDevice=lambda: thread.device,
    runtimeGetVersion=lambda: 13020,
    driverGetVersion=lambda: 13000,
    memGetInfo=_memory_info,
    getDeviceProperties=_properties,
    deviceCanAccessPeer=lambda a, b: 0,
    deviceSynchronize=lambda: Device().synchronize(),
    streamCaptureModeGlobal=0,
    streamCaptureModeThreadLocal=1,
    streamCaptureModeRelaxed=2,
)
_pool = MemoryPool()


def cuda_module() -> ModuleType:
    """The module `cupy.cuda`."""
    cuda: Any = ModuleType("cupy.cuda")
    cuda.__path__ = []
    Stream.null = Stream(null=True)
    cuda.is_available = lambda: True
    cuda.runtime, cuda.Stream, cuda.Event, cuda.Device = runtime, Stream, Event, Device
    cuda.ExternalStream, cuda.Graph, cuda.MemoryHook = ExternalStream, Graph, MemoryHook
    cuda.MemoryPool, cuda.using_allocator = MemoryPool, using_allocator
    cuda.MemoryPointer, cuda.PinnedMemoryPointer = device.Pointer, PinnedMemoryPointer
    cuda.alloc_pinned_memory = alloc_pinned_memory
    cuda.get_current_stream, cuda.get_elapsed_time = get_current_stream, get_elapsed_time
    cuda.driver = SimpleNamespace(CUDADriverError=device.CUDADriverError)
    cuda.nvtx = ModuleType("cupy.cuda.nvtx")
    cuda.nvtx.RangePush = lambda message, id_color=-1: None
    cuda.nvtx.RangePop = cuda.nvtx.Mark = lambda *_: None
    return cuda
