# ruff: noqa: N802 - NCCL's names
"""A stand-in for `cupy.cuda.nccl` whose ranks are threads, and streams that note what they do.

A collective is done when all ranks have called it: by the last one that comes, on the CPU. Until
then events behind it are not done, and a stream that waits for them waits here. What CuPy's binding
lacks is lacking here, too: errors 7 and 8 have no name.
"""

from __future__ import annotations

import ctypes
import functools
import itertools
import threading
import time
from collections import defaultdict
from types import ModuleType
from typing import Any

import ml_dtypes
import numpy as np
from support.emulated_gpu import cuda as emulated
from support.emulated_gpu import device

from allgrad.ddp.communicators.thread import current_thread_rank

PATIENCE_S = 20.0
_TYPES = ["i1", "u1", "i4", "u4", "i8", "u8", "f2", "f4", "f8", ml_dtypes.bfloat16]
_SUM, _PROD, _MAX, _MIN, _AVG = range(5)
_COMBINE = {_SUM: np.add, _PROD: np.multiply, _MAX: np.maximum, _MIN: np.minimum, _AVG: np.add}

_change = threading.Condition()
_worlds: dict[bytes, World] = {}
_streams: dict[int, Stream] = {}
_numbers = itertools.count(1)


class _Thread(threading.local):
    def __init__(self) -> None:
        self.log: list[tuple[Any, ...]] = []
        self.group: list[Call] | None = None
        self.compute: Stream | None = None


_thread = _Thread()


def log() -> list[tuple[Any, ...]]:
    """What this thread's streams were asked for, in order."""
    return _thread.log


class Stream(emulated.Stream):
    """A stream that notes what it is asked for, and knows which collectives it has not done."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.ptr = 0x7F00_0000 + next(_numbers) * 0x100
        self.label = "comm" if self.priority < 0 else "compute"
        self.calls: list[Call] = []
        self._stands = False
        _streams[self.ptr] = self

    def record(self, event: Any = None) -> Any:
        event = event or Event()
        event.record(self)
        return event

    def wait_event(self, event: Event) -> None:
        _thread.log.append(("wait", self.label, event.number))
        if device.capture.recording is not None:
            device.capture.recording.actions.append(lambda: self._stand_until(event))
        elif self.label == "compute":
            self._stand_until(event)
        else:
            self.calls += event.calls

    def _stand_until(self, event: Event) -> None:
        self._stands = True
        event.block()
        self._stands = False

    @property
    def done(self) -> bool:
        return not self._stands and all(call.done for call in self.calls)

    def synchronize(self) -> None:
        super().synchronize()
        for call in self.calls:
            call.block()


class Event(emulated.Event):
    """A mark behind the collectives that a stream has been given so far."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.number, self.calls = next(_numbers), ()

    def record(self, stream: Any = None) -> None:
        super().record(stream)
        stream.calls = [call for call in stream.calls if not call.done]
        self.calls = tuple(stream.calls)
        _thread.log.append(("record", stream.label, self.number))

    def block(self) -> None:
        for call in self.calls:
            call.block()

    @property
    def done(self) -> bool:
        return all(call.done for call in self.calls)


def get_current_stream(device_id: int = -1) -> Stream:
    """One per thread; a `with` block may name another one."""
    current = emulated.get_current_stream(device_id)
    if isinstance(current, Stream):
        return current
    if _thread.compute is None:
        _thread.compute = Stream(non_blocking=True)
    return _thread.compute


class Call:
    """One call of one rank."""

    def __init__(self, comm: NcclCommunicator, kind: str, stream: int, **arguments: Any) -> None:
        self.comm, self.kind, self.arguments, self.done = comm, kind, arguments, False
        self.key = (kind, *(arguments.get(name) for name in ("count", "dtype", "op", "root")))
        self.stream = _streams[stream]
        _thread.log.append((kind, self.stream.label, arguments.get("count")))
        self.stream.calls.append(self)
        recording = device.capture.recording
        if recording is not None:
            recording.actions.append(self.again)
        elif _thread.group is not None:
            _thread.group.append(self)
        else:
            comm.world.submit(self)

    def again(self) -> None:
        """It was captured, and its graph is launched."""
        self.done = False
        self.comm.world.submit(self)

    def block(self) -> None:
        deadline = time.monotonic() + PATIENCE_S
        threads = current_thread_rank()
        with _change:
            while not _change.wait_for(lambda: self.done, 0.05):
                if time.monotonic() > deadline or (threads and threads[0].error is not None):
                    raise TimeoutError(f"{self.kind} of rank {self.comm.rank} never ended")

    def memory(self, name: str, count: int | None = None, offset: int = 0) -> np.ndarray:
        dtype = np.dtype(_TYPES[self.arguments["dtype"]])
        count = self.arguments["count"] if count is None else count
        place = self.arguments[name] + offset * dtype.itemsize
        raw = (ctypes.c_byte * (count * dtype.itemsize)).from_address(place)
        return np.frombuffer(raw, dtype)


