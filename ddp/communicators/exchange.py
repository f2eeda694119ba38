"""Collectives in which ranks send to single ranks, over shared memory.

Stage of the flow: a part of the shared-memory communicator. May import: numpy, `base`,
`arguments`, `operations`, `mailbox`.

A gather, scatter or all_to_all is one operation without data on the board, so that it has its place
in the order of collectives and a different call elsewhere is named, and messages beside it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from allgrad.ddp.communicators import arguments, mailbox
from allgrad.ddp.communicators import operations as ops
from allgrad.ddp.communicators.base import Array, ReduceOp, Work, check_exchange

if TYPE_CHECKING:
    from allgrad.ddp.communicators.shared import SharedMemoryCommunicator

_PIECE_BYTES = 1 << 20  # as large as a slot


def reduce(
    c: SharedMemoryCommunicator, array: Array, root: int, op: ReduceOp | str, async_op: bool
) -> Work:
    """See `Communicator.reduce`."""
    op = arguments.of_reduce(c, array, root, op)
    signature = ops.encode_signature("reduce", array.nbytes, array.dtype.char, op, root)
    flat, step = array.reshape(-1), _PIECE_BYTES // array.itemsize
    mine = root == c.rank
    pieces: list[ops.Operation] = [
        ops.ReducePiece(signature, flat[i : i + step], op, keep=mine)
        for i in range(0, flat.size, step)
    ]
    return c._issue(pieces, async_op)


def gather(
    c: SharedMemoryCommunicator, array: Array, out: Array | None, root: int, async_op: bool
) -> Work:
    """See `Communicator.gather`."""
    rows = arguments.of_gather(c, array, out, root)
    if rows is None:
        return _exchange(c, "gather", array.nbytes, root, [(root, array)], [], async_op)
    rows[root] = array
    receives = [(i, rows[i : i + 1]) for i in range(c.size) if i != root]
    return _exchange(c, "gather", array.nbytes, root, [], receives, async_op)


def scatter(
    c: SharedMemoryCommunicator, out: Array, rows: Array | None, root: int, async_op: bool
) -> Work:
    """See `Communicator.scatter`."""
    table = arguments.of_scatter(c, out, rows, root)
    if table is None:
        return _exchange(c, "scatter", out.nbytes, root, [], [(root, out)], async_op)
    out[...] = table[root]
    sends = [(i, table[i : i + 1]) for i in range(c.size) if i != root]
    return _exchange(c, "scatter", out.nbytes, root, sends, [], async_op)


def all_to_all(
    c: SharedMemoryCommunicator, outputs: Sequence[Array], inputs: Sequence[Array], async_op: bool
) -> Work:
    """See `Communicator.all_to_all`."""
    check_exchange(c, outputs, inputs)
    outputs[c.rank][...] = inputs[c.rank].reshape(outputs[c.rank].shape)
    others = [i for i in range(c.size) if i != c.rank]
    sends = [(i, inputs[i]) for i in others]
    receives = [(i, outputs[i]) for i in others]
    return _exchange(c, "all_to_all", 0, 0, sends, receives, async_op)


def isend(c: SharedMemoryCommunicator, array: Array, peer: int, tag: int) -> Work:
    """See `Communicator.isend`."""
    arguments.of_message(c, "send", array, peer, tag)
    c._check_open("send")
    return c._mailbox.send(array, peer, tag)


def irecv(c: SharedMemoryCommunicator, array: Array, peer: int | None, tag: int) -> Work:
    """See `Communicator.irecv`."""
    arguments.of_message(c, "recv", array, peer, tag)
    c._check_open("recv")
    return c._mailbox.receive(array, peer, tag)


def _exchange(
    c: SharedMemoryCommunicator,
    kind: str,
    count_bytes: int,
    root: int,
    sends: list[tuple[int, Array]],
    receives: list[tuple[int, Array]],
    async_op: bool,
) -> Work:
    signature = ops.encode_signature(kind, count_bytes, extra=root)
    meeting = c._issue([ops.Barrier(signature)], True)
    tag, box = c._sequence, c._mailbox
    messages = [box.receive(a, i, tag, mailbox.COLLECTIVE) for i, a in receives]
    messages += [box.send(a, i, tag, mailbox.COLLECTIVE) for i, a in sends]
    work = _ExchangeWork([meeting, *messages])
    if not async_op:
        work.wait()
    return work


class _ExchangeWork:
    """Done when all parts are; the meeting comes first, as it names what is wrong."""

    def __init__(self, parts: list[Any]) -> None:
        self._parts = parts

    def test(self) -> bool:
        while self._parts and self._parts[0].test():
            del self._parts[0]
        return not self._parts

    def wait(self) -> None:
        for part in self._parts:
            part.wait()
        self._parts = []
