"""The stand-in for `cupy.cuda`: devices, streams, events, memory pools, graphs."""

from __future__ import annotations

from types import ModuleType, SimpleNamespace
from typing import Any

from support.emulated_gpu import memory, streams
from support.emulated_gpu.capture import Graph
from support.emulated_gpu.errors import CUDADriverError, CUDARuntimeError, OutOfMemoryError
from support.emulated_gpu.state import settings, thread
from support.emulated_gpu.streams import Event, Stream


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
            raise CUDARuntimeError(101, f"device {self.id} of {settings.devices}")
        thread.device = self.id

    def __enter__(self) -> Device:
        self._before.append(thread.device)
        self.use()
        return self

    def __exit__(self, *exc: object) -> None:
        thread.device = self._before.pop()

    def synchronize(self) -> None:
        """Wait on the host until all its work is done."""
        streams.synchronize_device(self.id)

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


def _memory_info() -> tuple[int, int]:
    return settings.memory_bytes - memory.default_pool.total_bytes(), settings.memory_bytes


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
    getDeviceCount=lambda: settings.devices,
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


_MEMORY = (
    "Memory", "MemoryHook", "MemoryPointer", "MemoryPool", "PinnedMemoryPointer", "UnownedMemory",
    "alloc", "alloc_pinned_memory", "get_allocator", "set_allocator", "using_allocator",
)  # fmt: skip


def cuda_module() -> ModuleType:
    """The module `cupy.cuda`."""
    cuda: Any = ModuleType("cupy.cuda")
    cuda.__path__ = []
    streams.Stream.null = streams.null(0)
    cuda.is_available = lambda: True
    cuda.runtime, cuda.Device = runtime, Device
    cuda.Stream, cuda.ExternalStream, cuda.Event = Stream, streams.ExternalStream, Event
    cuda.get_current_stream, cuda.get_elapsed_time = streams.current, streams.get_elapsed_time
    cuda.Graph = Graph
    cuda.driver = SimpleNamespace(CUDADriverError=CUDADriverError)
    for name in _MEMORY:
        setattr(cuda, name, getattr(memory, name))
    cuda.memory = SimpleNamespace(**{n: getattr(memory, n) for n in _MEMORY})
    cuda.memory.OutOfMemoryError = OutOfMemoryError
    cuda.get_device_id = lambda: thread.device
    cuda.nvtx = ModuleType("cupy.cuda.nvtx")
    cuda.nvtx.available = True
    cuda.nvtx.RangePush = lambda message, id_color=-1: None
    cuda.nvtx.RangePop = lambda: None
    cuda.nvtx.Mark = lambda message, id_color=-1: None
    return cuda
