"""Ranks on several hosts: MPI's own collectives. The one file that imports mpi4py.

Stage of the flow: bottom of ddp. May import: mpi4py, numpy, `base`.

Large arrays travel as several non-blocking collectives of at most `PIECE_BYTES`: both MPICH and
Open MPI allocate temporary memory per call, and splitting made 100 MB 2.5 times faster (40 to
16 ms). A non-blocking collective hardly moves unless MPI is called: `test()` from the gradient
hooks does that (25 MB hidden behind 20 ms of compute left 0.001 ms to wait, without it 3.5 ms).
"""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from time import perf_counter
from typing import TYPE_CHECKING, Any

# Read when MPI starts. Open MPI's UCX component prints an error line for every shared-memory window
# that it cannot serve, and then another component serves it.
os.environ.setdefault("OMPI_MCA_osc", "^ucx")
# UCX warns of every message that nobody has read when MPI ends: where a program ends without
# destroy_process_group, the notes by which ranks tell each other that they leave.
os.environ.setdefault("UCX_LOG_LEVEL", "error")
# How much UCX takes from a TCP socket each time it is called. With its own 64 KB a rank that
# computes, and calls now and then, is slower than the link: 8 MB at 10 Gbit/s needed 127 calls
# instead of 16, and alone 25 ms instead of 12. Without TCP, UCX would complain about the variable.
if "tcp" in os.environ.get("UCX_TLS", "tcp").replace("^tcp", ""):
    os.environ.setdefault("UCX_TCP_RX_SEG_SIZE", "512k")

import numpy as np
from mpi4py import MPI
from numpy.typing import NDArray

from allgrad.ddp.communicators import mpi_exchange
from allgrad.ddp.communicators.base import (
    BITWISE,
    COMPLETED,
    DEFAULT_TIMEOUT_S,
    Array,
    Communicator,
    ReduceOp,
    Work,
    aligned_zeros,
    check_array,
    check_gathered,
    check_reduction,
    check_root,
    check_scattered,
    scale_to_mean,
)
from allgrad.ddp.communicators.local import LocalCommunicator
from allgrad.ddp.communicators.mpi_background import MpiBackground
from allgrad.ddp.communicators.mpi_inquiry import MpiInquiry
from allgrad.ddp.communicators.mpi_pair import Pair, can_pair, start_pair
from allgrad.ddp.communicators.splitting import adopt, agree
from allgrad.ddp.diagnosis.forked import FORKED, mark_in_children
from allgrad.ddp.diagnosis.settings import Settings
from allgrad.dtypes import is_half
from allgrad.errors import DistributedError

if TYPE_CHECKING:
    from allgrad.ddp.communicators.tree import TreeSum
    from allgrad.ddp.communicators.tree_mpi import TreeQueue
    from allgrad.ddp.diagnosis.causes import Finding

PIECE_BYTES = 2 << 20
_UNDER_WAY = 4  # pieces of one collective that are started at a time
_SPIN_S, _SLEEP_S = 2e-3, 1e-4
_ABORT_S = 1.0

_MPI_OP = {
    ReduceOp.SUM: MPI.SUM,
    ReduceOp.AVG: MPI.SUM,
    ReduceOp.PRODUCT: MPI.PROD,
    ReduceOp.MIN: MPI.MIN,
    ReduceOp.MAX: MPI.MAX,
    ReduceOp.BAND: MPI.BAND,
    ReduceOp.BOR: MPI.BOR,
    ReduceOp.BXOR: MPI.BXOR,
}

# Starts a piece and returns its request and what to do once it has arrived.
_Start = Callable[[], tuple[MPI.Request | Pair, Callable[[], None] | None]]


def world(timeout_s: float = DEFAULT_TIMEOUT_S) -> tuple[MPI.Intracomm, bool]:
    """A private copy of MPI_COMM_WORLD, and whether all its ranks are on one host."""
    comm = MPI.COMM_WORLD.Dup()
    return comm, is_one_host(comm)


def end_all(code: int) -> None:
    """End all ranks of the job, this one too."""
    MPI.COMM_WORLD.Abort(code)
    # MPICH's returns: its launcher ends us, unless the network between us and it is gone. A normal
    # end would then wait for the launcher for ever.
    time.sleep(_ABORT_S)
    os._exit(code)


def library() -> str:
    """The MPI library in use, one line, e.g. "MPICH Version: 5.0.2"."""
    return " ".join(MPI.Get_library_version().splitlines()[0].strip("\0").split())