class World:
    """The ranks of one unique id."""

    def __init__(self, size: int) -> None:
        self.size, self.error = size, 0
        self.slots: dict[int, dict[int, Call]] = defaultdict(dict)
        self.issued = [0] * size
        self.messages: dict[tuple[str, int, int], list[Call]] = defaultdict(list)
        self.splits: list[dict[int, tuple[int, int]]] = []
        self.parts: dict[tuple[int, int], World] = {}

    def submit(self, call: Call) -> None:
        with _change:
            rank = call.comm.rank
            if call.kind in ("send", "recv"):
                self._match(call, rank)
            else:
                number = self.issued[rank]
                self.issued[rank] += 1
                self.slots[number][rank] = call
                if len(self.slots[number]) == self.size:
                    self._do([self.slots[number][r] for r in range(self.size)])
            _change.notify_all()

    def _match(self, call: Call, rank: int) -> None:
        peer = call.arguments["peer"]
        mine = (call.kind, rank, peer)
        theirs = ("recv" if call.kind == "send" else "send", peer, rank)
        if not self.messages[theirs]:
            self.messages[mine].append(call)
            return
        other = self.messages[theirs].pop(0)
        send, recv = (call, other) if call.kind == "send" else (other, call)
        recv.memory("recvbuf")[...] = send.memory("sendbuf")
        send.done = recv.done = True

    def _do(self, calls: list[Call]) -> None:
        if len({call.key for call in calls}) > 1:
            return  # NCCL would hang
        kind, first = calls[0].kind, calls[0].arguments
        if kind in ("allReduce", "reduce"):
            result = self._reduced([call.memory("sendbuf") for call in calls], first["op"])
            for rank, call in enumerate(calls):
                if kind == "allReduce" or rank == first["root"]:
                    call.memory("recvbuf")[...] = result
        elif kind == "broadcast":
            value = calls[first["root"]].memory("sendbuf").copy()
            for call in calls:
                call.memory("recvbuf")[...] = value
        elif kind == "allGather":
            value = np.concatenate([call.memory("sendbuf") for call in calls])
            for call in calls:
                call.memory("recvbuf", value.size)[...] = value
        else:  # reduceScatter
            count = first["count"]
            rows = [call.memory("sendbuf", count * self.size).copy() for call in calls]
            result = self._reduced(rows, first["op"])
            for rank, call in enumerate(calls):
                call.memory("recvbuf")[...] = result[rank * count : (rank + 1) * count]
        for call in calls:
            call.done = True

    def _reduced(self, arrays: list[np.ndarray], op: int) -> np.ndarray:
        dtype = arrays[0].dtype
        if op == _AVG and dtype.kind not in "iu":
            arrays = [a * dtype.type(1 / self.size) for a in arrays]
        total = arrays[0].copy()
        for array in arrays[1:]:
            total = _COMBINE[op](total, array).astype(dtype)
        return total // self.size if op == _AVG and dtype.kind in "iu" else total


_ERRORS = dict(enumerate(["SUCCESS", "UNHANDLED_CUDA_ERROR", "SYSTEM_ERROR", "INTERNAL_ERROR",
                          "INVALID_ARGUMENT", "INVALID_USAGE", "REMOTE_ERROR"]))  # fmt: skip


class NcclError(RuntimeError):
    """As CuPy's: its table ends at 6."""

    def __init__(self, status: int) -> None:
        self.status = status
        super().__init__(f"NCCL_ERROR_{_ERRORS[status]}")


