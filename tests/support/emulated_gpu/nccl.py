"""The stand-in for `cupy.cuda.nccl`: ranks are threads of one process.

A call enters its operation on the stream given and returns. The rank that comes last does the work
for all; until then the operation is pending for the streams of the others (see `pending`). NCCL
compares nothing; here ranks that disagree are an error, told to all of them.
"""

from __future__ import annotations

import itertools
import os
import threading
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any

import numpy as np
from support.emulated_gpu import device, exchange, pending, state, streams
from support.emulated_gpu.state import thread

SUM, PROD, MAX, MIN, AVG = range(5)
_CONSTANTS = {
    "NCCL_SUM": 0,
    "NCCL_PROD": 1,
    "NCCL_MAX": 2,
    "NCCL_MIN": 3,
    "NCCL_AVG": 4,
    "NCCL_INT8": 0,
    "NCCL_CHAR": 0,
    "NCCL_UINT8": 1,
    "NCCL_INT32": 2,
    "NCCL_INT": 2,
    "NCCL_UINT32": 3,
    "NCCL_INT64": 4,
    "NCCL_UINT64": 5,
    "NCCL_FLOAT16": 6,
    "NCCL_HALF": 6,
    "NCCL_FLOAT32": 7,
    "NCCL_FLOAT": 7,
    "NCCL_FLOAT64": 8,
    "NCCL_DOUBLE": 8,
    "NCCL_BFLOAT16": 9,
}
_ERRORS = {
    1: ("UNHANDLED_CUDA_ERROR", "unhandled cuda error"),
    2: ("SYSTEM_ERROR", "unhandled system error"),
    3: ("INTERNAL_ERROR", "internal error"),
    4: ("INVALID_ARGUMENT", "invalid argument"),
    5: ("INVALID_USAGE", "invalid usage"),
    6: ("REMOTE_ERROR", "remote process exited or there was a network error"),
}
_SHARE = "NCCL_MULTI_RANK_GPU_ENABLE"


class NcclError(RuntimeError):
    """An error of NCCL's; codes above 6 raise KeyError, as in CuPy."""

    def __init__(self, status: int, about: str = "") -> None:
        self.status = status
        name, words = _ERRORS[status]
        super().__init__(f"NCCL_ERROR_{name}: {words}{f' ({about})' if about else ''}")


class NcclConfig:
    """The settings of a communicator that CuPy passes on."""

    def __init__(self, split_share: int = 0) -> None:
        self.split_share = split_share


class _Group(threading.local):
    """Calls between groupStart and groupEnd of this thread."""

    depth = 0

    def __init__(self) -> None:
        self.calls: list[tuple[NcclCommunicator, exchange.Call, int]] = []


_group = _Group()
_ids = itertools.count(1)
_handles = itertools.count(0x6CC0_0000, 0x100)


def get_unique_id() -> bytes:
    """Where ranks meet, for `NcclCommunicator`."""
    return next(_ids).to_bytes(8, "little") + os.urandom(120)


def groupStart() -> None:  # noqa: N802 - NCCL's name
    """Calls from now on are one operation, until `groupEnd`."""
    _group.depth += 1


def groupEnd() -> None:  # noqa: N802 - NCCL's name
    """Issue the calls since `groupStart`."""
    if not _group.depth:
        raise NcclError(5, "groupEnd without groupStart")
    _group.depth -= 1
    if not _group.depth:
        calls, _group.calls = _group.calls, []
        _issue(calls)


