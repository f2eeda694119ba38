"""Collectives of GPUs by NCCL, through CuPy's binding.

Stage of the flow: bottom of ddp, for arrays of GPUs. Imports `cupy.cuda.nccl`. May import:
`gpu_base`, `nccl_types`, `nccl_watch`, `tree`, `allgrad.backend.cuda`. See Note [Streams of
communication] in `gpu_base`.

NCCL compares nothing: ranks that call different collectives wait for ever, or get wrong numbers. So
every call is written down before it is issued, and a watch thread looks after those under way.
"""

from __future__ import annotations

import threading
import weakref
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import cupy
from cupy.cuda import nccl

from allgrad.backend.cuda import device
from allgrad.ddp.communicators.base import (
    COMPLETED,
    Communicator,
    ReduceOp,
    Work,
    check_exchange,
    check_gathered,
    check_members,
    check_peer,
    check_root,
    check_root_array,
    check_scattered,
)
from allgrad.ddp.communicators.gpu_base import EventWork, GpuCommunicator, completed
from allgrad.ddp.communicators.nccl_tree import TreeExchange
from allgrad.ddp.communicators.nccl_types import BYTES, explained, pointer, reduction, words
from allgrad.ddp.communicators.nccl_watch import Watch
from allgrad.ddp.communicators.tree import TreeSum
from allgrad.ddp.diagnosis.flight import FlightRecorder
from allgrad.errors import DistributedError, OptionError

_TIMED_STEPS = 8  # one step of so many is timed: each timed collective costs some microseconds
NO_COLOR = -1  # NCCL_SPLIT_NOCOLOR
_MESSAGES = -(1 << 40)  # below this are the numbers of messages


class Replay(NamedTuple):
    """The last launch of a graph with captured collectives.

    Attributes:
        stream: on which it was launched.
        sequence: its number in the flight record.
        since_s: when.
    """

    stream: Any
    sequence: int
    since_s: float


