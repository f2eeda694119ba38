"""Collectives of ranks that share memory: processes of one host, or threads of one process.

Stage of the flow: one implementation of `Communicator` over a small `SharedMemory` protocol; the
providers are `shm.py` (MPI shared-memory window) and `thread.py`. May import: numpy, `base`,
`board`, `operations`. Because both providers run this same code, threads and processes give the
same bits.

Progress is made by whoever calls `test()` or `wait()`; there is no helper thread. An operation of
more than one piece is queued piece by piece, so nothing is staged that is larger than a slot.
"""

from __future__ import annotations

import weakref
from collections import deque
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from allgrad.ddp.communicators import exchange
from allgrad.ddp.communicators import operations as ops
from allgrad.ddp.communicators.base import (
    ALIGNMENT_BYTES,
    COMPLETED,
    DEFAULT_TIMEOUT_S,
    Array,
    Communicator,
    ReduceOp,
    Work,
    check_array,
    check_gathered,
    check_reduction,
    check_root,
    check_scattered,
)
from allgrad.ddp.communicators.board import BOARD_BYTES, RING, Board
from allgrad.ddp.communicators.mailbox import Mailbox, inbox_bytes
from allgrad.ddp.communicators.memory import Bytes, SharedMemory, Window
from allgrad.ddp.communicators.tree import TreeSum
from allgrad.ddp.communicators.tree_shared import ReduceTree
from allgrad.ddp.diagnosis.causes import GONE, LEFT, MISMATCH, TIMEOUT, Finding
from allgrad.ddp.diagnosis.flight import check_word
from allgrad.ddp.diagnosis.forked import FORKED
from allgrad.ddp.diagnosis.inquiry import Inquiry
from allgrad.ddp.diagnosis.process import is_alive
from allgrad.ddp.diagnosis.settings import Settings
from allgrad.errors import DistributedError

# Staging memory per rank. Smaller pieces stay in faster caches but meet more often: measured, 1 MiB
# twice is as fast as any when the cores are ours, and the fastest when they are shared.
PIECE_BYTES = 1 << 20
SLOTS = 2
_LOOK_S = 0.25  # a rank that waits looks so often whether the others still live