class NcclCommunicator:
    """One rank's end of a communicator. Creating it waits for all ranks."""

    def __init__(
        self, ndev: int, commId: bytes, rank: int, config: NcclConfig | None = None
    ) -> None:
        if not isinstance(commId, bytes):
            raise TypeError(f"Expected bytes, got {type(commId).__name__}")
        if len(commId) != 128:
            raise ValueError(f"commId length {len(commId)} != 128.")
        if not 0 <= rank < ndev:
            raise NcclError(4, f"rank {rank} of {ndev}")
        self._join(exchange.meeting(commId, ndev), rank, thread.device)
        self.world.meet(rank)
        self._check_devices()

    def _join(self, world: exchange.World, rank: int, index: int) -> None:
        self.world, self._rank, self._device = world, rank, index
        self.comm = next(_handles)
        self._pending: list[pending.Pending] = []
        self._async_error = 0
        world.join(rank, index)

    def _check_devices(self) -> None:
        """NCCL wants a GPU for each rank, unless it was told otherwise."""
        used = self.world.devices
        if len(set(used.values())) < len(used) and os.environ.get(_SHARE) != "1":
            raise NcclError(5, f"Duplicate GPU detected: ranks {used} (rank: device)")

    @staticmethod
    def initAll(devices: int | list[int]) -> list[NcclCommunicator]:  # noqa: N802 - NCCL's name
        """Communicators of several devices of this process, all at once."""
        indices = list(range(devices)) if isinstance(devices, int) else list(devices)
        world = exchange.World(len(indices))
        made = []
        for rank, index in enumerate(indices):
            each = NcclCommunicator.__new__(NcclCommunicator)
            each._join(world, rank, index)
            made.append(each)
        if made:
            made[0]._check_devices()
        return made

    # -- operations --------------------------------------------------------------------------
    def allReduce(  # noqa: N802
        self, sendbuf: int, recvbuf: int, count: int, datatype: int, op: int, stream: int
    ) -> None:
        """All ranks get the reduction of all."""
        self._enter("AllReduce", sendbuf, recvbuf, count, datatype, stream, op=op)

    def reduce(
        self, sendbuf: int, recvbuf: int, count: int, datatype: int, op: int, root: int, stream: int
    ) -> None:
        """The root gets the reduction of all."""
        self._enter("Reduce", sendbuf, recvbuf, count, datatype, stream, op=op, root=root)

    def broadcast(
        self, sendbuff: int, recvbuff: int, count: int, datatype: int, root: int, stream: int
    ) -> None:
        """All ranks get what the root has."""
        self._enter("Broadcast", sendbuff, recvbuff, count, datatype, stream, root=root)

    def bcast(self, buff: int, count: int, datatype: int, root: int, stream: int) -> None:
        """`broadcast` in place."""
        self._enter("Broadcast", buff, buff, count, datatype, stream, root=root)

    def reduceScatter(  # noqa: N802
        self, sendbuf: int, recvbuf: int, recvcount: int, datatype: int, op: int, stream: int
    ) -> None:
        """Every rank gets its part of the reduction of all."""
        self._enter("ReduceScatter", sendbuf, recvbuf, recvcount, datatype, stream, op=op)

    def allGather(  # noqa: N802
        self, sendbuf: int, recvbuf: int, count: int, datatype: int, stream: int
    ) -> None:
        """All ranks get what all have, in the order of ranks."""
        self._enter("AllGather", sendbuf, recvbuf, count, datatype, stream)

    def send(self, sendbuf: int, count: int, datatype: int, peer: int, stream: int) -> None:
        """Send to one rank."""
        self._enter("Send", sendbuf, 0, count, datatype, stream, root=peer)

    def recv(self, recvbuf: int, count: int, datatype: int, peer: int, stream: int) -> None:
        """Receive from one rank."""
        self._enter("Recv", 0, recvbuf, count, datatype, stream, root=peer)

    def _enter(
        self,
        kind: str,
        sendbuf: int,
        recvbuf: int,
        count: int,
        datatype: int,
        stream: int,
        op: int = -1,
        root: int = -1,
    ) -> None:
        self._check_alive(kind)
        for value in (sendbuf, recvbuf, count, datatype, stream, op, root):
            if isinstance(value, bool) or not isinstance(value, int | np.integer):
                raise TypeError(f"nccl{kind}: an integer is required, not {value!r}")
        if datatype not in exchange.DTYPES or op > AVG or root >= self.world.size or count < 0:
            raise NcclError(4, f"nccl{kind}: count {count}, type {datatype}, op {op}, root {root}")
        call = exchange.Call(
            kind, self._rank, int(sendbuf), int(recvbuf), int(count), int(datatype), op, root
        )
        if _group.depth:
            _group.calls.append((self, call, int(stream)))
        else:
            _issue([(self, call, int(stream))])

    # -- the rest ----------------------------------------------------------------------------
    def commSplit(  # noqa: N802
        self, color: int, key: int, config: NcclConfig | None = None
    ) -> NcclCommunicator:
        """Collective. Communicators of those with the same color, ordered by key."""
        self._check_alive("CommSplit")
        made = NcclCommunicator.__new__(NcclCommunicator)
        world, rank = self.world.split(self._rank, color, key)
        if world is None:
            made.world, made._rank, made._device, made.comm = self.world, -1, self._device, 0
            made._pending, made._async_error = [], 0
        else:
            made._join(world, rank, self._device)
        return made

    def _check_alive(self, what: str) -> None:
        if not self.comm:
            raise NcclError(4, f"nccl{what}: the communicator is destroyed, aborted or empty")

    def check_async_error(self) -> None:
        """Raise what has happened since the last call returned."""
        self._check_alive("CommGetAsyncError")
        if self._async_error:
            raise NcclError(self._async_error)

    def fail(self, status: int) -> None:
        """For tests: `check_async_error` reports this from now on."""
        self._async_error = status

    def abort(self) -> None:
        """End this rank's operations, whatever became of them."""
        self.comm = 0
        for each in self._pending:
            each.finish()
        self._pending.clear()

    def destroy(self) -> None:
        """Wait for this rank's operations and give everything back."""
        if self.comm:
            for each in self._pending:
                each.wait()
            self.comm = 0

    def device_id(self) -> int:
        """The number of its device."""
        self._check_alive("CommCuDevice")
        return self._device

    def rank_id(self) -> int:
        """Its rank."""
        self._check_alive("CommUserRank")
        return self._rank

    def size(self) -> int:
        """Ranks of the communicator."""
        self._check_alive("CommCount")
        return self.world.size


