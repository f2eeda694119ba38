"""The seam between data parallelism and the wire: what every communicator offers.

Stage of the flow: below buckets and process group, above MPI or threads. Knows numpy arrays and
ranks; knows no tensor, module or bucket. May import: numpy, ``allgrad.errors``.

All ranks call the same collectives in the same order. Array collectives work on C-contiguous numpy
arrays and never change the dtype. With one rank every collective is the identity, so callers
need no branch for it.
"""

from __future__ import annotations

import pickle
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from allgrad.backend.arrays import is_writable
from allgrad.ddp.communicators.parts import Unpacking, pack
from allgrad.ddp.diagnosis.flight import FlightRecorder
from allgrad.dtypes import DIFFERENTIABLE
from allgrad.errors import DistributedError, DtypeError, OptionError, ShapeError

if TYPE_CHECKING:
    from allgrad.ddp.communicators.tree import TreeSum
    from allgrad.ddp.diagnosis.causes import Finding

DEFAULT_TIMEOUT_S = 600.0
ALIGNMENT_BYTES = 64
Array = NDArray[Any]


class ReduceOp(StrEnum):
    """How values of the ranks are combined; names as in ``torch.distributed.ReduceOp``."""

    SUM = "sum"
    AVG = "avg"
    PRODUCT = "product"
    MIN = "min"
    MAX = "max"
    BAND = "band"
    BOR = "bor"
    BXOR = "bxor"

    @classmethod
    def parse(cls, value: ReduceOp | str) -> ReduceOp:
        """Accept a member or its name in any case; an unknown one lists the known ones."""
        if type(value) is cls:
            return value
        try:
            return cls(str(value).lower())
        except ValueError:
            raise OptionError.unknown("reduction", value, [op.value for op in cls]) from None


COMBINE: dict[ReduceOp, np.ufunc] = {
    ReduceOp.SUM: np.add,
    ReduceOp.AVG: np.add,
    ReduceOp.PRODUCT: np.multiply,
    ReduceOp.MIN: np.minimum,
    ReduceOp.MAX: np.maximum,
    ReduceOp.BAND: np.bitwise_and,
    ReduceOp.BOR: np.bitwise_or,
    ReduceOp.BXOR: np.bitwise_xor,
}
BITWISE = (ReduceOp.BAND, ReduceOp.BOR, ReduceOp.BXOR)


class MessageError(DistributedError):
    """A message between two ranks did not come in time, or its other side has ended."""


class Work(Protocol):
    """One collective that may still be under way."""

    def test(self) -> bool:
        """Push the communication on without blocking; True once the result is in place."""

    def wait(self) -> object:
        """Block until the result is in place.

        Raises:
            DistributedError: another rank failed, or the time-out passed; names the ranks that
                have not arrived.
        """


class CompletedWork:
    """A collective that had finished when it was returned."""

    __slots__ = ()

    def test(self) -> bool:
        return True

    def wait(self) -> None:
        return None


COMPLETED = CompletedWork()


