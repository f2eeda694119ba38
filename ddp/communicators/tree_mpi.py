"""The sum over a tree with plain MPI: scatter the nodes' shares, add up, gather the sums.

Stage of the flow: beside the MPI communicator, which hands its MPI objects in. May import: numpy,
`base`, `tree`, and mpi4py by way of `mpi.py`.

MPI's own reductions choose their order by the number of ranks and the size of the message. So the
data only travels by MPI (Ialltoallv, Iallgatherv) and is added here. With one node per rank the
traffic is that of a ring all-reduce. Non-blocking collectives must start in the same order on all
ranks: all go through one queue, of which only the head may start.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from allgrad.ddp.communicators.base import Array
from allgrad.ddp.communicators.mpi import MPI, MpiCommunicator
from allgrad.ddp.communicators.tree import TreeSum, share_bounds

PIECE_BYTES = 1 << 20  # of a node; large pieces leave the cache between scatter, sum and gather
_UNDER_WAY = 4  # collectives that are started at a time
_LINE_BYTES = 64


class _Stage:
    """One non-blocking collective, or a few that are started together.

    Args:
        start: starts them.
        finish: called when they have ended.
        after: a stage that must have ended before.
    """

    def __init__(
        self, start: Callable[[], list[MPI.Request]], finish: Callable[[], None], after: Any
    ) -> None:
        self._start, self._finish, self._after = start, finish, after
        self._requests: list[MPI.Request] = []
        self.done = False

    def ready(self) -> bool:
        return self._after is None or self._after.done

    def start(self) -> None:
        self._requests = self._start()

    def test(self) -> bool:
        if not MPI.Request.Testall(self._requests):
            return False
        self._finish()
        self.done = True
        return True


class TreeQueue:
    """Sums over trees on an MPI communicator of their own, one after the other.

    Args:
        communicator: whose ranks these are; its diagnosis watches the sums.
        comm: nothing else may travel on it; stays the communicator's.
    """

    def __init__(self, communicator: MpiCommunicator, comm: MPI.Intracomm) -> None:
        self.communicator, self._comm = communicator, comm
        self._waiting: deque[_Stage] = deque()
        self._running: deque[_Stage] = deque()

    def issue(self, tree: TreeSum, array: Array, others: Sequence[Array], mean: bool) -> TreeWork:
        """See `Communicator.reduce_tree`."""
        what = f"sum of {array.nbytes} bytes over {tree.shards} shards"
        inquiry = self.communicator.inquiry
        number = 0 if inquiry is None else inquiry.begin(what)
        step = PIECE_BYTES // array.itemsize
        own = [*others[: tree.counts[self.communicator.rank] - 1], array]
        scatter: _Stage | None = None
        gather: _Stage | None = None
        for low in range(0, array.size, step):
            nodes = [node[low : low + step] for node in own]
            piece = _Piece(self._comm, tree, nodes, mean)
            scatter = _Stage(piece.scatter, piece.add_up, None)
            self._waiting.append(scatter)
            if gather is not None:  # of the piece before: it is added up meanwhile
                self._waiting.append(gather)
            gather = _Stage(piece.gather, piece.end, scatter)
        if gather is not None:
            self._waiting.append(gather)
        self.progress()
        return TreeWork(self, what, number, gather)

    def progress(self) -> None:
        """Do all that can be done without waiting."""
        waiting, running = self._waiting, self._running
        moved = True
        while moved:
            moved = False
            while running and running[0].test():
                running.popleft()
                moved = True
            while waiting and len(running) < _UNDER_WAY and waiting[0].ready():
                stage = waiting.popleft()
                stage.start()
                running.append(stage)
                moved = True


class TreeWork:
    """The Work of one sum; `number` is the one under which the diagnosis knows it."""

    def __init__(self, queue: TreeQueue, what: str, number: int, last: _Stage | None) -> None:
        self._queue, self._what, self._number, self._last = queue, what, number, last

    def test(self) -> bool:
        return self._queue.communicator.watched(self._is_complete, self._number)

    def _is_complete(self) -> bool:
        if self._last is None or self._last.done:
            return True
        self._queue.progress()
        return self._last.done

    def wait(self) -> None:
        self._queue.communicator.wait_until(self.test, self._what, self._number)


class _Piece:
    """One piece of the elements: this rank's nodes there, and after the scatter its share of all.

    Args:
        nodes: this rank's, the last one takes the result.
    """

    def __init__(
        self, comm: MPI.Intracomm, tree: TreeSum, nodes: Sequence[Array], mean: bool
    ) -> None:
        self._comm, self._tree, self._nodes, self._mean = comm, tree, nodes, mean
        array = nodes[-1]
        line = max(1, _LINE_BYTES // array.itemsize)
        bounds = [b * array.itemsize for b in share_bounds(array.size, tree.size, line)]
        self._starts = bounds[:-1]
        self._lengths = [b - a for a, b in pairwise(bounds)]
        self._share: Any = None

    def scatter(self) -> list[MPI.Request]:
        """The j-th nodes of all ranks travel in the j-th collective, straight from their memory."""
        tree, rank, dtype = self._tree, self._comm.Get_rank(), self._nodes[-1].dtype
        length, nothing = self._lengths[rank], [0] * tree.size
        held = np.empty((sum(tree.counts), length), np.uint8)
        first = [sum(tree.counts[:r]) * length for r in range(tree.size)]
        requests = []
        for j in range(max(tree.counts)):
            if j < len(self._nodes):
                sent: Any = [self._nodes[j].view(np.uint8), self._lengths, self._starts, MPI.BYTE]
            else:
                sent = [np.empty(0, np.uint8), nothing, nothing, MPI.BYTE]
            lengths = [length if j < count else 0 for count in tree.counts]
            starts = [
                start + j * length if j < count else 0
                for start, count in zip(first, tree.counts, strict=True)
            ]
            requests.append(self._comm.Ialltoallv(sent, [held, lengths, starts, MPI.BYTE]))
        self._share = held.view(dtype)
        return requests

    def add_up(self) -> None:
        self._share = self._tree.add_up(list(self._share), self._mean)

    def gather(self) -> list[MPI.Request]:
        result = self._nodes[-1].view(np.uint8)
        sent = [self._share.view(np.uint8), MPI.BYTE]
        received = [result, self._lengths, self._starts, MPI.BYTE]
        return [self._comm.Iallgatherv(sent, received)]

    def end(self) -> None:
        self._share = None
