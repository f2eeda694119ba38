"""Reproducible mode: the same bits whatever the number of ranks.

Stage of the flow: beside `distributed`, which hands its loop over the shards to us. May import:
`tree`, `buffers`, `reducer`, `samples`, `allgrad`.

Note [Logical shards]
    The batch of a step, of all ranks together, is cut into a fixed number of logical shards. Every
    shard is run as if it had a rank of its own: forward and backward by themselves, so the kernels
    see the same shapes; random numbers from a stream of (seed, step, shard); buffers and gradients
    as they were at the beginning of the step; as many threads as any other. Its gradients are added
    up in the order of a fixed tree (`communicators/tree.py`), and the buffers of shard 0 are kept.
    So nothing depends on which rank runs which shards, and the number of ranks only decides how
    many shards each runs one after the other.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from allgrad import Tensor
from allgrad.backend import arrays
from allgrad.ddp import gate as gates
from allgrad.ddp.buffers import BufferSync
from allgrad.ddp.communicators.base import Array, Communicator, Work
from allgrad.ddp.communicators.tree import shards_of
from allgrad.ddp.gate import Header
from allgrad.ddp.options import Options
from allgrad.ddp.reducer import Reducer
from allgrad.ddp.samples import count_samples
from allgrad.ddp.shard_sampler import shard_sizes
from allgrad.ddp.shard_streams import ShardStream
from allgrad.ddp.tree import TreeReduction
from allgrad.errors import DistributedError, OptionError, ShapeError
from allgrad.nn import Module
from allgrad.nn.utils.rnn import PackedSequence
from allgrad.random import default_generator
from allgrad.tensors import graph
from allgrad.utils.data.streams import mix


class LogicalShards:
    """The logical shards of a wrapped model: how its steps are made, and where they stand.

    Part of a checkpoint (``shards=model.logical``): without it, a resumed run draws the random
    numbers of the first steps again.

    Args:
        communicator: of the ranks that share the shards.
        reducer: of the wrapped model; its reduction is replaced.
        options: `logical_shards`, and `weighted`: whether shards count by their samples.
        dim: in which samples are counted, and batches are cut.

    Attributes:
        shards: logical shards of a step.
        owned: this rank's shards.
        seed: of the random streams: that of rank 0's default generator when the model was wrapped.
        step: steps made.
    """

    def __init__(
        self, communicator: Communicator, reducer: Reducer, options: Options, dim: int
    ) -> None:
        shards = options.logical_shards
        assert shards is not None
        self._communicator, self._reducer = communicator, reducer
        self._reduction = TreeReduction(communicator, shards)
        reducer.reduction = self._reduction
        self.shards, self.owned = shards, self._reduction.owned
        self._dim, self._weighted = dim, options.weighted
        self.seed = int(communicator.broadcast_object(default_generator().initial_seed()))
        self.step = 0
        self._inside = False  # between the begin and the end of a loop over shards
        self._plain: tuple[int, ShardStream] | None = (
            None  # stream of the step outside of such loops
        )
        self._reduction.allocate(reducer.memory)
        reducer.on_start = self._start

    def state_dict(self) -> dict[str, int]:
        """Where the random streams stand; the same on all ranks."""
        return {"seed": self.seed, "step": self.step}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Go on where the state was taken, on any number of ranks."""
        self.seed, self.step = int(state["seed"]), int(state["step"])

    # ---- one step --------------------------------------------------------------------------

    def run(self, batch: Sequence[Any]) -> Iterator[Any]:
        """Yield this rank's shards of the batch, one after the other, and make one step of them."""
        parts = self._cut(batch)
        header = self._reducer.announce(sum(count for count, _ in parts))
        self._reduction.allocate(self._reducer.memory)
        several = len(parts) > 1
        start = _Start(self._reducer) if several else None
        reducer, step = self._reducer, self.step
        self._inside = True
        try:
            for position, (_, part) in enumerate(parts):
                last = position == len(parts) - 1
                reducer.synchronise = last
                if position and start is not None:
                    start.put_back(position)
                before = reducer.steps
                with self._stream(step, position).use():
                    yield part[0] if len(part) == 1 else part
                if last:
                    self._check_backward(position, reducer.steps - before)
                else:
                    self._check_backward(position, reducer.end_local_runs(fresh=position == 0))
                    self._take_weights(header)
                    self._reduction.fold(reducer.buckets, position)
            self._inside = False
        finally:
            reducer.synchronise = True

    def _start(self, header: Header) -> None:
        """All ranks have begun the synchronised backward of this step."""
        self.step += 1
        self._take_weights(header)
        if not self._inside and self._communicator.size != self.shards:
            raise DistributedError(
                f"{self._communicator.where} backward ran outside of the loop over the shards, "
                f"but {self._communicator.size} ranks own {self.shards} logical shards, so at "
                "least one owns several. Write `for images, labels in model.shards(images, "
                "labels):` around forward and backward (not around zero_grad and step)"
            )

    def _take_weights(self, header: Header) -> None:
        """From what all ranks have announced: the shares of the owned shards."""
        header.arrived(wait=True)
        if (header.rows[:, gates.KIND] != gates.Kind.STEP).any():
            return  # an error, which the gate words
        counts = [int(n) for n in header.rows[:, gates.SAMPLES]]
        if min(counts) <= 0:  # not known
            self._reduction.weights = None
            return
        sizes = [
            size
            for rank, count in enumerate(counts)
            for size in shard_sizes(
                count, len(shards_of(rank, self._communicator.size, self.shards))
            )
        ]
        if not self._weighted or len(set(sizes)) == 1:
            self._reduction.weights = None
        else:
            total = sum(sizes)
            self._reduction.weights = [sizes[shard] / total for shard in self.owned]

    def check_outside(self) -> None:
        """Refuse a loop over shards within another, and another way to sum gradients."""
        if self._inside:
            raise DistributedError(
                f"{self._communicator.where} model.shards() was called within another loop over "
                "its shards, or one was left early; run every loop to its end, one after the other"
            )

        if self._reducer.reduction is not self._reduction:
            other = type(self._reducer.reduction).__name__
            raise DistributedError(
                f"{self._communicator.where} logical_shards sum gradients over a fixed tree, but "
                f"{other} has taken its place; the two cannot be combined"
            )

    def _check_backward(self, position: int, runs: int) -> None:
        if runs != 1:
            raise DistributedError(
                f"{self._communicator.where} logical shard {self.owned[position]} ran backward "
                f"through the model {runs} times in step {self.step}, expected once; sum its "
                "losses and call backward on the sum"
            )

    def _cut(self, batch: Sequence[Any]) -> list[tuple[int, tuple[Any, ...]]]:
        """(samples, arguments) of every owned shard."""
        count, shards = count_samples(_as_tensors(tuple(batch)), self._dim) or 0, len(self.owned)
        if count < shards:
            raise ShapeError(
                f"{self._communicator.where} model.shards() got a batch of {count} samples for "
                f"{shards} logical shards of this rank; every shard needs one. Deal the samples "
                "with ddp.ShardedBatchSampler"
            )
        if shards == 1:
            return [(count, tuple(batch))]
        sizes = shard_sizes(count, shards)
        ends = np.cumsum([0, *sizes]).tolist()
        return [
            (size, tuple(cut(value, count, low, low + size, self._dim) for value in batch))
            for size, low in zip(sizes, ends, strict=False)
        ]

    # ---- without a loop over shards --------------------------------------------------------

    @contextmanager
    def plain(self) -> Iterator[None]:
        """Around a forward in training: outside of a loop over shards, draw from the stream."""
        if self._inside or self._communicator.size != self.shards:
            yield
            return
        if self._plain is None or self._plain[0] != self.step:
            self._plain = self.step, self._stream(self.step, 0)
        with self._plain[1].use():
            yield

    def _stream(self, step: int, position: int) -> ShardStream:
        on_gpu = arrays.on_device(self._reducer.params[0]._array)
        return ShardStream(mix(self.seed, step, self.owned[position]), on_gpu)