class Communicator(ABC):
    """A fixed set of ranks and their collectives; see the module docstring for the rules.

    Attributes:
        rank: this rank, 0 to size - 1.
        size: number of ranks.
        name: "local", "thread", "shm" or "mpi"; for reports and messages.
        timeout_s: a collective that takes longer raises DistributedError.
        note: what the next collectives are for, in words for messages ("bucket 2 of 5 (fc.bias)");
            callers set it before a collective and clear it afterwards. The same on all ranks: ranks
            whose notes differ are told that they call different collectives.
        has_wire: whether bytes travel over a link, which works while this core computes; then
            many small buckets hide more. Where ranks share memory, this core moves them.
        step: number of the training step that the next collectives belong to, for messages.
        asked_to_leave: the signal that asked this rank to leave, 0 for none; other ranks hear of it
            with the next step header, and then stands in all_asked_to_leave of all ranks.
        forked: whether this is a copy in a forked child, which must not be used.
        pushes: whether collectives go on only while somebody calls `test`.
        gpu_policy: how arrays of GPUs travel: "nccl", "staged" (through main memory), or None for
            what fits; see `gpu`.
        gpu_part: the communicator for arrays of GPUs, once `of` was asked for one.
        flight: record of the last collectives, or None if none is kept.
        home: of a communicator made by `split`, (rank, size) in the first one.
        members: likewise, what its ranks are called there.
    """

    rank: int
    size: int
    name: str
    timeout_s: float = DEFAULT_TIMEOUT_S
    note: str = ""
    has_wire: bool = False
    step: int = 0
    asked_to_leave: int = 0
    all_asked_to_leave: int = 0
    flight: FlightRecorder | None = None
    home: tuple[int, int] | None = None
    members: tuple[int, ...] | None = None
    forked: bool = False
    pushes: bool = True
    gpu_policy: str | None = None
    gpu_part: Communicator | None = None

    def of(self, array: Any) -> Communicator:
        """The communicator for arrays like this one: itself, or for a GPU's its `gpu_part`.

        Collective when the first array of a GPU comes: the part is opened then.
        """
        if type(array) is np.ndarray:
            return self
        from allgrad.ddp.communicators import gpu  # noqa: PLC0415 - most jobs have no GPU

        return gpu.part_for(self, array)

    @property
    def where(self) -> str:
        """The prefix of every message: "[rank r/size]"; in a group also its ranks."""
        if self.home is None or self.members is None:
            return f"[rank {self.rank}/{self.size}]"
        named = ", ".join(str(rank) for rank in self.members)
        return f"[rank {self.home[0]}/{self.home[1]}, number {self.rank} of group ({named})]"

    def now(self) -> float:
        """Seconds of the clock of time-outs."""
        return time.monotonic()

    @abstractmethod
    def allocate(self, size_bytes: int) -> NDArray[np.uint8]:
        """Collective. Zeroed memory, aligned to 64 bytes, from which all_reduce is fastest.

        All ranks must ask for the same size. Views of it (any dtype, any offset, the same on all
        ranks) may be given to `all_reduce`. The memory lives as long as a view of it.
        """

    @abstractmethod
    def all_reduce(
        self, array: Array, op: ReduceOp | str = ReduceOp.SUM, async_op: bool = False
    ) -> Work:
        """Replace `array` on every rank by the reduction over ranks, in rank order, same bits."""

    @abstractmethod
    def broadcast(self, array: Array, root: int = 0, async_op: bool = False) -> Work:
        """Replace `array` on every rank by root's."""

    @abstractmethod
    def all_gather_into(self, out: Array, array: Array, async_op: bool = False) -> Work:
        """Write the arrays of all ranks into `out` of shape (size, *array.shape)."""

    @abstractmethod
    def reduce_scatter_into(
        self, out: Array, array: Array, op: ReduceOp | str = ReduceOp.SUM, async_op: bool = False
    ) -> Work:
        """Reduce an array of shape (size, *out.shape) over ranks; rank r gets row r in `out`."""

    @abstractmethod
    def barrier(self, async_op: bool = False) -> Work:
        """Done once every rank has called it."""

    @abstractmethod
    def abort(self, code: int) -> None:
        """End all ranks now, with this exit code, because this rank cannot go on."""

    def reduce_tree(self, tree: TreeSum, array: Array, others: Sequence[Array], mean: bool) -> Work:
        """Start to replace `array` on every rank by the sum in the order of a tree.

        The bits depend on the leaves alone, not on the number of ranks, nor on the communicator.

        Args:
            tree: what the ranks hold; see Note [Tree] in `tree`.
            array: the last node of this rank, one-dimensional. Best from `allocate`.
            others: ``max(tree.counts) - 1`` arrays like it; the first ones hold this rank's other
                nodes, ``tree.counts[rank] - 1`` of them. Contents are lost.
            mean: divide by the number of shards.
        """
        tree.by_gathering(self, array, others, mean)
        return COMPLETED

    def leave(self) -> None:
        """Say that this rank's program has ended, for ranks that still wait for it."""
        return

    def alarm(self, finding: Finding) -> DistributedError | None:
        """Hear all ranks about what a watch thread has found; the error, if they can be heard."""
        return None

    def fail(self, error: DistributedError) -> None:
        """End all ranks with the error of a watch thread; the hooks of `failure` do the rest."""
        raise error

    @abstractmethod
    def close(self) -> None:
        """Collective. Give the communication resources back; idempotent."""

    @abstractmethod
    def reduce(
        self, array: Array, root: int, op: ReduceOp | str = ReduceOp.SUM, async_op: bool = False
    ) -> Work:
        """Replace root's `array` by the reduction over ranks; the others' stay as they are."""

    @abstractmethod
    def gather(self, array: Array, out: Array | None, root: int, async_op: bool = False) -> Work:
        """Write the arrays of all ranks into root's `out` of shape (size, *array.shape)."""

    @abstractmethod
    def scatter(self, out: Array, rows: Array | None, root: int, async_op: bool = False) -> Work:
        """Write row r of root's `rows` of shape (size, *out.shape) into `out` of rank r."""

    @abstractmethod
    def all_to_all(
        self, outputs: Sequence[Array], inputs: Sequence[Array], async_op: bool = False
    ) -> Work:
        """Send ``inputs[r]`` to rank r, and receive ``outputs[r]`` from it; sizes may differ."""

    @abstractmethod
    def isend(self, array: Array, peer: int, tag: int = 0) -> Work:
        """Start to send to one rank; `array` must stay as it is until the Work is done."""

    @abstractmethod
    def irecv(self, array: Array, peer: int | None = None, tag: int = 0) -> Work:
        """Start to receive from one rank, or from whoever comes first; see ``work.source``."""

    def together(self) -> AbstractContextManager[None]:
        """Within the block, messages start in any order; only between GPUs that needs a block."""
        return nullcontext()

    @abstractmethod
    def split(self, ranks: Sequence[int] | None) -> Communicator | None:
        """Collective. A communicator of some of the ranks, in this order; None for the others.

        Args:
            ranks: the group that this rank belongs to, the same list on all its members; groups
                that are split off at once must not overlap. None: this rank belongs to none.
        """

    def all_gather(self, array: Array) -> Array:
        """Return the arrays of all ranks as one array of shape (size, *array.shape)."""
        check_array(self, "all_gather", array)
        out = np.empty_like(array, shape=(self.size, *array.shape), order="C")
        self.all_gather_into(out, array)
        return out

    def reduce_scatter(self, array: Array, op: ReduceOp | str = ReduceOp.SUM) -> Array:
        """Reduce an array of shape (size, ...) over ranks; return this rank's row."""
        check_rows(self, array)
        out = np.empty_like(array, shape=array.shape[1:], order="C")
        self.reduce_scatter_into(out, array, op)
        return out

    def reduce_parts(
        self,
        array: Array,
        parts: Sequence[Sequence[tuple[int, int]]],
        op: ReduceOp | str = ReduceOp.SUM,
        async_op: bool = False,
    ) -> Work:
        """Reduce a flat array over ranks; rank r gets the result in its own parts only.

        Args:
            array: one-dimensional; outside of this rank's parts it keeps its values.
            parts: per rank, disjoint (start, stop) stretches of elements; the same on all ranks.
            op: as `all_reduce`.
            async_op: as `all_reduce`.
        """
        width = max(sum(stop - start for start, stop in own) for own in parts)
        packed = np.zeros((self.size, width), array.dtype)
        for row, own in zip(packed, parts, strict=True):
            pack(array, own, row)
        reduced = np.empty(width, array.dtype)
        work = Unpacking(
            self.reduce_scatter_into(reduced, packed, op, async_op=True),
            reduced,
            parts[self.rank],
            array,
        )
        if not async_op:
            work.wait()
        return work

    # ---- object twins, for small control data ---------------------------------------------

    def all_gather_object(self, value: Any) -> list[Any]:
        """Return the picklable values of all ranks, in rank order."""
        payload = np.frombuffer(pickle.dumps(value, protocol=5), np.uint8)
        lengths = self.all_gather(np.array(payload.size, np.int64))
        padded = np.zeros(int(lengths.max()), np.uint8)
        padded[: payload.size] = payload
        rows = self.all_gather(padded)
        return [pickle.loads(rows[i, :n].tobytes()) for i, n in enumerate(lengths.tolist())]

    def broadcast_object(self, value: Any, root: int = 0) -> Any:
        """Return root's picklable value on every rank; the other ranks' `value` is ignored."""
        check_root(self, root)
        mine = self.rank == root
        payload = pickle.dumps(value, protocol=5) if mine else b""
        length = np.array(len(payload), np.int64)
        self.broadcast(length, root)
        buffer = np.zeros(int(length), np.uint8)
        if mine:
            buffer[:] = np.frombuffer(payload, np.uint8)
        self.broadcast(buffer, root)
        return value if mine else pickle.loads(buffer.tobytes())