class NcclCommunicator:
    """One rank."""

    def __init__(self, ndev: int, commId: bytes, rank: int, config: Any = None) -> None:
        if len(commId) != 128:
            raise ValueError(f"commId length {len(commId)} != 128.")
        with _change:
            self.world = _worlds.setdefault(commId, World(ndev))
        self.rank, self.aborted, self.destroyed = rank, False, False

    def allReduce(self, sendbuf, recvbuf, count, datatype, op, stream):
        Call(self, "allReduce", stream, **_buffers(sendbuf, recvbuf, count, datatype), op=op)

    def reduce(self, sendbuf, recvbuf, count, datatype, op, root, stream):
        where = _buffers(sendbuf, recvbuf, count, datatype)
        Call(self, "reduce", stream, **where, op=op, root=root)

    def broadcast(self, sendbuff, recvbuff, count, datatype, root, stream):
        where = _buffers(sendbuff, recvbuff, count, datatype)
        Call(self, "broadcast", stream, **where, root=root)

    def reduceScatter(self, sendbuf, recvbuf, recvcount, datatype, op, stream):
        where = _buffers(sendbuf, recvbuf, recvcount, datatype)
        Call(self, "reduceScatter", stream, **where, op=op)

    def allGather(self, sendbuf, recvbuf, count, datatype, stream):
        Call(self, "allGather", stream, **_buffers(sendbuf, recvbuf, count, datatype))

    def send(self, sendbuf: int, count: int, datatype: int, peer: int, stream: int) -> None:
        Call(self, "send", stream, sendbuf=sendbuf, count=count, dtype=datatype, peer=peer)

    def recv(self, recvbuf: int, count: int, datatype: int, peer: int, stream: int) -> None:
        Call(self, "recv", stream, recvbuf=recvbuf, count=count, dtype=datatype, peer=peer)

    def commSplit(self, color: int, key: int, config: Any = None) -> NcclCommunicator | None:
        world = self.world
        with _change:
            number = next((i for i, s in enumerate(world.splits) if self.rank not in s), None)
            if number is None:
                number = len(world.splits)
                world.splits.append({})
            split = world.splits[number]
            split[self.rank] = (color, key)
            _change.notify_all()
            if not _change.wait_for(lambda: len(split) == world.size, PATIENCE_S):
                raise TimeoutError("commSplit")
            if color < 0:
                return None
            members = sorted((k, r) for r, (c, k) in split.items() if c == color)
            part = world.parts.setdefault((number, color), World(len(members)))
        made = NcclCommunicator.__new__(NcclCommunicator)
        made.world, made.aborted, made.destroyed = part, False, False
        made.rank = [r for _, r in members].index(self.rank)
        return made

    def check_async_error(self) -> None:
        if self.world.error:
            raise NcclError(self.world.error)

    def abort(self) -> None:
        with _change:
            self.aborted = True
            for slot in self.world.slots.values():
                if self.rank in slot:
                    slot[self.rank].done = True
            _change.notify_all()

    def destroy(self) -> None:
        self.destroyed = True


def _buffers(sendbuf: int, recvbuf: int, count: int, dtype: int) -> dict[str, int]:
    return {"sendbuf": sendbuf, "recvbuf": recvbuf, "count": count, "dtype": dtype}


def groupStart() -> None:
    _thread.group = []


def groupEnd() -> None:
    calls, _thread.group = _thread.group or [], None
    for call in calls:
        call.comm.world.submit(call)


@functools.cache
def module(version: int = 23007) -> ModuleType:
    """The module `cupy.cuda.nccl`."""
    made: Any = ModuleType("cupy.cuda.nccl")
    made.available = True
    made.get_version = lambda: version
    made.get_unique_id = lambda: next(_numbers).to_bytes(128, "little")
    made.groupStart, made.groupEnd = groupStart, groupEnd
    made.NcclCommunicator, made.NcclError = NcclCommunicator, NcclError
    names = "INT8 UINT8 INT32 UINT32 INT64 UINT64 FLOAT16 FLOAT32 FLOAT64 BFLOAT16".split()
    for number, name in enumerate(names):
        setattr(made, f"NCCL_{name}", number)
    made.NCCL_SUM, made.NCCL_PROD, made.NCCL_MAX, made.NCCL_MIN, made.NCCL_AVG = range(5)
    return made
