"""Arrays of GPUs through main memory: for GPUs without NCCL, and for several ranks on one GPU.

Stage of the flow: bottom of ddp, above any communicator for arrays of main memory. Imports CuPy.
May import: `gpu_base`, `base`, `tree`, `allgrad.backend.cuda`.

Note [Staging]
    An array is copied to pinned main memory, goes through the host's communicator, and is copied
    back. Large ones go in pieces: while one is reduced, the next comes down and the one before goes
    up. The host waits for the copy down before it issues the collective, because ranks must issue
    collectives in one order, whatever their GPUs have got done; the rest goes on as any other
    collective does, when somebody calls `test` or `wait`.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Callable, Sequence
from typing import Any

import cupy
import numpy as np
from numpy.typing import NDArray

from allgrad.backend.cuda import device
from allgrad.ddp.communicators.base import (
    Array,
    Communicator,
    ReduceOp,
    Work,
    check_exchange,
    check_gathered,
    check_peer,
    check_reduction,
    check_root,
    check_root_array,
    check_scattered,
)
from allgrad.ddp.communicators.gpu_base import GpuCommunicator, completed
from allgrad.ddp.communicators.tree import TreeSum
from allgrad.errors import DistributedError

PIECE_BYTES = 4 << 20
_SMALLEST_BYTES = 4096  # of pinned buffers; they have sizes of powers of two

Pair = tuple[Any, Array]  # an array of the GPU, and its place in main memory


class StagedCommunicator(GpuCommunicator):
    """One rank whose GPU's arrays travel through main memory. See Note [Staging].

    Args:
        control: the communicator for arrays of main memory, which they take.
    """

    def __init__(self, control: Communicator) -> None:
        super().__init__(control, "staged")
        self._ready = cupy.cuda.Event(disable_timing=True)
        self._free: dict[int, list[NDArray[np.uint8]]] = defaultdict(list)

    # ---- main memory -----------------------------------------------------------------------

    def _begin(self, what: str) -> None:
        """Before the copies of a collective: they come after what the caller's stream has done."""
        if device.capturing():
            raise DistributedError(
                f"{self.where} {what}: arrays that travel through main memory cannot be a part of "
                "a CUDA graph; cuda.capture needs NCCL, with one GPU for each rank"
            )
        self._ready.record(cupy.cuda.get_current_stream())
        self.stream.wait_event(self._ready)

    def place(self, array: Any) -> Array:
        """Pinned memory for an array's values, to be given back by `release`."""
        size = max(_SMALLEST_BYTES, 1 << (array.nbytes - 1).bit_length()) if array.nbytes else 0
        free = self._free[size]
        memory = free.pop() if free else _pinned(size)
        view: Array = memory[: array.nbytes].view(array.dtype).reshape(array.shape)
        return view

    def release(self, host: Array) -> None:
        """The next use comes after what the communicator's stream does with it now."""
        memory = host
        while isinstance(memory.base, np.ndarray):
            memory = memory.base
        self._free[memory.size].append(memory)

    def _down(self, arrays: Sequence[Any]) -> list[Array]:
        """Copies in main memory, once they have arrived there."""
        hosts = [self.place(array) for array in arrays]
        for array, host in zip(arrays, hosts, strict=True):
            if array.nbytes:
                array.get(self.stream, out=host, blocking=False)
        self.stream.synchronize()
        return hosts

    def up(self, pair: Pair) -> None:
        """Start to copy a result to the GPU."""
        array, host = pair
        if array.nbytes:
            array.set(host, stream=self.stream)

    def _through(
        self,
        what: str,
        inputs: Sequence[Any],
        outputs: Sequence[Any],
        call: Callable[[list[Array], list[Array]], Work],
        async_op: bool,
    ) -> Work:
        """A collective in one piece: inputs down, `call` with the places of both, outputs up."""
        self._begin(what)
        sent = self._down(inputs)
        received = [self.place(array) for array in outputs]
        work = call(sent, received)
        stages = [(work, list(zip(outputs, received, strict=True)))]
        return completed(StagedWork(self, stages, [*inputs, *outputs], sent), async_op)

    # ---- collectives -----------------------------------------------------------------------

    def all_reduce(
        self, array: Any, op: ReduceOp | str = ReduceOp.SUM, async_op: bool = False
    ) -> Work:
        self.check("all_reduce", array, in_place=True)
        op = check_reduction(self, array, op)
        self._begin("all_reduce")
        flat, step = array.reshape(-1), PIECE_BYTES // array.itemsize
        pieces = [flat[start : start + step] for start in range(0, flat.size, step)]
        coming: list[tuple[Pair, Any]] = []
        for piece in pieces:
            host = self.place(piece)
            piece.get(self.stream, out=host, blocking=False)
            arrived = cupy.cuda.Event(disable_timing=True)
            arrived.record(self.stream)
            coming.append(((piece, host), arrived))
        work = StagedWork(self, [], [array], [])
        for pair, arrived in coming:
            arrived.synchronize()
            work.add(self.control.all_reduce(pair[1], op, async_op=True), [pair])
            work.push()
        return completed(work, async_op)

    def broadcast(self, array: Any, root: int = 0, async_op: bool = False) -> Work:
        self.check("broadcast", array, in_place=True)
        check_root(self, root)
        mine = [array] if self.rank == root else []
        theirs = [] if mine else [array]
        return self._through(
            "broadcast",
            mine,
            theirs,
            lambda sent, received: self.control.broadcast((sent + received)[0], root, True),
            async_op,
        )

    def all_gather_into(self, out: Any, array: Any, async_op: bool = False) -> Work:
        self.check("all_gather", array)
        self.check("all_gather", out, in_place=True)
        check_gathered(self, "all_gather", out, array)
        return self._through(
            "all_gather",
            [array],
            [out],
            lambda sent, received: self.control.all_gather_into(received[0], sent[0], True),
            async_op,
        )

    def reduce_scatter_into(
        self, out: Any, array: Any, op: ReduceOp | str = ReduceOp.SUM, async_op: bool = False
    ) -> Work:
        self.check("reduce_scatter", array)
        self.check("reduce_scatter", out, in_place=True)
        check_scattered(self, "reduce_scatter", out, array)
        op = check_reduction(self, array, op)
        return self._through(
            "reduce_scatter",
            [array],
            [out],
            lambda sent, received: self.control.reduce_scatter_into(received[0], sent[0], op, True),
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
        return self._in_place(
            "reduce_parts",
            array,
            lambda host: self.control.reduce_parts(host, parts, op, True),
            async_op,
        )

    def _in_place(
        self, what: str, array: Any, call: Callable[[Array], Work], async_op: bool
    ) -> Work:
        """A collective that changes its one array."""
        self._begin(what)
        (host,) = self._down([array])
        return completed(StagedWork(self, [(call(host), [(array, host)])], [array], []), async_op)

    def reduce(
        self, array: Any, root: int, op: ReduceOp | str = ReduceOp.SUM, async_op: bool = False
    ) -> Work:
        self.check("reduce", array, in_place=True)
        check_root(self, root)
        return self._in_place(
            "reduce", array, lambda host: self.control.reduce(host, root, op, True), async_op
        )

    def gather(self, array: Any, out: Any | None, root: int, async_op: bool = False) -> Work:
        self.check("gather", array)
        check_root(self, root)
        targets = []
        if self.rank == root:
            rows = check_root_array(self, "gather", out)
            self.check("gather", rows, in_place=True)
            targets = [rows]
        return self._through(
            "gather",
            [array],
            targets,
            lambda sent, received: self.control.gather(
                sent[0], received[0] if received else None, root, True
            ),
            async_op,
        )

    def scatter(self, out: Any, rows: Any | None, root: int, async_op: bool = False) -> Work:
        self.check("scatter", out, in_place=True)
        check_root(self, root)
        sources = []
        if self.rank == root:
            table = check_root_array(self, "scatter", rows)
            self.check("scatter", table)
            sources = [table]
        return self._through(
            "scatter",
            sources,
            [out],
            lambda sent, received: self.control.scatter(
                received[0], sent[0] if sent else None, root, True
            ),
            async_op,
        )

    def all_to_all(
        self, outputs: Sequence[Any], inputs: Sequence[Any], async_op: bool = False
    ) -> Work:
        for array in inputs:
            self.check("all_to_all", array)
        for array in outputs:
            self.check("all_to_all", array, in_place=True)
        check_exchange(self, outputs, inputs)
        return self._through(
            "all_to_all",
            inputs,
            outputs,
            lambda sent, received: self.control.all_to_all(received, sent, True),
            async_op,
        )

    def barrier(self, async_op: bool = False) -> Work:
        return self.control.barrier(async_op)

    def reduce_tree(self, tree: TreeSum, array: Any, others: Sequence[Any], mean: bool) -> Work:
        self.check("reduce_tree", array, in_place=True)
        self._begin("reduce_tree")
        count = tree.counts[self.rank] - 1
        hosts = self._down([array, *others[:count]])
        spare = [self.place(other) for other in others[count:]]
        work = self.control.reduce_tree(tree, hosts[0], hosts[1:] + spare, mean)
        return StagedWork(self, [(work, [(array, hosts[0])])], [array], hosts[1:] + spare)

    # ---- messages --------------------------------------------------------------------------

    def isend(self, array: Any, peer: int, tag: int = 0) -> Work:
        self.check("send", array)
        check_peer(self, "send", peer, tag)
        call = lambda sent, _: self.control.isend(sent[0], peer, tag)  # noqa: E731
        return self._through("send", [array], [], call, async_op=True)

    def irecv(self, array: Any, peer: int | None = None, tag: int = 0) -> Work:
        self.check("recv", array, in_place=True)
        check_peer(self, "recv", peer, tag)
        call = lambda _, received: self.control.irecv(received[0], peer, tag)  # noqa: E731
        return self._through("recv", [], [array], call, async_op=True)

    # ---- groups and end --------------------------------------------------------------------

    def split(self, ranks: Sequence[int] | None) -> Communicator | None:
        part = self.control.split(ranks)
        return None if part is None else part.of(cupy.empty(0, cupy.uint8))

    def close(self) -> None:
        if not self.closed:
            self.closed = True
            self.stream.synchronize()
            self._free.clear()


class StagedWork:
    """The stages of one collective: (the host's work, what goes up when it is done).

    Args:
        communicator: whose collective it is.
        stages: in the order in which they were issued.
        kept: arrays that must not be used for anything else before it has ended.
        used: memory that nothing comes up from, given back at the end.
    """

    def __init__(
        self,
        communicator: StagedCommunicator,
        stages: Sequence[tuple[Work, list[Pair]]],
        kept: Sequence[Any],
        used: Sequence[Array],
    ) -> None:
        self._communicator, self._stages = communicator, deque(stages)
        self._kept, self._used = kept, list(used)
        self._done: Any = None
        self.source: int | None = None

    def add(self, work: Work, pairs: list[Pair]) -> None:
        """One more stage."""
        self._stages.append((work, pairs))

    def push(self) -> bool:
        """Start the copies of what the host has got; whether all are under way."""
        while self._stages and self._stages[0][0].test():
            self._next()
        return not self._stages

    def _next(self) -> None:
        work, pairs = self._stages.popleft()
        self.source = getattr(work, "source", self.source)
        for pair in pairs:
            self._communicator.up(pair)
            self._communicator.release(pair[1])

    def _finish(self) -> None:
        if self._done is None:
            self._done = cupy.cuda.Event(disable_timing=True)
            self._done.record(self._communicator.stream)
            for host in self._used:
                self._communicator.release(host)

    def test(self) -> bool:
        """Push it on; whether the GPU has got the result."""
        if not self.push():
            return False
        self._finish()
        return bool(self._done.done)

    def wait(self) -> None:
        """Wait for the host's part, and let the current stream wait for the GPU's."""
        while self._stages:
            self._stages[0][0].wait()
            self._next()
        self._finish()
        cupy.cuda.get_current_stream().wait_event(self._done)
        self._kept = ()


def _pinned(size_bytes: int) -> NDArray[np.uint8]:
    """Main memory that the GPU copies from and to by itself."""
    memory = cupy.cuda.alloc_pinned_memory(max(size_bytes, 1))
    return np.frombuffer(memory, np.uint8, size_bytes)