class MpiCommunicator(Communicator):
    """Collectives of an MPI communicator, wherever its ranks are.

    Args:
        comm: an intracommunicator; owned and freed by `close`.
        timeout_s: a collective that takes longer raises DistributedError.
        diagnosis: what ranks keep ready for the case that something is wrong.
    """

    has_wire = True

    def __init__(
        self,
        comm: Any,
        timeout_s: float = DEFAULT_TIMEOUT_S,
        diagnosis: Settings = Settings(),  # noqa: B008 - immutable
    ) -> None:
        self.rank, self.size, self.name = comm.Get_rank(), comm.Get_size(), "mpi"
        self.timeout_s = timeout_s
        self.mpi, self.comm = MPI, comm
        self.piece_bytes, self.on_the_wire = PIECE_BYTES, on_the_wire
        self._comm, self._diagnosis = comm, diagnosis
        self._pair = comm.Dup() if self.size == 2 else None
        # made now, as all ranks are here: later it would wait, unwatched, for one that never comes
        self._tree_comm = comm.Dup()
        self.inquiry = MpiInquiry(self, comm.Dup(), diagnosis) if diagnosis.enabled else None
        self.flight = None if self.inquiry is None else self.inquiry.recorder
        threads = MPI.Query_thread() == MPI.THREAD_MULTIPLE
        self._background = MpiBackground(MPI, self._comm) if threads else None
        self._queue: deque[_MpiWork] = deque()  # those with pieces that have not been started
        self._closed = False
        mark_in_children(self)
        self._trees: TreeQueue | None = None

    def allocate(self, size_bytes: int) -> NDArray[np.uint8]:
        return aligned_zeros(size_bytes)

    def all_reduce(
        self, array: Array, op: ReduceOp | str = ReduceOp.SUM, async_op: bool = False
    ) -> Work:
        check_array(self, "all_reduce", array, in_place=True)
        op = check_reduction(self, array, op)
        flat = array.reshape(-1)
        step = PIECE_BYTES // array.itemsize

        def start(piece: Array) -> _Start:
            return lambda: self._start_reduce(piece, op)

        pieces = (start(flat[i : i + step]) for i in range(0, flat.size, step))
        return self.issue(_words("all_reduce", array, op), pieces, async_op)

    def _start_reduce(
        self, piece: Array, op: ReduceOp
    ) -> tuple[MPI.Request | Pair, Callable[[], None] | None]:
        if self._pair is not None and can_pair(piece, op):
            return start_pair(self._pair, piece, op)
        wire, mpi_op = on_the_wire(piece, op)
        request = self._comm.Iallreduce(MPI.IN_PLACE, wire, mpi_op)

        def finish() -> None:
            if op is ReduceOp.AVG:
                scale_to_mean(wire, self.size)
            if wire.dtype.kind == "f" and wire.dtype != piece.dtype:
                piece[:] = wire

        return request, finish

    def broadcast(self, array: Array, root: int = 0, async_op: bool = False) -> Work:
        check_array(self, "broadcast", array, in_place=True)
        check_root(self, root)
        flat = array.reshape(-1).view(np.uint8)

        def start(piece: Array) -> _Start:
            return lambda: (self._comm.Ibcast(piece, root), None)

        pieces = (start(flat[i : i + PIECE_BYTES]) for i in range(0, flat.size, PIECE_BYTES))
        return self.issue(f"broadcast of {array.nbytes} bytes from rank {root}", pieces, async_op)

    def all_gather_into(self, out: Array, array: Array, async_op: bool = False) -> Work:
        check_gathered(self, "all_gather", out, array)
        send, receive = array.reshape(-1).view(np.uint8), out.reshape(-1).view(np.uint8)
        start: _Start = lambda: (self._comm.Iallgather(send, receive), None)  # noqa: E731
        return self.issue(f"all_gather of {array.nbytes} bytes", iter([start]), async_op)

    def reduce_scatter_into(
        self, out: Array, array: Array, op: ReduceOp | str = ReduceOp.SUM, async_op: bool = False
    ) -> Work:
        check_scattered(self, "reduce_scatter", out, array)
        op = check_reduction(self, array, op)
        wire, mpi_op = on_the_wire(array, op)
        mine = np.empty(out.shape, wire.dtype)

        def finish() -> None:
            if op is ReduceOp.AVG:
                scale_to_mean(mine, self.size)
            out[...] = mine

        start: _Start = lambda: (  # noqa: E731
            self._comm.Ireduce_scatter_block(wire, mine, mpi_op),
            finish,
        )
        return self.issue(_words("reduce_scatter", array, op), iter([start]), async_op)

    def barrier(self, async_op: bool = False) -> Work:
        start: _Start = lambda: (self._comm.Ibarrier(), None)  # noqa: E731
        return self.issue("barrier", iter([start]), async_op)

    def reduce_tree(self, tree: TreeSum, array: Array, others: Sequence[Array], mean: bool) -> Work:
        from allgrad.ddp.communicators.tree_mpi import TreeQueue  # noqa: PLC0415 - imports this

        self.check_open("reduce_tree")
        if self._trees is None:
            self._trees = TreeQueue(self, self._tree_comm)
        return self._trees.issue(tree, array, others, mean)

    def reduce(
        self, array: Array, root: int, op: ReduceOp | str = ReduceOp.SUM, async_op: bool = False
    ) -> Work:
        return mpi_exchange.reduce(self, array, root, op, async_op)

    def gather(self, array: Array, out: Array | None, root: int, async_op: bool = False) -> Work:
        return mpi_exchange.gather(self, array, out, root, async_op)

    def scatter(self, out: Array, rows: Array | None, root: int, async_op: bool = False) -> Work:
        return mpi_exchange.scatter(self, out, rows, root, async_op)

    def all_to_all(
        self, outputs: Sequence[Array], inputs: Sequence[Array], async_op: bool = False
    ) -> Work:
        return mpi_exchange.all_to_all(self, outputs, inputs, async_op)

    def isend(self, array: Array, peer: int, tag: int = 0) -> Work:
        return mpi_exchange.isend(self, array, peer, tag)

    def irecv(self, array: Array, peer: int | None = None, tag: int = 0) -> Work:
        return mpi_exchange.irecv(self, array, peer, tag)

    def split(self, ranks: Sequence[int] | None) -> Communicator | None:
        return split_off(self, self._comm, ranks, self._diagnosis)

    def issue(self, what: str, pieces: Iterator[_Start], async_op: bool) -> Work:
        """Start a collective made of pieces; its Work finishes them in order."""
        self.check_open(what)
        work = _MpiWork(self, what, pieces)
        self._queue.append(work)
        if work.test():
            return COMPLETED
        if not async_op:
            work.wait()
        elif self._background is not None:
            self._background.begins(work)
        return work

    def check_open(self, what: str) -> None:
        """Refuse a collective after `close`, and in a forked child."""
        if self._closed or self.forked:
            why = FORKED if self.forked else f"{what} after the communicator was closed"
            raise DistributedError(f"{self.where} {why}")

    def wait_until(self, ready: Callable[[], bool], what: str, number: int) -> None:
        """Block until a collective has ended, and notice what would keep it from that.

        Args:
            ready: pushes it on; true at its end.
            what: the collective, for messages.
            number: from ``inquiry.begin``, if there is an inquiry.

        Raises:
            DistributedError: another rank failed or differs, or the time-out passed.
        """
        if self.inquiry is not None:
            self.inquiry.wait_until(ready, number, _pause)
            return
        begin = time.monotonic()
        while not ready():
            waited = time.monotonic() - begin
            if waited > self.timeout_s:
                raise DistributedError(
                    f"{self.where} waited {waited:.0f} s in {what}; at least one rank has not "
                    "arrived at it. Is a rank stuck, slower than the time-out of "
                    "init_process_group, or gone another way?"
                )
            _pause(waited)

    def watched(
        self, is_complete: Callable[[], bool], number: int, needs_one_rank: bool = False
    ) -> bool:
        """Whether a collective is done here, and known to be the same one on all ranks.

        Args:
            is_complete: pushes it on; whether it is done.
            number: under which the diagnosis knows it.
            needs_one_rank: it may end before the others have come.

        Raises:
            DistributedError: ranks have issued different ones, or MPI failed.
        """
        if self.inquiry is None:
            return is_complete()
        try:
            done = is_complete()
        except MPI.Exception as error:
            raise self.inquiry.convert(error, number) from error
        checked = self.inquiry.checked(number)
        return done and (checked or needs_one_rank)

    def progress(self) -> None:
        """Start pieces in the order in which their collectives were issued.

        A later collective begins when all pieces of the earlier ones have been started: MPI
        matches them by order, which must not depend on what has arrived when.
        """
        if self._background is not None:
            self._background.pushed_s = perf_counter()
        while self._queue and self._queue[0].push_on():
            self._queue.popleft()

    def leave(self) -> None:
        if not self._closed:
            self._stop_background()
            mpi_exchange.post_left(self)
            if self.inquiry is not None:
                self.inquiry.leave()

    def _stop_background(self) -> None:
        if self._background is not None:
            self._background.close()

    def alarm(self, finding: Finding) -> DistributedError | None:
        if self.inquiry is None or self._background is None:
            return None  # MPI may be called by this rank's own thread only
        return self.inquiry.fail(finding)

    def abort(self, code: int) -> None:
        end_all(code)

    def close(self) -> None:
        if not self._closed:
            self.barrier()
            self._closed = True
            self._stop_background()
            if self.inquiry is not None:
                self.inquiry.close()
            self._tree_comm.Free()
            if self._pair is not None:
                self._pair.Free()
            self._comm.Free()


