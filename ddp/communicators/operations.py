"""The pieces of work of the shared-memory communicator: what one rank does for one operation.

Stage of the flow: below `shared.py`, which queues these and calls them in order. May import: numpy,
`base`. An operation goes through three states, each entered in issue order (see
Note [Sequence numbers] in `board.py`):

    stage()    put this rank's input where the others can read it    -> READY posted
    consume()  read the others' input, write results                 -> DONE posted
    complete   the result is in this rank's array
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from allgrad.ddp.communicators.base import COMBINE, Array, ReduceOp, scale_to_mean

# Measured on two cores with 1 MB of L2 each: 256 KB blocks reduce a 25 MB bucket in 1.5 ms,
# 64 KB blocks in 1.7 ms (more Python per byte), 1 MB blocks in 2.3 ms (block falls out of L2).
BLOCK_BYTES = 256 * 1024
_SHARE_BYTES = 64  # shares of a bucket start on cache-line boundaries

_KINDS = ("all_reduce of a bucket", "all_reduce", "broadcast", "all_gather", "reduce_scatter",
          "barrier", "reduce", "gather", "scatter", "all_to_all")  # fmt: skip
_OPS = tuple(ReduceOp)


def encode_signature(
    kind: str, size_bytes: int, dtype: str = "B", op: ReduceOp = ReduceOp.SUM, extra: int = 0
) -> int:
    """Pack what must agree between ranks into one positive 62-bit number; `extra` is 11 bits."""
    head = (_KINDS.index(kind) + 1) << 59 | _OPS.index(op) << 56 | (ord(dtype) & 127) << 49
    return head | (extra & 2047) << 38 | (size_bytes & (1 << 38) - 1)


def describe_signature(signature: int) -> str:
    """The words for a number made by `encode_signature`."""
    kind = _KINDS[(signature >> 59) - 1]
    size_bytes = signature & (1 << 38) - 1
    text = kind if kind in ("barrier", "all_to_all") else f"{kind} of {size_bytes} bytes"
    if kind.startswith(("all_reduce", "reduce")):
        char = chr(signature >> 49 & 127)
        dtype = "bfloat16" if char == "E" else np.dtype(char)  # NumPy does not know it by its char
        text += f" ({dtype}, {_OPS[signature >> 56 & 7].value})"
    if kind in ("broadcast", "scatter"):
        text += f" from rank {signature >> 38 & 2047}"
    elif kind in ("reduce", "gather"):
        text += f" to rank {signature >> 38 & 2047}"
    return text


class Operation(ABC):
    """One queued piece of work; the communicator sets `sequence` and `check` when it is issued."""

    __slots__ = ("check", "consumed", "sequence", "signature")

    # The rank whose input is enough to go on; None: the input of all ranks is needed.
    root: int | None = None
    # Complete only when all ranks are done (they write into our memory), not when we are.
    waits_for_all: bool = False

    def __init__(self, signature: int) -> None:
        self.signature = self.check = signature
        self.sequence = 0
        self.consumed = False

    @abstractmethod
    def stage(self, slot: NDArray[np.uint8]) -> None:
        """Copy this rank's input into its slot of the staging memory."""

    @abstractmethod
    def consume(self, slots: Sequence[NDArray[np.uint8]]) -> None:
        """Read the slots of all ranks and write this rank's part of the result."""