def check_logical(communicator: Communicator, module: Module, options: Options) -> None:
    """Refuse options and modules with which the bits would depend on the number of ranks."""
    shards, threads = options.logical_shards, options.threads_per_shard
    assert shards is not None
    if shards < communicator.size:
        raise OptionError(
            f"{communicator.where} logical_shards={shards}: expected at least one shard per rank, "
            f"and there are {communicator.size} ranks"
        )
    if threads < 1:
        raise OptionError(f"threads_per_shard={threads}: expected a number, 1 or above")
    if options.buffers != "broadcast" and BufferSync.count(module):
        raise OptionError(
            f"buffers={options.buffers!r} cannot be combined with logical_shards: all ranks take "
            "the buffers of shard 0. Leave broadcast_buffers and buffer_sync out"
        )
    for name, part in module.named_modules():
        if type(part).__name__ == "SyncBatchNorm":
            raise OptionError(
                f"{communicator.where} module {name!r} is a SyncBatchNorm, whose statistics are "
                "of all ranks; with logical_shards they are of one shard. Use BatchNorm, with as "
                "many samples per shard as its statistics need"
            )


class _Start:
    """Gradients and buffers as they are when a step begins, for each of a rank's shards."""

    def __init__(self, reducer: Reducer) -> None:
        self._params = reducer.params
        self._grads = [None if p.grad is None else p.grad._array.copy() for p in self._params]
        self._buffers = reducer.buffers
        if isinstance(self._buffers, ShardBuffers):
            self._buffers.begin_step()

    def put_back(self, position: int) -> None:
        """Before the shard at `position`, not the first."""
        for param, grad in zip(self._params, self._grads, strict=True):
            param.grad = None
            if grad is not None:
                place = param._grad_buffer
                if place is None:
                    place = np.empty_like(grad)
                place[...] = grad
                param.grad = Tensor(place)
        if isinstance(self._buffers, ShardBuffers):
            self._buffers.next_shard(position)