def split_off(
    parent: Communicator, comm: Any, ranks: Sequence[int] | None, diagnosis: Settings
) -> Communicator | None:
    """Collective over `parent`, whose MPI communicator is `comm`; see `Communicator.split`."""
    members = agree(parent, ranks)  # all have come: what follows does not wait for anybody
    if members is None:
        comm.Split(MPI.UNDEFINED, 0)
        return None
    part = comm.Split(members[0], members.index(parent.rank))
    return adopt(parent, open_communicator(part, parent.timeout_s, None, diagnosis), members)


def open_communicator(
    comm: Any,
    timeout_s: float,
    shared_memory: bool | None = None,
    diagnosis: Settings = Settings(),  # noqa: B008 - immutable
) -> Communicator:
    """The communicator that fits the hosts of the ranks of an MPI communicator; it owns that.

    Args:
        comm: an intracommunicator.
        timeout_s, diagnosis: see `MpiCommunicator`.
        shared_memory: False: none, even if all ranks are on one host.
    """
    if comm.Get_size() == 1:
        comm.Free()
        return LocalCommunicator(timeout_s)
    if shared_memory is not False and is_one_host(comm):
        from allgrad.ddp.communicators.shm import ShmCommunicator  # noqa: PLC0415 - imports this

        return ShmCommunicator(comm, timeout_s, diagnosis)
    return MpiCommunicator(comm, timeout_s, diagnosis)