class ReduceShares(Operation):
    """All-reduce, in place, of arrays that all lie in shared memory; nothing is copied twice.

    Rank r reduces the r-th share of the elements over all ranks, in rank order, and writes the
    result into every rank's array. The result is the same bits everywhere, because each element
    is computed once; and every rank keeps an array of its own, which later in-place edits do
    not share.
    """

    __slots__ = ("_arrays", "_op", "_rank")

    waits_for_all = True

    def __init__(self, signature: int, arrays: list[Array], rank: int, op: ReduceOp) -> None:
        super().__init__(signature)
        self._arrays, self._rank, self._op = arrays, rank, op

    def stage(self, slot: NDArray[np.uint8]) -> None:
        return None

    def consume(self, slots: Sequence[NDArray[np.uint8]]) -> None:
        arrays, op, size = self._arrays, self._op, len(self._arrays)
        count, itemsize = arrays[0].size, arrays[0].itemsize
        line = max(1, _SHARE_BYTES // itemsize)
        start = _share_start(count, self._rank, size, line)
        stop = _share_start(count, self._rank + 1, size, line)
        combine, block = COMBINE[op], BLOCK_BYTES // itemsize
        first, others = arrays[0], arrays[1:]
        for low in range(start, stop, block):
            high = min(low + block, stop)
            result = first[low:high]
            for other in others:
                combine(result, other[low:high], out=result)
            if op is ReduceOp.AVG:
                scale_to_mean(result, size)
            for other in others:
                other[low:high] = result


class ReduceParts(Operation):
    """Like `ReduceShares`, but each rank reduces the parts it is given, for itself alone."""

    __slots__ = ("_arrays", "_op", "_parts", "_rank")

    waits_for_all = True

    def __init__(
        self,
        signature: int,
        arrays: list[Array],
        rank: int,
        op: ReduceOp,
        parts: Sequence[tuple[int, int]],
    ) -> None:
        super().__init__(signature)
        self._arrays, self._rank, self._op, self._parts = arrays, rank, op, parts

    def stage(self, slot: NDArray[np.uint8]) -> None:
        return None

    def consume(self, slots: Sequence[NDArray[np.uint8]]) -> None:
        block = BLOCK_BYTES // self._arrays[0].itemsize
        result = np.empty(block, self._arrays[0].dtype)
        mine = self._arrays[self._rank]
        for start, stop in self._parts:
            for low in range(start, stop, block):
                high = min(low + block, stop)
                out = result[: high - low]
                reduce_rows([array[low:high] for array in self._arrays], self._op, out)
                mine[low:high] = out


def _share_start(count: int, rank: int, size: int, line: int) -> int:
    """Where the share of `rank` starts, rounded down to a cache line; the last ends at count."""
    return count if rank == size else count * rank // size // line * line


class Barrier(Operation):
    """No data: complete once every rank has come."""

    __slots__ = ()

    def stage(self, slot: NDArray[np.uint8]) -> None:
        return None

    def consume(self, slots: Sequence[NDArray[np.uint8]]) -> None:
        return None


class ReducePiece(Operation):
    """All-reduce of a piece of a private array: copy in, then everyone sums all slots.

    With ``keep=False`` this rank only gives its input, as all but one do in a reduce.
    """

    __slots__ = ("_keep", "_op", "_piece")

    def __init__(self, signature: int, piece: Array, op: ReduceOp, keep: bool = True) -> None:
        super().__init__(signature)
        self._piece, self._op, self._keep = piece, op, keep

    def stage(self, slot: NDArray[np.uint8]) -> None:
        slot[: self._piece.nbytes].view(self._piece.dtype)[:] = self._piece

    def consume(self, slots: Sequence[NDArray[np.uint8]]) -> None:
        if not self._keep:
            return
        size_bytes, dtype = self._piece.nbytes, self._piece.dtype
        reduce_rows([slot[:size_bytes].view(dtype) for slot in slots], self._op, self._piece)


def reduce_rows(rows: Sequence[Array], op: ReduceOp, out: Array) -> None:
    """Reduce arrays of one shape, in the order given, into `out`, which is none of them."""
    combine = COMBINE[op]
    if len(rows) == 1:
        out[...] = rows[0]
        return
    combine(rows[0], rows[1], out=out)
    for row in rows[2:]:
        combine(out, row, out=out)
    if op is ReduceOp.AVG:
        scale_to_mean(out, len(rows))


class BroadcastPiece(Operation):
    """Broadcast of a piece: root copies in, the others copy out; root waits for nobody."""

    __slots__ = ("_is_root", "_piece", "root")

    def __init__(self, signature: int, piece: NDArray[np.uint8], root: int, rank: int) -> None:
        super().__init__(signature)
        self._piece, self.root, self._is_root = piece, root, root == rank

    def stage(self, slot: NDArray[np.uint8]) -> None:
        if self._is_root:
            slot[: self._piece.size] = self._piece

    def consume(self, slots: Sequence[NDArray[np.uint8]]) -> None:
        if not self._is_root:
            assert self.root is not None
            self._piece[:] = slots[self.root][: self._piece.size]


class ExchangePiece(Operation):
    """Copy a piece in, then hand the pieces of all ranks to a function (gather, scatter)."""

    __slots__ = ("_piece", "_take")

    def __init__(self, signature: int, piece: Array, take: Callable[[list[Array]], None]) -> None:
        super().__init__(signature)
        self._piece, self._take = piece, take

    def stage(self, slot: NDArray[np.uint8]) -> None:
        piece = self._piece
        slot[: piece.nbytes].view(piece.dtype).reshape(piece.shape)[...] = piece

    def consume(self, slots: Sequence[NDArray[np.uint8]]) -> None:
        piece = self._piece
        self._take([s[: piece.nbytes].view(piece.dtype).reshape(piece.shape) for s in slots])