class ShardBuffers(BufferSync):
    """Buffers that every shard finds as they were; those of shard 0 are kept and travel."""

    def __init__(self, communicator: Communicator, module: Module) -> None:
        super().__init__(communicator, module)
        self._holds_first = communicator.rank == 0
        self._initial: list[Array] | None = None
        self._kept: list[Array] | None = None

    def begin_step(self) -> None:
        graph.compute_all()
        self._initial = self._collect()

    def next_shard(self, position: int) -> None:
        graph.compute_all()  # a batch norm that nobody has looked at updates its buffers then
        if position == 1 and self._holds_first:
            self._kept = self._collect()
        assert self._initial is not None
        self._put(self._initial)

    def start(self, root: int = 0, factor: float = 1.0) -> list[Work]:
        if self._kept is not None:
            self._put(self._kept)
            self._kept = None
        return super().start(root, factor)

    def _collect(self) -> list[Array]:
        for flat in self._flats:
            flat.collect()
        return [flat.memory.copy() for flat in self._flats]

    def _put(self, values: list[Array]) -> None:
        for flat, held in zip(self._flats, values, strict=True):
            flat.put(held)


def _as_tensors(value: Any) -> Any:
    """Arrays count as tensors do."""
    if isinstance(value, np.ndarray):
        return Tensor(value)
    if isinstance(value, dict):
        return {key: _as_tensors(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return tuple(_as_tensors(item) for item in value)
    return value


def cut(value: Any, count: int, low: int, high: int, dim: int) -> Any:
    """The samples [low, high) of one argument of a batch of `count`; other things stay whole.

    Args:
        value: a tensor or array with `count` samples in dimension `dim`, a sequence of `count`
            texts or numbers, or tuples, lists and dicts of these.

    Raises:
        OptionError: sequences that are packed, which cannot be cut.

    Example:
        >>> cut({"text": ["a", "b", "c"], "scale": 2.0}, 3, 1, 3, 0)
        {'text': ['b', 'c'], 'scale': 2.0}
    """
    if isinstance(value, PackedSequence):
        raise OptionError(
            "logical_shards: a PackedSequence cannot be cut into shards; give model.shards() the "
            "padded sequences and their lengths, and pack them inside the loop"
        )
    if isinstance(value, Tensor | np.ndarray):
        if not -value.ndim <= dim < value.ndim or value.shape[dim] != count:
            return value
        where = dim % value.ndim
        return value[(slice(None),) * where + (slice(low, high),)]
    if isinstance(value, dict):
        return {key: cut(item, count, low, high, dim) for key, item in value.items()}
    if isinstance(value, list | tuple):
        if len(value) == count and isinstance(value[0], str | bytes | int | float):
            return value[low:high]
        items = [cut(item, count, low, high, dim) for item in value]
        if hasattr(value, "_fields"):
            return type(value)(*items)
        return type(value)(items)
    return value
