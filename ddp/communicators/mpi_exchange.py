"""Collectives in which ranks send to single ranks, and messages, by MPI.

Stage of the flow: a part of the MPI communicator, which hands over mpi4py's module; this file
imports none. May import: numpy, `base`, `arguments`, `message_errors`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from allgrad.ddp.communicators import arguments, message_errors
from allgrad.ddp.communicators.base import Array, ReduceOp, Work, check_exchange, scale_to_mean
from allgrad.errors import ShapeError

if TYPE_CHECKING:
    from allgrad.ddp.communicators.mpi import MpiCommunicator

_LEFT_TAG = (1 << 22) + 1  # an empty message with it: the sender's program has ended
_SPIN_S, _SLEEP_S, _LOOK_S = 2e-3, 1e-4, 0.02


def reduce(c: MpiCommunicator, array: Array, root: int, op: ReduceOp | str, async_op: bool) -> Work:
    """See `Communicator.reduce`."""
    op = arguments.of_reduce(c, array, root, op)
    mine = root == c.rank
    flat, step = array.reshape(-1), c.piece_bytes // array.itemsize

    def start(piece: Array) -> Callable[[], Any]:
        def begin() -> Any:
            wire, mpi_op = c.on_the_wire(piece, op)
            send = c.mpi.IN_PLACE if mine else wire
            request = c.comm.Ireduce(send, wire if mine else None, mpi_op, root)

            def finish() -> None:
                if mine and op is ReduceOp.AVG:
                    scale_to_mean(wire, c.size)
                if mine and wire.dtype.kind == "f" and wire.dtype != piece.dtype:
                    piece[:] = wire

            return request, finish

        return begin

    pieces = (start(flat[i : i + step]) for i in range(0, flat.size, step))
    return c.issue(f"reduce of {array.nbytes} bytes to rank {root}", pieces, async_op)


def gather(c: MpiCommunicator, array: Array, out: Array | None, root: int, async_op: bool) -> Work:
    """See `Communicator.gather`."""
    rows = arguments.of_gather(c, array, out, root)
    receive = None if rows is None else _bytes(rows)
    send = _bytes(array)
    what = f"gather of {array.nbytes} bytes to rank {root}"
    return _one(c, what, lambda: c.comm.Igather(send, receive, root), None, async_op)


def scatter(c: MpiCommunicator, out: Array, rows: Array | None, root: int, async_op: bool) -> Work:
    """See `Communicator.scatter`."""
    table = arguments.of_scatter(c, out, rows, root)
    send = None if table is None else _bytes(table)
    receive = _bytes(out)
    what = f"scatter of {out.nbytes} bytes from rank {root}"
    return _one(c, what, lambda: c.comm.Iscatter(send, receive, root), None, async_op)


def all_to_all(
    c: MpiCommunicator, outputs: Sequence[Array], inputs: Sequence[Array], async_op: bool
) -> Work:
    """See `Communicator.all_to_all`."""
    check_exchange(c, outputs, inputs)
    send = np.concatenate([_bytes(array) for array in inputs])
    send_counts, receive_counts = ([a.nbytes for a in arrays] for arrays in (inputs, outputs))
    receive = np.empty(sum(receive_counts), np.uint8)
    byte = c.mpi.BYTE

    def begin() -> Any:
        return c.comm.Ialltoallv([send, send_counts, byte], [receive, receive_counts, byte])

    def finish() -> None:
        start = 0
        for array in outputs:
            _bytes(array)[:] = receive[start : start + array.nbytes]
            start += array.nbytes

    return _one(c, "all_to_all", begin, finish, async_op)


def isend(c: MpiCommunicator, array: Array, peer: int, tag: int) -> Work:
    """See `Communicator.isend`."""
    arguments.of_message(c, "send", array, peer, tag)
    c.check_open("send")
    return MpiMessage(c, c.comm.Isend(_bytes(array), peer, tag), "send", array, peer, tag)


def irecv(c: MpiCommunicator, array: Array, peer: int | None, tag: int) -> Work:
    """See `Communicator.irecv`."""
    arguments.of_message(c, "recv", array, peer, tag)
    c.check_open("recv")
    source = c.mpi.ANY_SOURCE if peer is None else peer
    return MpiMessage(c, c.comm.Irecv(_bytes(array), source, tag), "receive", array, peer, tag)


class MpiMessage:
    """One message under way.

    Attributes:
        source: of a receive that has arrived, the rank that sent it.
    """

    def __init__(
        self, c: MpiCommunicator, request: Any, kind: str, array: Array, peer: int | None, tag: int
    ) -> None:
        self._c, self._request, self._kind, self._array = c, request, kind, array
        self._peer, self._tag = peer, tag
        self._done = False
        self.source: int | None = None

    def __str__(self) -> str:
        return message_errors.words(self._kind == "send", self._array.nbytes, self._peer, self._tag)

    def test(self) -> bool:
        if self._done:
            return True
        c = self._c
        c.progress()
        status = c.mpi.Status()
        try:
            arrived = self._request.Test(status)
        except c.mpi.Exception as error:
            self._done = True
            raise ShapeError(
                f"{c.where} {self}: {error}; sender and receiver need tensors of one size and dtype"
            ) from error
        if arrived:
            self._done = True
            if self._kind == "receive":
                self._take(status)
        return self._done

    def _take(self, status: Any) -> None:
        self.source = status.Get_source()
        came, expected = status.Get_count(self._c.mpi.BYTE), self._array.nbytes
        if came != expected:
            raise message_errors.misfit(self._c.where, self.source, self._tag, expected, came)

    def wait(self, timeout_s: float | None = None) -> None:
        """Block until the message is done.

        Raises:
            MessageError: the other rank has ended or died, or not come within the time-out.
            DistributedError: some rank has found that something is wrong, and all stop.
        """
        inquiry = self._c.inquiry
        if inquiry is None:
            self._wait(timeout_s)
            return
        with inquiry.recorder.in_message(str(self)):
            self._wait(timeout_s)

    def _wait(self, timeout_s: float | None) -> None:
        limit_s = self._c.timeout_s if timeout_s is None else timeout_s
        begin = time.monotonic()
        look_s = _SPIN_S
        while not self.test():
            waited = time.monotonic() - begin
            if waited > look_s:
                self._look_around()
                look_s = waited + _LOOK_S
            if waited > limit_s:
                self._give_up()
                raise message_errors.late(self._c.where, self, limit_s)
            if waited > _SPIN_S:
                time.sleep(_SLEEP_S)

    def _look_around(self) -> None:
        """Whether the other side can still come."""
        c = self._c
        if c.inquiry is not None:
            c.inquiry.look_around()
        others = [rank for rank in range(c.size) if rank != c.rank]
        peers = others if self._peer is None else [self._peer]
        if all(has_left(c, peer) for peer in peers):
            failure = message_errors.ended(c.where, self, self._peer)
        elif c.inquiry is not None and len(c.inquiry.dead(peers)) == len(peers):
            failure = message_errors.died(c.where, self, self._peer)
        else:
            return
        if not self.test():  # what came before the end counts
            self._give_up()
            raise failure

    def _give_up(self) -> None:
        if self._kind == "receive":
            self._request.Cancel()
        self._request.Free()
        self._done = True


def post_left(c: MpiCommunicator) -> None:
    """Tell all ranks that this one's program has ended; nobody is waited for."""
    for peer in range(c.size):
        if peer != c.rank:
            c.comm.Isend(np.empty(0, np.uint8), peer, _LEFT_TAG).Free()


def has_left(c: MpiCommunicator, peer: int) -> bool:
    """Whether the other rank has said that its program has ended."""
    return bool(c.comm.Iprobe(peer, _LEFT_TAG))


def _one(
    c: MpiCommunicator,
    what: str,
    begin: Callable[[], Any],
    finish: Callable[[], None] | None,
    async_op: bool,
) -> Work:
    return c.issue(what, iter([lambda: (begin(), finish)]), async_op)


def _bytes(array: Array) -> Array:
    return array.reshape(-1).view(np.uint8)