class SharedMemoryCommunicator(Communicator):
    """All collectives over a `SharedMemory`; ranks are its ranks."""

    def __init__(
        self,
        memory: SharedMemory,
        name: str,
        timeout_s: float = DEFAULT_TIMEOUT_S,
        diagnosis: Settings = Settings(),  # noqa: B008 - immutable
    ) -> None:
        self.rank, self.size, self.name = memory.rank, memory.size, name
        self.timeout_s = timeout_s
        self._memory = memory
        inboxes = BOARD_BYTES + SLOTS * PIECE_BYTES
        self._control, parts = memory.allocate(inboxes + inbox_bytes(self.size))
        self._board = Board(parts, self.rank)
        self._inquiry = Inquiry(self, self._board, memory, diagnosis)
        self.flight = self._inquiry.recorder
        self._slots = [
            [part[start : start + PIECE_BYTES] for part in parts]
            for start in range(BOARD_BYTES, inboxes, PIECE_BYTES)
        ]
        self._mailbox = Mailbox(self, memory, self._board, [part[inboxes:] for part in parts])
        self._slot_used = [0] * SLOTS  # the last operation that used the slot
        self._sequence = 0
        self._to_stage: deque[ops.Operation] = deque()
        self._to_consume: deque[ops.Operation] = deque()
        self._unchecked: deque[ops.Operation] = deque()
        self._windows: list[Window] = []
        self._window_of: dict[int, Window] = {}
        self._closed = False

    # ---- memory ----------------------------------------------------------------------------

    def allocate(self, size_bytes: int) -> Bytes:
        self._check_open("allocate")
        self._free_unused_windows()
        handle, parts = self._memory.allocate(max(size_bytes, ALIGNMENT_BYTES))
        # Views that the user takes have `owner` as their base; when the last is gone, so is it.
        owner = np.frombuffer(parts[self.rank].data, np.uint8)
        lookup, key = self._window_of, id(owner)
        window = Window(handle, parts, weakref.ref(owner, lambda _: _forget(lookup, key)))
        self._windows.append(window)
        lookup[key] = window
        return owner[:size_bytes]

    def _free_unused_windows(self) -> None:
        """Free the allocations of which no rank holds a view any more."""
        if not self._windows:
            return
        unused = np.array([w.owner() is None for w in self._windows], np.uint8)
        self.all_reduce(unused, ReduceOp.MIN)
        for window, free in zip(list(self._windows), unused.tolist(), strict=True):
            if free:
                self._windows.remove(window)
                window.parts.clear()
                self._memory.free(window.handle)

    def _shared_views(self, array: Array) -> list[Array] | None:
        """The same bytes of every rank's allocation, if `array` is a view of one."""
        owner: Any = array
        while isinstance(owner.base, np.ndarray):
            owner = owner.base
        window = self._window_of.get(id(owner))
        if window is None:
            return None
        start = _address(array) - _address(window.parts[self.rank])
        stop = start + array.nbytes
        return [part[start:stop].view(array.dtype) for part in window.parts]

    # ---- collectives -----------------------------------------------------------------------

    def all_reduce(
        self, array: Array, op: ReduceOp | str = ReduceOp.SUM, async_op: bool = False
    ) -> Work:
        check_array(self, "all_reduce", array, in_place=True)
        op = check_reduction(self, array, op)
        char = array.dtype.char
        shared = self._shared_views(array)
        if shared is not None:
            signature = ops.encode_signature(_BUCKET, array.nbytes, char, op)
            return self._issue([ops.ReduceShares(signature, shared, self.rank, op)], async_op)
        signature = ops.encode_signature("all_reduce", array.nbytes, char, op)
        pieces = _pieces(array.reshape(-1), PIECE_BYTES // array.itemsize)
        return self._issue([ops.ReducePiece(signature, p, op) for p in pieces], async_op)

    def reduce_parts(
        self,
        array: Array,
        parts: Sequence[Sequence[tuple[int, int]]],
        op: ReduceOp | str = ReduceOp.SUM,
        async_op: bool = False,
    ) -> Work:
        check_array(self, "reduce_parts", array, in_place=True)
        op = check_reduction(self, array, op)
        shared = self._shared_views(array)
        if shared is None:
            return super().reduce_parts(array, parts, op, async_op)
        signature = ops.encode_signature(_BUCKET, array.nbytes, array.dtype.char, op, extra=2047)
        own = parts[self.rank]
        return self._issue([ops.ReduceParts(signature, shared, self.rank, op, own)], async_op)

    def broadcast(self, array: Array, root: int = 0, async_op: bool = False) -> Work:
        check_array(self, "broadcast", array, in_place=True)
        check_root(self, root)
        signature = ops.encode_signature("broadcast", array.nbytes, extra=root)
        pieces = _pieces(array.reshape(-1).view(np.uint8), PIECE_BYTES)
        return self._issue(
            [ops.BroadcastPiece(signature, p, root, self.rank) for p in pieces], async_op
        )

    def all_gather_into(self, out: Array, array: Array, async_op: bool = False) -> Work:
        check_gathered(self, "all_gather", out, array)
        rows = out.reshape(self.size, -1).view(np.uint8)
        signature = ops.encode_signature("all_gather", array.nbytes)
        flat = array.reshape(-1).view(np.uint8)

        def operation(start: int, piece: Bytes) -> ops.Operation:
            def take(parts: list[Array]) -> None:
                for row, part in zip(rows, parts, strict=True):
                    row[start : start + part.size] = part

            return ops.ExchangePiece(signature, piece, take)

        starts = range(0, flat.size, PIECE_BYTES)
        return self._issue([operation(s, flat[s : s + PIECE_BYTES]) for s in starts], async_op)

    def reduce_scatter_into(
        self, out: Array, array: Array, op: ReduceOp | str = ReduceOp.SUM, async_op: bool = False
    ) -> Work:
        check_scattered(self, "reduce_scatter", out, array)
        op = check_reduction(self, array, op)
        flat, rows = out.reshape(-1), array.reshape(self.size, -1)
        signature = ops.encode_signature("reduce_scatter", array.nbytes, array.dtype.char, op)
        step = max(1, PIECE_BYTES // (array.itemsize * self.size))

        def operation(start: int) -> ops.Operation:
            piece = rows[:, start : start + step]

            def take(parts: list[Array]) -> None:
                own = [part[self.rank] for part in parts]
                ops.reduce_rows(own, op, flat[start : start + piece.shape[1]])

            return ops.ExchangePiece(signature, piece, take)

        return self._issue([operation(s) for s in range(0, rows.shape[1], step)], async_op)

    def barrier(self, async_op: bool = False) -> Work:
        return self._issue([ops.Barrier(ops.encode_signature("barrier", 0))], async_op)

    def reduce_tree(self, tree: TreeSum, array: Array, others: Sequence[Array], mean: bool) -> Work:
        views = [self._shared_views(node) for node in (array, *others)]
        shared = [places for places in views if places is not None]
        if self.size == 1 or len(shared) < len(views):
            return super().reduce_tree(tree, array, others, mean)
        nodes = []
        for rank, count in enumerate(tree.counts):
            nodes += [places[rank] for places in shared[1:count]]
            nodes.append(shared[0][rank])
        signature = ops.encode_signature(_BUCKET, array.nbytes, array.dtype.char, extra=tree.shards)
        operation = ReduceTree(signature, tree, self.rank, nodes, shared[0], mean)
        return self._issue([operation], async_op=True)

    def now(self) -> float:
        return self._memory.now()

    def reduce(
        self, array: Array, root: int, op: ReduceOp | str = ReduceOp.SUM, async_op: bool = False
    ) -> Work:
        return exchange.reduce(self, array, root, op, async_op)

    def gather(self, array: Array, out: Array | None, root: int, async_op: bool = False) -> Work:
        return exchange.gather(self, array, out, root, async_op)

    def scatter(self, out: Array, rows: Array | None, root: int, async_op: bool = False) -> Work:
        return exchange.scatter(self, out, rows, root, async_op)

    def all_to_all(
        self, outputs: Sequence[Array], inputs: Sequence[Array], async_op: bool = False
    ) -> Work:
        return exchange.all_to_all(self, outputs, inputs, async_op)

    def isend(self, array: Array, peer: int, tag: int = 0) -> Work:
        return exchange.isend(self, array, peer, tag)

    def irecv(self, array: Array, peer: int | None = None, tag: int = 0) -> Work:
        return exchange.irecv(self, array, peer, tag)

    # ---- progress --------------------------------------------------------------------------

    def _issue(self, pieces: list[ops.Operation], async_op: bool) -> Work:
        """Queue the pieces of one collective; its Work is that of the last piece."""
        self._check_open("a collective")
        if not pieces:
            return COMPLETED
        first, signature = self._sequence + 1, pieces[0].signature
        check = check_word(signature, self.note)
        for piece in pieces:
            self._sequence += 1
            piece.sequence, piece.check = self._sequence, check
        if self.flight is not None:
            self.flight.add(first, self._sequence, signature, self.note, self.step)
        self._to_stage.extend(pieces)
        self.progress()
        work = _PendingWork(self, pieces[-1])
        if not async_op:
            work.wait()
        return work

    def progress(self) -> None:
        """Do all that can be done without waiting, in issue order."""
        if self._mailbox.active:
            self._mailbox.push_on()
        moved = True
        while moved:
            moved = False
            while self._to_stage and self._try_stage(self._to_stage[0]):
                self._to_consume.append(self._to_stage.popleft())
                moved = True
            while self._to_consume and self._try_consume(self._to_consume[0]):
                self._to_consume.popleft()
                moved = True

    def _try_stage(self, operation: ops.Operation) -> bool:
        sequence, board = operation.sequence, self._board
        number = sequence % SLOTS
        # All must have read what the slot held before, and signature `sequence - RING`.
        if not board.all_done(max(self._slot_used[number], sequence - RING)):
            return False
        slots = self._slots[number]
        operation.stage(slots[self.rank])
        self._slot_used[number] = sequence
        board.sign(sequence, operation.signature, operation.check)
        self._memory.fence()
        board.post_ready(sequence)
        self._memory.notify()
        return True

    def _try_consume(self, operation: ops.Operation) -> bool:
        sequence, board, root = operation.sequence, self._board, operation.root
        if root is None:
            if not board.all_ready(sequence):
                return False
        elif not board.is_ready(root, sequence):
            return False
        self._memory.fence()
        if self._unchecked:
            self._check_earlier()
        self._check_signature(operation)
        operation.consume(self._slots[sequence % SLOTS])
        operation.consumed = True
        self._memory.fence()
        board.post_done(sequence)
        self._memory.notify()
        return True

    def _is_complete(self, operation: ops.Operation) -> bool:
        if not operation.consumed:
            return False
        if operation.waits_for_all:
            if not self._board.all_done(operation.sequence):
                return False
            self._memory.fence()
        return True

    def _wait(self, operation: ops.Operation) -> None:
        memory, flight = self._memory, self.flight
        polls, slept, begin = 0, False, memory.now()
        look = min(begin + _LOOK_S, begin + self.timeout_s)
        if flight is not None:
            flight.waiting = operation.sequence
        try:
            while True:
                ticket = memory.ticket()
                self.progress()
                if self._is_complete(operation):
                    return
                polls += 1
                if slept or polls & 63 == 0:
                    self.check_failure()
                    self._check_left(operation)
                    now = memory.now()
                    if now > look:
                        self._look(operation, now - begin)
                        look = min(now + _LOOK_S, max(begin + self.timeout_s, now))
                slept = memory.pause(polls, ticket)
        finally:
            if flight is not None:
                flight.waiting = 0

    # ---- failure ---------------------------------------------------------------------------

    def _check_signature(self, operation: ops.Operation) -> None:
        board, sequence, root = self._board, operation.sequence, operation.root
        if root is None:
            rank = board.differing(sequence, operation.check)
        else:
            # the others may come later, or name another root and wait for nobody, too
            self._unchecked.append(operation)
            rank = None if board.check_of(root, sequence) == operation.check else root
        if rank is not None:
            raise self._inquiry.fail(Finding(MISMATCH, sequence, (rank,)))

    def _check_earlier(self) -> None:
        """Compare operations that had only been compared with their root's, once all have come."""
        board, unchecked = self._board, self._unchecked
        while unchecked and board.all_ready(unchecked[0].sequence):
            earlier = unchecked.popleft()
            rank = board.differing(earlier.sequence, earlier.check)
            # a rank far ahead has written over the place
            if rank is not None and not board.any_ready(earlier.sequence + RING):
                raise self._inquiry.fail(Finding(MISMATCH, earlier.sequence, (rank,)))

    def _late(self, operation: ops.Operation) -> tuple[list[int], str]:
        """The ranks for which the operation waits, and what they have not done."""
        board, sequence, root = self._board, operation.sequence, operation.root
        late = board.not_ready(sequence)
        if root is not None:
            late = [rank for rank in late if rank == root]
        return (late, "arrived at") if late else (board.not_done(sequence), "finished")

    def _check_left(self, operation: ops.Operation) -> None:
        late, _ = self._late(operation)
        left = [rank for rank in late if self._board.has_left(rank)]
        # look again: a rank may have taken part just before it left
        if left and set(left) & set(self._late(operation)[0]):
            raise self._inquiry.fail(Finding(LEFT, operation.sequence, tuple(left)))

    def _look(self, operation: ops.Operation, waited_s: float) -> None:
        """Every now and then in a long wait: do the others live, is it time to say something?"""
        late, _ = self._late(operation)
        dead = self.dead(late)
        if dead and set(dead) & set(self._late(operation)[0]):
            raise self._inquiry.fail(Finding(GONE, operation.sequence, tuple(dead), waited_s))
        if waited_s > self.timeout_s and late:
            finding = Finding(TIMEOUT, operation.sequence, tuple(late), self.timeout_s)
            raise self._inquiry.fail(finding)
        first = next((rank for rank in range(self.size) if rank not in late), None)
        if late and self.rank == first:  # one rank speaks for all that wait
            self._inquiry.warn_if_due(operation.sequence, late, waited_s, self.timeout_s)

    def dead(self, ranks: Sequence[int]) -> list[int]:
        """Those of the ranks whose processes have died."""
        known = [(rank, self._memory.process_of(rank)) for rank in ranks]
        return [rank for rank, who in known if who is not None and not is_alive(who)]

    def check_failure(self) -> None:
        """Raise the error that another rank has raised for all."""
        error = self._inquiry.heard()
        if error is not None:
            raise error

    def _check_open(self, what: str) -> None:
        if self._closed or self.forked:
            why = FORKED if self.forked else f"{what} after the communicator was closed"
            raise DistributedError(f"{self.where} {why}")
        if self._to_stage:
            # a queue that does not move may be one that never will
            self.check_failure()

    def alarm(self, finding: Finding) -> DistributedError | None:
        return self._inquiry.fail(finding)

    def abort(self, code: int) -> None:
        self._memory.abort(code)

    def leave(self) -> None:
        if not self._closed:
            self._inquiry.leave()
            self._board.post_left()
            self._memory.notify()

    def close(self) -> None:
        if self._closed:
            return
        self.barrier()
        self._free_unused_windows()
        self._closed = True
        self._inquiry.close()
        self._board.release()
        self._mailbox.release()
        self._slots.clear()
        self._windows.clear()
        self._memory.free(self._control)
        self._memory.close()


class _PendingWork:
    """The Work of a queued collective: done when its last piece is."""

    __slots__ = ("_communicator", "_done", "_last")

    def __init__(self, communicator: SharedMemoryCommunicator, last: ops.Operation) -> None:
        self._communicator, self._last, self._done = communicator, last, False

    def test(self) -> bool:
        if not self._done:
            self._communicator.progress()
            self._done = self._communicator._is_complete(self._last)
        return self._done

    def wait(self) -> None:
        if not self._done:
            self._communicator._wait(self._last)
            self._done = True


def _forget(lookup: dict[int, Window], key: int) -> None:
    lookup.pop(key, None)


def _address(array: Array) -> int:
    return int(array.__array_interface__["data"][0])


_BUCKET = "all_reduce of a bucket"


def _pieces(flat: Array, count: int) -> Iterator[Array]:
    for start in range(0, flat.size, count):
        yield flat[start : start + count]


def _names(ranks: list[int]) -> str:
    return ("rank " if len(ranks) == 1 else "ranks ") + ", ".join(map(str, ranks))
