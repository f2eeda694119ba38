"""Collectives in which ranks send to single ranks, and messages, by MPI.

Stage of the flow: a part of the MPI communicator, which hands over mpi4py's module; this file
imports none. May import: numpy, `base`, `splitting`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from allgrad.ddp.communicators.base import (
    Array,
    MessageError,
    ReduceOp,
    Work,
    check_array,
    check_exchange,
    check_gathered,
    check_peer,
    check_reduction,
    check_root,
    check_root_array,
    check_scattered,
    scale_to_mean,
)
from allgrad.errors import ShapeError

if TYPE_CHECKING:
    from allgrad.ddp.communicators.mpi import MpiCommunicator

_LEFT_TAG = (1 << 22) + 1  # an empty message with it: the sender's program has ended
_SPIN_S, _SLEEP_S = 2e-3, 1e-4


def reduce(c: MpiCommunicator, array: Array, root: int, op: ReduceOp | str, async_op: bool) -> Work:
    """See `Communicator.reduce`."""
    check_array(c, "reduce", array, in_place=True)
    check_root(c, root)
    op = check_reduction(c, array, op)
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
    check_root(c, root)
    check_array(c, "gather", array)
    receive = None
    if root == c.rank:
        rows = check_root_array(c, "gather", out)
        check_gathered(c, "gather", rows, array)
        receive = _bytes(rows)
    send = _bytes(array)
    what = f"gather of {array.nbytes} bytes to rank {root}"
    return _one(c, what, lambda: c.comm.Igather(send, receive, root), None, async_op)


def scatter(c: MpiCommunicator, out: Array, rows: Array | None, root: int, async_op: bool) -> Work:
    """See `Communicator.scatter`."""
    check_root(c, root)
    check_array(c, "scatter", out, in_place=True)
    send = None
    if root == c.rank:
        table = check_root_array(c, "scatter", rows)
        check_scattered(c, "scatter", out, table)
        send = _bytes(table)
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
    check_array(c, "send", array)
    check_peer(c, "send", peer, tag)
    c.check_open("send")
    return MpiMessage(c, c.comm.Isend(_bytes(array), peer, tag), "send", array, peer, tag)


def irecv(c: MpiCommunicator, array: Array, peer: int | None, tag: int) -> Work:
    """See `Communicator.irecv`."""
    check_array(c, "recv", array, in_place=True)
    check_peer(c, "recv", peer, tag)
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
        way = "to" if self._kind == "send" else "from"
        where = "any rank" if self._peer is None else f"rank {self._peer}"
        return f"{self._kind} of {self._array.nbytes} bytes {way} {where}, tag {self._tag}"

    def test(self) -> bool:
        if self._done:
            return True
        self._c.progress()
        status = self._c.mpi.Status()
        try:
            arrived = self._request.Test(status)
        except self._c.mpi.Exception as error:
            self._done = True
            raise ShapeError(
                f"{self._c.where} {self}: {error}; sender and receiver need tensors of one size "
                "and dtype"
            ) from error
        if arrived:
            self._done = True
            if self._kind == "receive":
                self._take(status)
        return self._done

    def _take(self, status: Any) -> None:
        self.source = status.Get_source()
        came = status.Get_count(self._c.mpi.BYTE)
        if came != self._array.nbytes:
            raise ShapeError(
                f"{self._c.where} receive from rank {self.source}, tag {self._tag}: expected "
                f"{self._array.nbytes} bytes, came {came}; sender and receiver need tensors of "
                "one size and dtype"
            )

    def wait(self, timeout_s: float | None = None) -> None:
        limit_s = self._c.timeout_s if timeout_s is None else timeout_s
        begin = time.monotonic()
        while not self.test():
            waited = time.monotonic() - begin
            if waited > _SPIN_S:
                time.sleep(_SLEEP_S)
                self._check_left()
            if waited > limit_s:
                self._give_up()
                raise MessageError(
                    f"{self._c.where} waited {limit_s:g} s in a {self}. Each send needs a receive "
                    "on the other side, with the same tag"
                )

    def _check_left(self) -> None:
        others = [rank for rank in range(self._c.size) if rank != self._c.rank]
        peers = others if self._peer is None else [self._peer]
        if not all(has_left(self._c, peer) for peer in peers) or self.test():
            return
        self._give_up()
        who = "all other ranks" if self._peer is None else f"rank {self._peer}"
        raise MessageError(
            f"{self._c.where} waits in a {self}, but the program of {who} has ended. Each send "
            "needs a receive on the other side, with the same tag"
        )

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