def aligned_zeros(size_bytes: int) -> NDArray[np.uint8]:
    """Zeroed bytes whose address is a multiple of 64."""
    raw = np.zeros(size_bytes + ALIGNMENT_BYTES, np.uint8)
    return raw[-raw.ctypes.data % ALIGNMENT_BYTES :][:size_bytes]


def check_array(
    communicator: Communicator, what: str, array: Array, in_place: bool = False
) -> None:
    """Refuse what no transport can send: non-contiguous, of Python objects, or read-only."""
    if not array.flags.c_contiguous:
        raise ShapeError(
            f"{communicator.where} {what} needs a C-contiguous array, got shape {array.shape} "
            f"with strides {array.strides}; pass np.ascontiguousarray(array)"
        )
    if array.dtype.hasobject:
        raise DtypeError(
            f"{communicator.where} {what} cannot send dtype {array.dtype}; "
            "use all_gather_object or broadcast_object for Python objects"
        )
    if in_place and not is_writable(array):
        raise ShapeError(
            f"{communicator.where} {what} writes its result into the array, but the array of "
            f"shape {array.shape} is read-only; pass a copy"
        )


def check_reduction(communicator: Communicator, array: Array, op: ReduceOp | str) -> ReduceOp:
    """Parse the reduction and refuse a mean of integers, which has no exact result."""
    parsed = ReduceOp.parse(op)
    if parsed is ReduceOp.AVG and array.dtype.kind not in DIFFERENTIABLE:
        raise DtypeError(
            f"{communicator.where} reduction 'avg' needs a floating-point array, "
            f"got {array.dtype}; use 'sum' and divide"
        )
    if parsed in BITWISE and array.dtype.kind not in "iub":
        raise DtypeError(
            f"{communicator.where} reduction {parsed.value!r} needs an array of integers or "
            f"truth values, got {array.dtype}"
        )
    return parsed


