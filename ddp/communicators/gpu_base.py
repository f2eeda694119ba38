"""What communicators for arrays of a GPU have in common: a stream, and the host's ranks.

Stage of the flow: below `nccl` and `staged`. Imports CuPy. May import: `base`, `gpu`, `local`,
`allgrad.backend`.

Note [Streams of communication]
    A collective waits for what its caller's stream has done so far (an event, recorded there), runs
    on the communicator's own stream of high priority, and records an event at its end.
    ``Work.wait()`` makes the stream of whoever calls it wait for that event; the host goes on.
    Memory belongs to the stream that it was allocated under, and is used again as soon as nobody
    holds it, whatever another stream still does with it. So nothing is allocated under the
    communicator's stream, and a Work holds its arrays until ``wait()`` was called, or the device is
    known to be done.
"""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Sequence
from typing import Any, NoReturn

import cupy

from allgrad.backend import arrays
from allgrad.backend.cuda import device
from allgrad.ddp.communicators import gpu
from allgrad.ddp.communicators.base import Communicator, Work, check_array
from allgrad.ddp.communicators.local import LocalCommunicator
from allgrad.errors import DeviceError, DistributedError

ALIGNMENT_BYTES = 256  # of gradients in buckets: what CUDA's own allocations have


class GpuCommunicator(Communicator):
    """Base of `NcclCommunicator` and `StagedCommunicator`.

    Args:
        control: the communicator of the same ranks for arrays of main memory.
        name: "nccl" or "staged".

    Attributes:
        control: as given.
        index: number of the GPU whose arrays are served.
        stream: on which they travel.
    """

    # a launch costs this core more than a link gains by many small buckets
    has_wire = False

    def __init__(self, control: Communicator, name: str) -> None:
        self.control = control
        self.rank, self.size, self.name = control.rank, control.size, name
        self.timeout_s = control.timeout_s
        self.home, self.members = control.home, control.members
        self.index = device.current()
        self.stream = cupy.cuda.Stream(non_blocking=True, priority=-1)
        self.closed = False

    def of(self, array: Any) -> Communicator:
        return self if arrays.on_device(array) else self.control

    def now(self) -> float:
        return self.control.now()

    def allocate(self, size_bytes: int) -> Any:
        """Zeroed memory of the GPU, aligned to 256 bytes at least."""
        return cupy.zeros(size_bytes, cupy.uint8)

    def check(self, what: str, array: Any, in_place: bool = False) -> None:
        """Refuse arrays that are not in one piece on this communicator's GPU."""
        self.check_open(what)
        if not arrays.on_device(array):
            raise DeviceError(
                f"{self.where} {what}: this rank gave an array of main memory where an array of a "
                "GPU was expected; all arrays of one collective must lie on the GPU"
            )
        check_array(self, what, array, in_place)
        if int(array.device.id) != self.index:
            raise DeviceError(
                f"{self.where} {what}: the array lies on cuda:{int(array.device.id)}, but this "
                f"rank communicates from cuda:{self.index}; call cuda.set_device before the first "
                "collective, and keep to one GPU per rank"
            )

    def check_open(self, what: str) -> None:
        """Refuse a collective after `close`."""
        if self.closed:
            raise DistributedError(f"{self.where} {what} after the communicator was closed")

    def all_gather_object(self, value: Any) -> list[Any]:
        return self.control.all_gather_object(value)

    def broadcast_object(self, value: Any, root: int = 0) -> Any:
        return self.control.broadcast_object(value, root)

    def abort(self, code: int) -> None:
        self.control.abort(code)


class EventWork:
    """A collective under way on a GPU. See Note [Streams of communication].

    Args:
        kept: arrays that must not be used for anything else before it has ended.
        captured: whether it is a part of a CUDA graph, whose events cannot be asked.
        timed: whether `times` is wanted.
        sequence: its number in the flight record.

    Attributes:
        done: recorded behind it.
        source: of a message that is received, the sender.
        timed: as given.
    """

    __slots__ = ("_asked", "_captured", "_started", "done", "kept", "sequence", "source", "timed")

    on_gpu = True  # its times are those of the GPU, not the host's

    def __init__(
        self, kept: Sequence[Any], captured: bool, sequence: int = 0, timed: bool = False
    ) -> None:
        self.kept: Sequence[Any] = kept
        self.timed = timed and not captured
        self.done: Any = cupy.cuda.Event(disable_timing=not self.timed)
        self._started: Any = cupy.cuda.Event() if self.timed else None
        self._asked: Any = None
        self.sequence = sequence
        self.source: int | None = None
        self._captured = captured

    def starts(self, stream: Any) -> None:
        """It is the next that the communicator's stream does."""
        if self.timed:
            self._started.record(stream)

    def times(self) -> tuple[float, float] | None:
        """Seconds that it took, and that the stream which waits for it stood; None: not yet."""
        if not self.timed or self._asked is None or not self.done.done:
            return None
        took = cupy.cuda.get_elapsed_time(self._started, self.done)
        stood = cupy.cuda.get_elapsed_time(self._asked, self.done)
        return took * 1e-3, max(0.0, stood * 1e-3)

    def test(self) -> bool:
        """Whether the device has done it; no stream needs to wait then."""
        return not self._captured and bool(self.done.done)

    def wait(self) -> None:
        """Let the current stream wait for it; the host goes on."""
        stream = cupy.cuda.get_current_stream()
        if self.timed and self._asked is None:
            self._asked = cupy.cuda.Event()
            self._asked.record(stream)
        stream.wait_event(self.done)
        self.kept = ()


class LocalGpu(LocalCommunicator):
    """One rank with a GPU."""

    def __init__(self, timeout_s: float) -> None:
        super().__init__(timeout_s)
        self.name = "local"

    def of(self, array: Any) -> Communicator:
        return self

    def allocate(self, size_bytes: int) -> Any:
        return cupy.zeros(size_bytes, cupy.uint8)


def look() -> gpu.GpuFacts:
    """What this rank knows of its GPU and of NCCL."""
    index = device.current()
    version, problem = nccl_version()
    bus = cupy.cuda.Device(index).pci_bus_id
    return gpu.GpuFacts(
        gpu.host_name(), str(bus), device.count(), version, problem, gpu.told_to_share()
    )


def nccl_version() -> tuple[int, str]:
    """(version, "") of the NCCL library, or (0, why there is none)."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # CuPy warns where the library is missing; so do we
            module = importlib.import_module("cupy.cuda.nccl")
    except ImportError as error:
        return 0, f"CuPy's module for NCCL cannot be imported ({error})"
    if not getattr(module, "available", False):
        return 0, (
            "the library NCCL (libnccl.so.2) is not installed; pip install 'allgrad[gpu]' brings it"
        )
    return int(module.get_version()), ""


def refuse(communicator: Communicator, what: str, why: str) -> NoReturn:
    """Raise for what arrays of a GPU cannot do."""
    raise DistributedError(f"{communicator.where} {what}: {why}")


def completed(work: Work, async_op: bool) -> Work:
    """Wait for the work, unless the caller will."""
    if not async_op:
        work.wait()
    return work
