"""Where the ranks of the NCCL stand-in meet, and what they do there."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np
from support.emulated_gpu import memory, state
from support.emulated_gpu.pending import Pending

DTYPES: dict[int, np.dtype[Any]] = {
    i: np.dtype(t)
    for i, t in enumerate(
        ("i1", "u1", "i4", "u4", "i8", "u8", "f2", "f4", "f8", ml_dtypes.bfloat16)
    )
}
_OPS = ("sum", "prod", "max", "min", "avg")


class RanksDisagree(RuntimeError):  # noqa: N818 - what it is called
    """Ranks call different operations where NCCL wants the same; NCCL hangs or gives nonsense."""


@dataclass(frozen=True)
class Call:
    """One rank's part in an operation.

    Attributes:
        kind: NCCL's name of it.
        rank: whose.
        send, receive: addresses.
        count: elements, as NCCL counts them in that operation.
        datatype, op: NCCL's numbers; op is -1 where there is none.
        root: or the other rank of a message; -1 where there is none.
    """

    kind: str
    rank: int
    send: int
    receive: int
    count: int
    datatype: int
    op: int
    root: int

    def words(self) -> str:
        """For people."""
        details = [f"{self.count} {DTYPES[self.datatype]}"]
        details += [_OPS[self.op]] if self.op >= 0 else []
        details += [f"root {self.root}"] if self.root >= 0 else []
        return f"nccl{self.kind}({', '.join(details)})"

    def array(self, ptr: int, count: int) -> np.ndarray:
        """Device memory of this rank."""
        # Checked when the call was made; its owner may have given it back since.
        chunk = memory.chunk_at(ptr, self.words(), live=False)
        return chunk.view(ptr, (count,), DTYPES[self.datatype], None)

    @property
    def key(self) -> tuple[int, str]:
        """Who comes with it: a rank may send to itself."""
        return self.rank, self.kind


def places(call: Call, size: int) -> tuple[list[tuple[int, int]], list[tuple[int, int]]]:
    """(what it reads, what it writes): each (address, bytes)."""
    step = call.count * DTYPES[call.datatype].itemsize
    sent = step * (size if call.kind == "ReduceScatter" else 1)
    received = step * (size if call.kind == "AllGather" else 1)
    reads = call.kind != "Recv" and not (call.kind == "Broadcast" and call.rank != call.root)
    writes = call.kind != "Send" and not (call.kind == "Reduce" and call.rank != call.root)
    if not step:
        return [], []
    return ([(call.send, sent)] if reads else []), ([(call.receive, received)] if writes else [])


class _Meeting:
    """One operation: who has come, and who waits."""

    def __init__(self) -> None:
        self.calls: dict[tuple[int, str], Call] = {}
        self.waiting: dict[tuple[int, str], Pending] = {}
        self.after: list[Pending] = []


class World:
    """What the ranks of one communicator share."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.devices: dict[int, int] = {}
        self._met = threading.Condition()
        self._entered: dict[int, int] = {}  # collectives of each rank
        self._meetings: dict[int, _Meeting] = {}
        self._messages: dict[tuple[int, int], deque[_Meeting]] = {}
        self._splits: dict[int, dict[int, tuple[int, int]]] = {}
        self._parts: dict[tuple[int, int], World] = {}
        self._split_count: dict[int, int] = {}

    def join(self, rank: int, index: int) -> None:
        """A rank has come."""
        with self._met:
            if rank in self.devices:
                raise RuntimeError(f"rank {rank} of a communicator came twice")
            self.devices[rank] = index
            self._met.notify_all()

    def meet(self, rank: int) -> None:
        """Wait for all ranks."""
        with self._met:
            self._await(rank, lambda: len(self.devices) == self.size, lambda: set(self.devices))

    def _await(self, rank: int, here: Any, came: Any) -> None:
        deadline_s = time.monotonic() + state.TIMEOUT_S
        while not here():
            left_s = deadline_s - time.monotonic()
            if left_s <= 0:
                missing = sorted(set(range(self.size)) - came())
                raise RuntimeError(f"rank {rank} waits for ranks {missing} to make a communicator")
            self._met.wait(left_s)

    def split(self, rank: int, color: int, key: int) -> tuple[World | None, int]:
        """This rank's part, and its rank there; waits for all ranks."""
        with self._met:
            turn = self._split_count.get(rank, 0)
            self._split_count[rank] = turn + 1
            said = self._splits.setdefault(turn, {})
            said[rank] = (color, key)
            self._met.notify_all()
            self._await(rank, lambda: len(said) == self.size, lambda: set(said))
            if color < 0:
                return None, -1
            members = sorted((k, r) for r, (c, k) in said.items() if c == color)
            part = self._parts.setdefault((turn, color), World(len(members)))
            return part, members.index((key, rank))

    # -- operations --------------------------------------------------------------------------
    def enter(self, call: Call, after: Sequence[Pending]) -> Pending:
        """A rank comes to its next operation, which waits for `after`."""
        with self._met:
            meeting = self._message(call) if call.kind in ("Send", "Recv") else self._next(call)
            meeting.calls[call.key] = call
            meeting.after += after
            mine = Pending(call.words(), lambda: self._missing(meeting))
            meeting.waiting[call.key] = mine
            expected = 2 if call.kind in ("Send", "Recv") else self.size
            complete = len(meeting.calls) == expected
        error = _disagreement(meeting)
        if complete or error is not None:
            _complete(meeting, self.size, error)
        return mine

    def _next(self, call: Call) -> _Meeting:
        number = self._entered.get(call.rank, 0)
        self._entered[call.rank] = number + 1
        meeting = self._meetings.setdefault(number, _Meeting())
        if len(meeting.calls) == self.size - 1:
            del self._meetings[number]
        return meeting

    def _message(self, call: Call) -> _Meeting:
        way = (call.rank, call.root) if call.kind == "Send" else (call.root, call.rank)
        queue = self._messages.setdefault(way, deque())
        for meeting in queue:
            if not any(c.kind == call.kind for c in meeting.calls.values()):
                queue.remove(meeting)
                return meeting
        queue.append(_Meeting())
        return queue[-1]

    def _missing(self, meeting: _Meeting) -> str:
        calls = [meeting.calls[k] for k in sorted(meeting.calls)]
        here = {c.rank for c in calls}
        peers = {calls[0].root} if calls[0].kind in ("Send", "Recv") else set(range(self.size))
        came = ", ".join(f"rank {c.rank} in {c.words()}" for c in calls)
        return f"{came}; not: ranks {sorted(peers - here)}"