def check_root(communicator: Communicator, root: int) -> None:
    """Refuse a root that is no rank."""
    if not 0 <= root < communicator.size:
        raise DistributedError(
            f"{communicator.where} root {root} is no rank; ranks are 0 to {communicator.size - 1}"
        )


def check_rows(communicator: Communicator, array: Array, what: str = "reduce_scatter") -> None:
    """Refuse an input without one row per rank."""
    if array.ndim == 0 or array.shape[0] != communicator.size:
        raise ShapeError(
            f"{communicator.where} {what} needs one row per rank: shape "
            f"({communicator.size}, ...), got {array.shape}"
        )


def check_gathered(communicator: Communicator, what: str, out: Array, array: Array) -> None:
    """Refuse an output that does not have one row like the array per rank."""
    check_array(communicator, what, array)
    check_array(communicator, what, out, in_place=True)
    if out.shape != (communicator.size, *array.shape) or out.dtype != array.dtype:
        raise ShapeError(
            f"{communicator.where} {what} of shape {array.shape}, {array.dtype}, needs an output "
            f"of shape ({communicator.size}, ...) like it, got {out.shape}, {out.dtype}"
        )


def check_scattered(communicator: Communicator, what: str, out: Array, array: Array) -> None:
    """Refuse an input that does not have one row like the output per rank."""
    check_array(communicator, what, array)
    check_array(communicator, what, out, in_place=True)
    check_rows(communicator, array, what)
    if array.shape[1:] != out.shape or out.dtype != array.dtype:
        raise ShapeError(
            f"{communicator.where} {what} of shape {array.shape}, {array.dtype}, needs an output "
            f"like one of its rows, got {out.shape}, {out.dtype}"
        )


def check_root_array(communicator: Communicator, what: str, array: Array | None) -> Array:
    """The array that the root must give, and nobody else."""
    if array is None:
        raise ShapeError(
            f"{communicator.where} {what}: this rank is the root and must give the array with one "
            "row per rank"
        )
    return array


def check_exchange(
    communicator: Communicator, outputs: Sequence[Array], inputs: Sequence[Array]
) -> None:
    """Refuse lists of all_to_all that do not have one array per rank."""
    size = communicator.size
    if len(outputs) != size or len(inputs) != size:
        raise ShapeError(
            f"{communicator.where} all_to_all needs one output and one input for each of {size} "
            f"ranks, got {len(outputs)} and {len(inputs)}"
        )
    for array in inputs:
        check_array(communicator, "all_to_all", array)
    for array in outputs:
        check_array(communicator, "all_to_all", array, in_place=True)
    mine, own = outputs[communicator.rank], inputs[communicator.rank]
    if mine.nbytes != own.nbytes:
        raise ShapeError(
            f"{communicator.where} all_to_all: what this rank sends to itself has {own.nbytes} "
            f"bytes, what it receives from itself {mine.nbytes}"
        )


def check_peer(communicator: Communicator, what: str, peer: int | None, tag: int) -> None:
    """Refuse a peer that is no other rank, and a negative tag."""
    if peer is not None:
        check_root(communicator, peer)
    if peer == communicator.rank:
        raise DistributedError(
            f"{communicator.where} {what}: rank {peer} is this rank itself; it needs no message"
        )
    if tag < 0:
        raise OptionError(f"{communicator.where} {what}: tag {tag} must be 0 or more")


def check_members(communicator: Communicator, ranks: Sequence[int] | None) -> list[int] | None:
    """Refuse a group with ranks that are none, that come twice, or without the caller."""
    if ranks is None:
        return None
    members = [int(rank) for rank in ranks]
    for rank in members:
        check_root(communicator, rank)
    if len(set(members)) != len(members) or communicator.rank not in members:
        raise DistributedError(
            f"{communicator.where} split: expected different ranks with this one among them, "
            f"or None, got {members}"
        )
    return members


def scale_to_mean(array: Array, size: int) -> None:
    """Divide a sum over `size` ranks in place, correctly rounded."""
    if size & (size - 1) == 0:
        # the reciprocal of a power of two is exact, and multiplying is faster than dividing
        np.multiply(array, 1.0 / size, out=array)
    else:
        np.divide(array, size, out=array)