def hosts_of(comm: Any) -> list[list[int]]:
    """Collective. The ranks of each host, in ascending order."""
    node = comm.Split_type(MPI.COMM_TYPE_SHARED)
    first = node.bcast(comm.Get_rank())
    node.Free()
    firsts = comm.allgather(first)
    return [
        [rank for rank, other in enumerate(firsts) if other == first]
        for first in dict.fromkeys(firsts)
    ]


def is_one_host(comm: Any) -> bool:
    """Collective. Whether all ranks share memory."""
    node = comm.Split_type(MPI.COMM_TYPE_SHARED)
    one = bool(comm.allreduce(node.Get_size() == comm.Get_size(), MPI.LAND))
    node.Free()
    return one


class _MpiWork:
    """The pieces of one collective, a few of them under way at a time, finished in order."""

    def __init__(self, communicator: MpiCommunicator, what: str, pieces: Iterator[_Start]) -> None:
        self._communicator, self._what, self._pieces = communicator, what, pieces
        self._started: list[tuple[MPI.Request | Pair, Callable[[], None] | None]] = []
        self._exhausted = False
        inquiry = communicator.inquiry
        self._number = 0 if inquiry is None else inquiry.begin(what)
        # The result of others is there when all have come; these may wait for one rank only.
        self._rooted = " rank " in what

    def push_on(self) -> bool:
        """Finish the pieces that have arrived and start others; True once all are started."""
        self._start_more()
        while self._started:
            request, finish = self._started[0]
            if not request.Test():
                break
            del self._started[0]
            if finish is not None:
                finish()
            self._start_more()
        return self._exhausted

    def _start_more(self) -> None:
        while not self._exhausted and len(self._started) < _UNDER_WAY:
            piece = next(self._pieces, None)
            if piece is None:
                self._exhausted = True
            else:
                self._started.append(piece())

    def test(self) -> bool:
        return self._communicator.watched(self._is_complete, self._number, self._rooted)

    def _is_complete(self) -> bool:
        self._communicator.progress()
        # not exhausted: it waits behind an earlier one, or has pieces left that wait for others
        done = self._exhausted and self.push_on() and not self._started
        if done and self._communicator._background is not None:
            self._communicator._background.ends(self)
        return done

    def wait(self) -> None:
        self._communicator.wait_until(self.test, self._what, self._number)


def _pause(waited_s: float) -> None:
    if waited_s > _SPIN_S:
        time.sleep(_SLEEP_S)


def _words(kind: str, array: Array, op: ReduceOp) -> str:
    return f"{kind} of {array.nbytes} bytes ({array.dtype.name}, {op.value})"


def on_the_wire(array: Array, op: ReduceOp) -> tuple[Array, MPI.Op]:
    """What MPI can reduce in place of the array: itself, or for half precision a float32 copy.

    Truth values travel as bytes: as in numpy, their sum is "any" and their product "all".
    """
    if is_half(array.dtype):
        return array.astype(np.float32), _MPI_OP[op]
    if array.dtype == np.bool_ and op not in BITWISE:
        return array.view(np.uint8), MPI.MAX if op in (ReduceOp.SUM, ReduceOp.MAX) else MPI.MIN
    return array.view(np.uint8) if array.dtype == np.bool_ else array, _MPI_OP[op]