def _disagreement(meeting: _Meeting) -> RanksDisagree | None:
    calls = [meeting.calls[k] for k in sorted(meeting.calls)]
    first = calls[0]
    for other in calls[1:]:
        if first.kind in ("Send", "Recv"):
            same = (first.count, first.datatype) == (other.count, other.datatype)
        else:
            same = first.words() == other.words()
        if not same:
            return RanksDisagree(
                f"rank {first.rank} calls {first.words()} where rank {other.rank} calls "
                f"{other.words()}: a GPU hangs here or computes nonsense"
            )
    return None


def _complete(meeting: _Meeting, size: int, error: BaseException | None) -> None:
    """The last rank has come: do the work for all, once everything before it is done."""
    open_before = [p for p in meeting.after if not p.done]
    if error is None and open_before:
        # Another operation has to come first, which will be done by another thread.
        threading.Thread(
            target=_later, args=(meeting, size, open_before), name="emulated GPU", daemon=True
        ).start()
        return
    if error is None:
        try:
            with state.LOCK, np.errstate(all="ignore"):
                _do(meeting, size)
        except Exception as raised:  # noqa: BLE001 - told to all ranks
            error = raised
    for waiting in meeting.waiting.values():
        waiting.finish(error)


def _later(meeting: _Meeting, size: int, before: Sequence[Pending]) -> None:
    try:
        for each in before:
            each.wait()
    except RuntimeError as error:
        _complete(meeting, size, error)
    else:
        meeting.after.clear()
        _complete(meeting, size, None)


def _do(meeting: _Meeting, size: int) -> None:
    calls = [meeting.calls[k] for k in sorted(meeting.calls)]
    kind, count = calls[0].kind, calls[0].count
    if kind in ("Send", "Recv"):
        send = next(c for c in calls if c.kind == "Send")
        receive = next(c for c in calls if c.kind == "Recv")
        receive.array(receive.receive, count)[...] = send.array(send.send, count)
        return
    if kind == "Broadcast":
        root = calls[calls[0].root]
        value = root.array(root.send, count).copy()
        for call in calls:
            call.array(call.receive, count)[...] = value
        return
    sent = count * (size if kind == "ReduceScatter" else 1)
    inputs = [call.array(call.send, sent).copy() for call in calls]
    if kind == "AllGather":
        value = np.concatenate(inputs)
        for call in calls:
            call.array(call.receive, count * size)[...] = value
        return
    value = reduced(inputs, calls[0].op)
    for rank, call in enumerate(calls):
        if kind == "ReduceScatter":
            call.array(call.receive, count)[...] = value[rank * count : (rank + 1) * count]
        elif kind == "AllReduce" or rank == call.root:
            call.array(call.receive, count)[...] = value


def reduced(inputs: Sequence[np.ndarray], op: int) -> np.ndarray:
    """Inputs combined in the order of ranks, rounded to their type after every step.

    The mean of float types is a sum of what was multiplied by 1 / ranks in their type before, as
    in NCCL; that of integers is a sum, then divided.
    """
    dtype = inputs[0].dtype
    is_float = dtype.kind not in "iu"
    if op == 4 and is_float:
        share = np.asarray(1 / len(inputs)).astype(dtype)
        inputs = [(x * share).astype(dtype) for x in inputs]
    combine = (np.add, np.multiply, np.maximum, np.minimum, np.add)[op]
    total = inputs[0].copy()
    for x in inputs[1:]:
        total = combine(total, x).astype(dtype)
    if op == 4 and not is_float:
        total = (np.trunc(total / len(inputs))).astype(dtype)
    return total


_worlds: dict[bytes, World] = {}
_worlds_lock = threading.Lock()


def meeting(unique: bytes, size: int) -> World:
    """Where the ranks with this unique id meet.

    Raises:
        RanksDisagree: they do not agree on how many they are.
    """
    with _worlds_lock:
        world = _worlds.get(unique)
        if world is None:
            world = _worlds[unique] = World(size)
        if world.size != size:
            raise RanksDisagree(f"a communicator of {world.size} ranks, of {size} for another rank")
        if len(world.devices) == size - 1:
            del _worlds[unique]
        return world