_Entry = tuple[NcclCommunicator, exchange.Call, int]


def _issue(entries: Sequence[_Entry]) -> None:
    """Enter operations, which wait for what their streams have to do, not for each other."""
    captured: dict[Any, list[_Entry]] = {}
    now = []
    for comm, call, ptr in entries:
        before = thread.device
        thread.device = comm._device
        try:
            stream = streams.by_pointer(ptr)
            if stream.device_id != comm._device:
                raise NcclError(4, f"{stream} is not of device {comm._device}")
            reads, writes = exchange.places(call, comm.world.size)
            read = [device.place_of(p, call.words()) for p in reads]
            written = [device.place_of(p, call.words()) for p in writes]
            if any(chunk.device != comm._device for chunk, _, _ in (*read, *written)):
                raise NcclError(1, f"{call.words()}: memory of another device")
        finally:
            thread.device = before
        if stream.capture is not None:
            captured.setdefault((stream.capture, stream), []).append((comm, call, ptr))
            stream.capture.note(stream, call.words(), _nothing, read, written)
            continue
        state.counts["collectives"] += 1
        state.log.append((call.words(), ptr))
        with state.LOCK:
            tick = stream.begin()
            device.hazards.use(stream, call.words(), tick, read, False)
            device.hazards.use(stream, call.words(), tick, written, True)
        now.append((comm, call, stream, [p for p in stream.pending if not p.done]))
    for (recording, _), group in captured.items():
        recording.actions.append(("NCCL", lambda group=group: _again(group)))
        recording.waits = True
    for comm, call, stream, after in now:
        _start(comm, call, stream, after)


def _nothing() -> None:
    """What is noted of a captured operation for order's sake; the group behind it does it."""


def _start(
    comm: NcclCommunicator, call: exchange.Call, stream: Any, after: Sequence[pending.Pending]
) -> pending.Pending:
    made = comm.world.enter(call, after)
    comm._pending = [p for p in comm._pending if not p.done]
    if not made.done:
        comm._pending.append(made)
        if stream is not None:
            stream.pending.append(made)
    elif made.error is not None:
        raise made.error
    return made


def _again(group: Sequence[_Entry]) -> None:
    """Operations of a graph: done when this returns."""
    for each in [_start(comm, call, None, ()) for comm, call, _ in group]:
        each.wait()


def nccl_module() -> ModuleType:
    """The module `cupy.cuda.nccl`."""
    nccl: Any = ModuleType("cupy.cuda.nccl")
    nccl.available = True
    for name, value in _CONSTANTS.items():
        setattr(nccl, name, value)
    version: Callable[[], int] = lambda: 23007  # noqa: E731
    nccl.get_version, nccl.get_build_version = version, version
    nccl.get_unique_id, nccl.groupStart, nccl.groupEnd = get_unique_id, groupStart, groupEnd
    nccl.NcclError, nccl.NcclConfig, nccl.NcclCommunicator = NcclError, NcclConfig, NcclCommunicator
    return nccl