class NcclCommunicator(GpuCommunicator):
    """One rank of a communicator of NCCL's.

    Args:
        control: of the same ranks; what they agree on, and how they tell each other of failures.
        comm: CuPy's NcclCommunicator of this rank.

    Attributes:
        under_way: collectives that the device may not have finished, oldest first.
        replay: the last one, if there was any.
        failure: what the watch thread has found; whatever comes next raises it.
        records: of the last calls; their numbers are negative.
    """

    pushes = False

    def __init__(self, control: Communicator, comm: Any) -> None:
        super().__init__(control, "nccl")
        self.comm = comm
        self.under_way: deque[EventWork] = deque()
        self.failure: DistributedError | None = None
        self.replay: Replay | None = None
        self._ready = cupy.cuda.Event(disable_timing=True)
        self._token: Any = cupy.zeros(1, cupy.uint8)  # for barriers
        self._trees: dict[tuple[int, str, TreeSum], TreeExchange] = {}
        self._collectives = self._messages = 0
        self._together: list[tuple[str, Callable[[int], object], EventWork]] | None = None
        self._lock = threading.Lock()  # NCCL takes one call at a time
        self.records = FlightRecorder()
        flight = getattr(control, "flat", control).flight  # what all ranks are heard by
        if flight is not None:
            flight.beside = self.records
        self._watch = Watch(self)
        # Where nobody closes it, others may be gone at the end: `destroy` would wait for them.
        self._give_up = weakref.finalize(self, _give_up, comm, self._watch.closed)

    @classmethod
    def open(cls, control: Communicator) -> NcclCommunicator:
        """Collective. Connect the ranks' current GPUs."""
        before, control.note = control.note, "NCCL's meeting point"
        unique = control.broadcast_object(nccl.get_unique_id() if control.rank == 0 else None)
        control.note = before
        try:
            comm = nccl.NcclCommunicator(control.size, unique, control.rank)
        except (nccl.NcclError, KeyError) as error:
            raise DistributedError(
                f"{control.where} NCCL cannot connect the GPUs of {control.size} ranks: "
                f"{explained(error) or error}. NCCL_DEBUG=WARN says more, NCCL_SOCKET_IFNAME names "
                "the network to use"
            ) from error
        return cls(control, comm)

    # ---- issuing ---------------------------------------------------------------------------

    def _issue(
        self,
        what: str,
        call: Callable[[int], object],
        kept: Sequence[Any],
        async_op: bool,
        message: bool = False,
    ) -> Work:
        """Let the communicator's stream make a call after what the current stream has done so far.

        Args:
            what: in words.
            call: gets the stream's pointer.
            kept: the arrays concerned.
            async_op: whether the caller waits.
            message: whether only two ranks take part, so that others do not count it.
        """
        self.check_failure()
        captured = device.capturing()
        timed = self.control.step % _TIMED_STEPS == _TIMED_STEPS // 2
        work = EventWork(kept, captured, self._sequence(message), timed)
        control, sequence = self.control, work.sequence
        self.records.add(sequence, sequence, what, control.note, control.step)
        self._ready.record(cupy.cuda.get_current_stream())
        self.stream.wait_event(self._ready)
        work.starts(self.stream)
        try:
            with self._lock:
                call(self.stream.ptr)
        except (nccl.NcclError, KeyError) as error:
            told = explained(error)
            if told is None:
                raise
            raise DistributedError(f"{self.where} NCCL failed in {what}: {told}") from error
        work.done.record(self.stream)
        if captured:
            device.keep(work)  # its event belongs to the graph now, and cannot be asked
        else:
            self._look_after(work)
        return completed(work, async_op)

    def begin_replay(self, what: str) -> None:
        """A graph with captured collectives is about to be launched on the current stream.

        Args:
            what: in words, the same on all ranks.
        """
        self.check_failure()
        control, sequence = self.control, self._sequence(message=False)
        self.records.add(sequence, sequence, what, control.note, control.step)
        self.replay = Replay(cupy.cuda.get_current_stream(), sequence, self.now())

    def _sequence(self, message: bool) -> int:
        """Numbers of collectives are the same on all ranks, and negative: see `FlightRecorder`."""
        if message:
            self._messages += 1
            return _MESSAGES - self._messages
        self._collectives += 1
        return -self._collectives

    def _look_after(self, new: EventWork) -> None:
        queue = self.under_way
        while queue and queue[0].done.done:
            queue.popleft()
        queue.append(new)

    def _grouped(self, calls: Sequence[Callable[[int], object]]) -> Callable[[int], None]:
        """Several calls as one, whose parts may wait for each other."""

        def call(stream: int) -> None:
            nccl.groupStart()
            try:
                for one in calls:
                    one(stream)
            finally:
                nccl.groupEnd()

        return call

    # ---- collectives -----------------------------------------------------------------------

    def all_reduce(
        self, array: Any, op: ReduceOp | str = ReduceOp.SUM, async_op: bool = False
    ) -> Work:
        self.check("all_reduce", array, in_place=True)
        count, kind, how = reduction(self, "all_reduce", array, op)
        place = pointer(array)
        return self._issue(
            words("all_reduce", array, op),
            lambda stream: self.comm.allReduce(place, place, count, kind, how, stream),
            (array,),
            async_op,
        )

    def broadcast(self, array: Any, root: int = 0, async_op: bool = False) -> Work:
        self.check("broadcast", array, in_place=True)
        check_root(self, root)
        what = f"{words('broadcast', array)} from rank {root}"
        return self._issue(what, self._broadcast_from(array, root), (array,), async_op)

    def all_gather_into(self, out: Any, array: Any, async_op: bool = False) -> Work:
        self.check("all_gather", array)
        self.check("all_gather", out, in_place=True)
        check_gathered(self, "all_gather", out, array)
        return self._issue(
            words("all_gather", array),
            lambda stream: self.comm.allGather(
                pointer(array), pointer(out), array.nbytes, BYTES, stream
            ),
            (array, out),
            async_op,
        )

    def reduce_scatter_into(
        self, out: Any, array: Any, op: ReduceOp | str = ReduceOp.SUM, async_op: bool = False
    ) -> Work:
        self.check("reduce_scatter", array)
        self.check("reduce_scatter", out, in_place=True)
        check_scattered(self, "reduce_scatter", out, array)
        count, kind, how = reduction(self, "reduce_scatter", out, op)
        return self._issue(
            words("reduce_scatter", array, op),
            lambda stream: self.comm.reduceScatter(
                pointer(array), pointer(out), count, kind, how, stream
            ),
            (array, out),
            async_op,
        )

    def reduce_parts(
        self,
        array: Any,
        parts: Sequence[Sequence[tuple[int, int]]],
        op: ReduceOp | str = ReduceOp.SUM,
        async_op: bool = False,
    ) -> Work:
        self.check("reduce_parts", array, in_place=True)
        calls = []
        for rank, own in enumerate(parts):
            for start, stop in own:
                piece = array[start:stop]
                count, kind, how = reduction(self, "reduce_parts", piece, op)
                calls.append(self._reduce_to(pointer(piece), count, kind, how, rank))
        what = words("reduce_parts", array, op)
        return self._issue(what, self._grouped(calls), (array,), async_op)

    def _reduce_to(
        self, place: int, count: int, kind: int, how: int, root: int
    ) -> Callable[[int], object]:
        return lambda stream: self.comm.reduce(place, place, count, kind, how, root, stream)

    def reduce(
        self, array: Any, root: int, op: ReduceOp | str = ReduceOp.SUM, async_op: bool = False
    ) -> Work:
        self.check("reduce", array, in_place=True)
        check_root(self, root)
        count, kind, how = reduction(self, "reduce", array, op)
        call = self._reduce_to(pointer(array), count, kind, how, root)
        return self._issue(f"{words('reduce', array, op)} to rank {root}", call, (array,), async_op)

    def gather(self, array: Any, out: Any | None, root: int, async_op: bool = False) -> Work:
        self.check("gather", array)
        check_root(self, root)
        calls, kept = [self._send(array, root)], [array]
        if self.rank == root:
            rows = check_root_array(self, "gather", out)
            self.check("gather", rows, in_place=True)
            check_gathered(self, "gather", rows, array)
            calls += [self._receive(rows[rank], rank) for rank in range(self.size)]
            kept.append(rows)
        what = f"{words('gather', array)} to rank {root}"
        return self._issue(what, self._grouped(calls), kept, async_op)

    def scatter(self, out: Any, rows: Any | None, root: int, async_op: bool = False) -> Work:
        self.check("scatter", out, in_place=True)
        check_root(self, root)
        calls, kept = [self._receive(out, root)], [out]
        if self.rank == root:
            table = check_root_array(self, "scatter", rows)
            self.check("scatter", table)
            check_scattered(self, "scatter", out, table)
            calls += [self._send(table[rank], rank) for rank in range(self.size)]
            kept.append(table)
        what = f"{words('scatter', out)} from rank {root}"
        return self._issue(what, self._grouped(calls), kept, async_op)

    def all_to_all(
        self, outputs: Sequence[Any], inputs: Sequence[Any], async_op: bool = False
    ) -> Work:
        for array in inputs:
            self.check("all_to_all", array)
        for array in outputs:
            self.check("all_to_all", array, in_place=True)
        check_exchange(self, outputs, inputs)
        calls = [self._send(array, rank) for rank, array in enumerate(inputs)]
        calls += [self._receive(array, rank) for rank, array in enumerate(outputs)]
        return self._issue("GPU all_to_all", self._grouped(calls), (*outputs, *inputs), async_op)

    def barrier(self, async_op: bool = False) -> Work:
        """The stream, not the host, goes on once all ranks' streams have come."""
        return self.all_reduce(self._token, ReduceOp.MAX, async_op)

    def reduce_tree(self, tree: TreeSum, array: Any, others: Sequence[Any], mean: bool) -> Work:
        self.check("reduce_tree", array, in_place=True)
        if self.size == 1:
            array[...] = tree.add_up([*others[: tree.counts[0] - 1], array], mean)
            return COMPLETED
        key = (array.size, array.dtype.name, tree)
        exchange = self._trees.get(key)
        if exchange is None:
            exchange = self._trees[key] = TreeExchange(self, tree, array)
        return exchange.reduce(array, others, mean)

    def exchange_lists(
        self, outputs: Sequence[Sequence[Any]], inputs: Sequence[Sequence[Any]]
    ) -> Work:
        """Send the arrays of ``inputs[r]`` to rank r; receive those of ``outputs[r]`` from it."""
        calls = [self._send(array, rank) for rank, row in enumerate(inputs) for array in row]
        calls += [self._receive(array, rank) for rank, row in enumerate(outputs) for array in row]
        kept = [array for row in (*inputs, *outputs) for array in row]
        return self._issue("GPU exchange of shares", self._grouped(calls), kept, async_op=True)

    def gather_shares(self, array: Any, bounds: Sequence[tuple[int, int]]) -> Work:
        """Give all ranks the elements [low, high) of every rank, in place."""
        calls = [
            self._broadcast_from(array[low:high], rank)
            for rank, (low, high) in enumerate(bounds)
            if low < high
        ]
        return self._issue(
            words("gathering of shares", array), self._grouped(calls), (array,), async_op=True
        )

    def _broadcast_from(self, array: Any, root: int) -> Callable[[int], object]:
        place, size = pointer(array), array.nbytes
        return lambda stream: self.comm.broadcast(place, place, size, BYTES, root, stream)

    # ---- messages --------------------------------------------------------------------------

    def isend(self, array: Any, peer: int, tag: int = 0) -> Work:
        self._check_message("send", array, peer, tag)
        what = f"GPU send of {array.nbytes} bytes to rank {peer}"
        return self._message(what, self._send(array, peer), array)

    def irecv(self, array: Any, peer: int | None = None, tag: int = 0) -> Work:
        self._check_message("recv", array, peer, tag)
        if peer is None:
            raise DistributedError(
                f"{self.where} recv: NCCL receives from a rank that is named; pass src"
            )
        what = f"GPU receive of {array.nbytes} bytes from rank {peer}"
        work = self._message(what, self._receive(array, peer), array)
        work.source = peer
        return work

    def _message(self, what: str, call: Callable[[int], object], array: Any) -> EventWork:
        if self._together is None:
            work = self._issue(what, call, (array,), async_op=True, message=True)
            assert isinstance(work, EventWork)
            return work
        later = EventWork((array,), device.capturing())
        self._together.append((what, call, later))
        return later

    @contextmanager
    def together(self) -> Iterator[None]:
        """Messages of the block are one operation: alone, each waits until its other side comes."""
        if self._together is not None:
            yield
            return
        batch: list[tuple[str, Callable[[int], object], EventWork]] = []
        self._together = batch
        try:
            yield
        finally:
            self._together = None
        if batch:
            what = "; ".join(what for what, _, _ in batch)
            kept = [array for _, _, later in batch for array in later.kept]
            calls = self._grouped([call for _, call, _ in batch])
            whole = self._issue(what, calls, kept, async_op=True, message=True)
            assert isinstance(whole, EventWork)
            for _, _, later in batch:
                later.done = whole.done

    def _check_message(self, what: str, array: Any, peer: int | None, tag: int) -> None:
        self.check(what, array, in_place=what == "recv")
        check_peer(self, what, peer, tag)
        if tag:
            raise OptionError(
                f"{self.where} {what}: NCCL knows no tags (came {tag}): messages of GPU tensors "
                "between two ranks arrive in the order in which they were sent"
            )

    def _send(self, array: Any, peer: int) -> Callable[[int], object]:
        place, size = pointer(array), array.nbytes
        return lambda stream: self.comm.send(place, size, BYTES, peer, stream)

    def _receive(self, array: Any, peer: int) -> Callable[[int], object]:
        place, size = pointer(array), array.nbytes
        return lambda stream: self.comm.recv(place, size, BYTES, peer, stream)

    # ---- groups ----------------------------------------------------------------------------

    def split(self, ranks: Sequence[int] | None) -> Communicator | None:
        part = self.control.split(ranks)
        self.split_into(part, check_members(self, ranks))
        return None if part is None else part.gpu_part

    def split_into(self, part: Communicator | None, members: Sequence[int] | None) -> None:
        """Collective. Give the part of `control` that was split off its own part of NCCL's."""
        color = NO_COLOR if members is None else members[0]
        key = 0 if members is None else list(members).index(self.rank)
        with self._lock:
            comm = self.comm.commSplit(color, key)
        if part is not None:
            part.gpu_part = NcclCommunicator(part, comm)

    # ---- failure and end -------------------------------------------------------------------

    def check_failure(self) -> None:
        """Raise what the watch thread has found."""
        if self.failure is not None:
            raise self.failure

    def stop(self, error: DistributedError) -> None:
        """Called by the watch thread: nothing of this communicator is to be used any more."""
        self.failure = error
        self._watch.close()
        self._give_up()
        self.comm = _Gone()

    def close(self) -> None:
        if self.closed:
            return
        self.closed = True
        if self.failure is None:
            self.stream.synchronize()  # under the eyes of the watch
        self._watch.close()
        if self.failure is None:
            self._give_up.detach()
            comm, self.comm = self.comm, _Gone()
            comm.destroy()
        self.under_way.clear()


def _give_up(comm: Any, closed: threading.Event) -> None:
    """End the watch and the communicator, without a word to the others."""
    closed.set()
    comm.abort()


class _Gone:
    """In the place of a communicator that was given back."""

    def __getattr__(self, name: str) -> Any:
        raise DistributedError(f"NCCL's communicator was closed or aborted before this {name}")
