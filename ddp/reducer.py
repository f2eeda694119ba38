"""When gradients move: from the ready-hooks, while backward still runs, to the end of backward.

Stage of the flow: between the autograd engine, which says when a gradient is ready, and the
communicator. May import: `plan`, `bucket`, `gate`, `reduction`, `tail`, `buffers`,
`communicators.base`, `allgrad`. One backward run:

    first hook      begin: send the step header, ask the engine to call `_finish` at the end
    each hook       count the gradient into its bucket; launch full buckets in bucket order, once
                    the header has arrived; push on the communication that is under way
    end of run      launch what is left, wait for all, look at the tail
    epilogue        what follows from the tail: errors, reports, a better order of the buckets

Which collectives are issued when depends on the program alone, never on time: see Note [Order of
collectives] in `gate`.
"""

from __future__ import annotations

import zlib
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from time import perf_counter

from allgrad import Tensor
from allgrad.autograd import call_after_nodes, queue_callback
from allgrad.ddp import gate as gates
from allgrad.ddp.bucket import Bucket, attach, detach
from allgrad.ddp.buffers import BufferSync
from allgrad.ddp.communicators.base import Array, ReduceOp, Work
from allgrad.ddp.gate import Gate, Header
from allgrad.ddp.join import take_over
from allgrad.ddp.model_check import first_difference
from allgrad.ddp.plan import (
    BUCKET_CAP_BYTES,
    FIRST_BUCKET_CAP_BYTES,
    BucketPlan,
    Parameter,
    plan_buckets,
    total_bytes,
)
from allgrad.ddp.reduction import MeanReduction, Reduction
from allgrad.ddp.samples import scale, shares_of
from allgrad.ddp.tail import Tail, Unused
from allgrad.ddp.timing import CommunicationTimer
from allgrad.errors import DistributedError
from allgrad.moments import moment
from allgrad.nn import Module
from allgrad.tensors.gradients import RemovableHandle


@dataclass(frozen=True)
class Options:
    """How a reducer works; the same on all ranks. See `DistributedDataParallel`.

    Attributes:
        as_view: gradients lie in the buckets; otherwise they are copied in and out.
        cap_bytes, first_cap_bytes: see `plan_buckets`.
        unused: "report", "ignore" or "error".
        weighted: whether ranks count by their samples.
        static: whether the set of used parameters may not change.
        delayed: names of parameters that are reduced last.
        buffers: "broadcast", "average" or "none".
        logical_shards, threads_per_shard: see `shards`.
    """

    as_view: bool = True
    cap_bytes: int = BUCKET_CAP_BYTES
    first_cap_bytes: int = FIRST_BUCKET_CAP_BYTES
    unused: str = "report"
    weighted: bool = True
    static: bool = False
    delayed: tuple[str, ...] = ()
    buffers: str = "broadcast"
    logical_shards: int | None = None
    threads_per_shard: int = 1


class Reducer:
    """Averages the gradients of `params` over the ranks in every backward that is synchronised.

    Args:
        gate: of a group of at least two ranks.
        module: the wrapped one.
        named_params: what takes part, in the same order on all ranks.
        options: see `Options`.
        buffers: what follows at the end of backward, or None.

    Attributes:
        gate: as given.
        reduction: how one bucket becomes its mean over the ranks; may be replaced between steps.
        overlap: whether buckets are launched while backward runs; otherwise all after it.
        synchronise: whether backward runs reduce; switched off by `no_sync`.
        steps: synchronised backward runs so far, those that only other ranks made included.
        samples, samples_in_eval: that forward has seen since the last synchronised backward, in
            training and in eval mode; the latter count where there are none of the former.
        given_samples: counts instead of what forward has seen, once.
        divide_by_initial: see `DistributedDataParallel.join`; None outside of it.
        on_start: called at the beginning of every synchronised backward with the header of all.
    """

    def __init__(
        self,
        gate: Gate,
        module: Module,
        named_params: Sequence[tuple[str, Tensor]],
        options: Options,
        buffers: BufferSync | None = None,
    ) -> None:
        self.synchronise = self.overlap = True
        self.divide_by_initial: bool | None = None
        self._communicator = gate.communicator
        self.reduction: Reduction = MeanReduction(self._communicator)
        self.timer = CommunicationTimer()
        self.steps = self.samples = self.samples_in_eval = 0
        self._module = module
        self.gate, self._options, self._buffers = gate, options, buffers
        self.given_samples: float | None = None
        self._handles: list[RemovableHandle] = []
        self._params: list[Tensor] = []
        self._number = gate.register(self)
        self.label = f"{type(module).__name__} (wrapped model {self._number})"
        self._runs = 0  # backward runs since the last synchronised one
        self._local_run = False
        self._running = False
        self._header: Header | None = None
        self._stepping: list[int] = []  # the ranks that make this step
        self._factor = 1.0  # by which this rank's gradients are multiplied, see Note [Shares]
        self._serving = False  # a step that only others make
        self.on_start: Callable[[Header], None] | None = None
        self._used_before: list[bool] | None = None  # by logical shards before the last one
        self.adopt(named_params)
        self._allocate()

    def adopt(self, named_params: Sequence[tuple[str, Tensor]]) -> None:
        """Watch these parameters from now on; the next backward cuts new buckets for them."""
        self.close()
        self._names = [name for name, _ in named_params]
        self._params = [p for _, p in named_params]
        self._specs = [Parameter(name, tuple(p.shape), p._array.dtype) for name, p in named_params]
        self._identity = zlib.crc32(repr(self._specs).encode())
        self._arrived = [False] * len(self._params)
        self._order: list[int] = []
        self._unused = Unused(self._names, self._options.unused, self._options.static)
        self._buckets: list[Bucket] = []
        self._handles = [
            p.register_post_accumulate_grad_hook(partial(self._on_ready, i))
            for i, p in enumerate(self._params)
        ]

    @property
    def params(self) -> list[Tensor]:
        """What takes part."""
        return self._params

    @property
    def memory(self) -> Array:
        """In which the buckets lie."""
        return self._memory

    @property
    def buffers(self) -> BufferSync | None:
        """What follows at the end of backward."""
        return self._buffers

    def announce(self, samples: int) -> Header:
        """Collective. Send the step header now, not at the beginning of backward."""
        if not self._buckets:
            self._allocate()
        self.given_samples = samples
        self._frozen = bytes(not p._requires_grad for p in self._params)
        row = self._row()
        row[gates.RUNS] = 1
        self._header = Header(self._communicator, row)
        self.timer.collectives += 1
        return self._header

    def end_local_runs(self, fresh: bool) -> int:
        """Bring the gradients of backward runs that were not synchronised into the buckets.

        Args:
            fresh: the first since the last synchronised one; otherwise parameters that were used
                before count as used.

        Returns:
            How many runs there were.
        """
        runs, self._runs = self._runs, 0
        before = None if fresh else self._used_before
        self._used_before = [p.grad is not None for p in self._params]
        if before is not None:
            self._used_before = [a or b for a, b in zip(self._used_before, before, strict=True)]
        for param, (_, view) in zip(self._params, self._places(), strict=True):
            if param.grad is None:
                view[...] = 0
            else:
                self._collect(param, view)
        return runs

    def _places(self) -> list[tuple[Bucket, Array]]:
        return [self._place[index] for index in range(len(self._params))]

    def _allocate(self) -> None:
        """Collective. Cut buckets in the order of registration."""
        plans = self._plan(None)
        self._memory = self._communicator.allocate(total_bytes(plans))
        self._build(plans)

    @property
    def buckets(self) -> list[Bucket]:
        """The buckets, in the order in which they are reduced."""
        return self._buckets

    def retire(self) -> None:
        """The wrapper is gone: leave the module to itself."""
        self.close()
        self.gate.retire(self._number)

    def close(self) -> None:
        """Take the hooks off the parameters and give their gradients memory of their own."""
        for handle in self._handles:
            handle.remove()
        self._handles = []
        detach(self._params)

    def _plan(self, order: list[int] | None) -> list[BucketPlan]:
        options, count = self._options, len(self._params)
        if options.delayed:
            given = range(count - 1, -1, -1) if order is None else order
            order = sorted(given, key=lambda index: self._names[index] in options.delayed)
        return plan_buckets(
            self._specs,
            order,
            cap_bytes=options.cap_bytes,
            first_cap_bytes=options.first_cap_bytes,
            tail_elements=Tail.elements(count),
        )

    def _build(self, plans: Sequence[BucketPlan]) -> None:
        count = len(plans)
        self._buckets = [
            Bucket(i, count, plan, self._memory, self._names, self._params)
            for i, plan in enumerate(plans)
        ]
        attach(self._buckets, self._options.as_view)
        self._place: dict[int, tuple[Bucket, Array]] = {}
        for bucket, plan in zip(self._buckets, plans, strict=True):
            for slot, view in zip(plan.slots, bucket.views, strict=True):
                self._place[slot.index] = (bucket, view)
        last = self._buckets[-1]
        self._tail = Tail(last.whole[last.flat.size :], len(self._params), self._communicator.size)
        self.timer.bytes_per_step = sum(bucket.whole.nbytes for bucket in self._buckets)
        self.timer.buckets = len(self._buckets)

    # ---- during backward -------------------------------------------------------------------

    def _on_ready(self, index: int, param: Tensor) -> None:
        moment("gradient")
        if not self._running:
            if not self.synchronise:
                if not self._local_run:
                    self._local_run = True
                    queue_callback(self._end_local_run)
                return
            self._begin()
        if self._arrived[index]:
            raise DistributedError(
                f"{self._communicator.where} the gradient of {self._names[index]!r} became ready "
                "twice in one backward. Did the backward before this one end with an exception? "
                "Then the ranks are out of step: let the exception end the program"
            )
        self._arrived[index] = True
        self._order.append(index)
        bucket, view = self._place[index]
        self._collect(param, view)
        bucket.missing -= 1
        if bucket.missing == 0:
            self._push()

    def _push(self) -> None:
        """Launch what can be launched and let the communication go on, without waiting."""
        if self.overlap:
            begin = perf_counter()
            self.gate.advance()
            self._progress()
            self.timer.in_backward_s += perf_counter() - begin

    def _after_node(self) -> None:
        if self._pending or self._header is not None:
            self._push()

    def _end_local_run(self) -> None:
        self._local_run = False
        self._runs += 1

    def _begin(self) -> None:
        queue_callback(self._finish)
        call_after_nodes(self._after_node)
        self._runs += 1
        self._reset()
        self.gate.begin(self)
        if not self._buckets:
            self._begin_with_new_parameters()

    def _begin_with_new_parameters(self) -> None:
        """Collective. All ranks see others than before: cut buckets for them, then go on."""
        self.gate.fence()
        if not self._started:
            raise DistributedError(
                f"{self._communicator.where} parameters of {self.label} were added or thawed "
                "before a backward that runs through several wrapped models; run the first "
                "backward after such a change through one of them alone"
            )

    def _reset(self) -> None:
        self.steps += 1
        self._communicator.step = self.steps
        self._running, self._started = True, False
        self._arrived = [False] * len(self._params)
        self._frozen = bytes(not p._requires_grad for p in self._params)
        self._order.clear()
        self._next = 0
        self._pending: deque[tuple[Work, float]] = deque()
        self._count_missing()

    def _count_missing(self) -> None:
        for bucket in self._buckets:
            bucket.missing = len(bucket.params)
        if any(self._frozen):  # they will not come; those who wait behind them need not wait
            for index, frozen in enumerate(self._frozen):
                if self._buckets and frozen:
                    self._place[index][0].missing -= 1

    def _collect(self, param: Tensor, view: Array) -> None:
        """Bring the gradient into the bucket, unless the engine has written it there."""
        grad = param._grad
        assert grad is not None
        if grad._array is not view:
            if grad.requires_grad:
                self._raise_graph()
            view[...] = grad._array
            if self._options.as_view:
                param.grad = Tensor(view)

    def _raise_graph(self) -> None:
        raise DistributedError(
            f"{self._communicator.where} backward(create_graph=True) of a synchronised "
            "DistributedDataParallel: averaged gradients have no graph. For a penalty on "
            "gradients use autograd.grad(..., create_graph=True), which averages nothing, and "
            "call backward() on the loss; or call it inside no_sync()"
        )

    def advance(self, wait: bool) -> bool:
        """Issue what may be issued now; True once all collectives of this backward were."""
        if not self._started:
            if self._header is None:
                self._header = Header(self._communicator, self._row())
                self.timer.collectives += 1
            if not self._header.arrived(wait):
                return False
            header, self._header = self._header, None
            self.gate.judge(header)
            self._start(header)
        self._launch_full_buckets()
        return self._next == len(self._buckets)

    def _launch_full_buckets(self) -> None:
        while self._next < len(self._buckets) and self._buckets[self._next].missing == 0:
            self._launch()

    def _row(self) -> list[float]:
        structure = zlib.crc32(self._frozen, self._identity)
        flags = gates.THROW if self.gate.throwing else 0
        samples = self.given_samples
        if samples is None:
            samples = self.samples or self.samples_in_eval
        return [gates.Kind.STEP, self._number, self._runs, samples, self.steps, structure, flags]

    def _start(self, header: Header) -> None:
        """All ranks have begun: decide what each counts."""
        self._started = True
        shares, size = None, self._communicator.size
        if header.uniform:
            self._stepping = list(range(size))
        else:
            self._stepping = header.ranks(gates.Kind.STEP)
            samples = header.rows[:, gates.SAMPLES].tolist()
            shares = shares_of(
                samples, self._stepping, self._options.weighted, self.divide_by_initial
            )
        self._factor = 1.0 if shares is None else size * shares[self._communicator.rank]
        if not self._serving:
            self._runs = self.samples = self.samples_in_eval = 0
            self.given_samples = None
        if not self._buckets:
            self._allocate()
            self._count_missing()
        self.reduction.start(shares)
        if self.on_start is not None:
            self.on_start(header)

    def _launch(self) -> None:
        bucket = self._buckets[self._next]
        self._next += 1
        communicator = self._communicator
        communicator.note = bucket.note
        if self._serving:
            bucket.flat[...] = 0
        else:
            self._take_in_missing(bucket)
            if self._factor != 1.0 and not self.reduction.weighs:
                scale(bucket.flat, self._factor)
        if bucket.is_last:
            self._write_tail()
        self._track(self.reduction.reduce(bucket))
        if bucket.is_last:
            self._launch_rest()
        communicator.note = ""

    def _take_in_missing(self, bucket: Bucket) -> None:
        """Gradients that have not arrived are zero, or what was accumulated before."""
        arrived = self._arrived
        for place, index in enumerate(bucket.indices):
            if not arrived[index]:
                param, view = bucket.params[place], bucket.views[place]
                if param.grad is None:
                    view[...] = 0
                else:
                    self._collect(param, view)

    def _write_tail(self) -> None:
        if self._serving:
            self._tail.write([False] * len(self._params), changed=False)
            return
        # a frozen parameter lacks nothing
        used = [a or bool(f) for a, f in zip(self._used(), self._frozen, strict=True)]
        self._tail.write(used, changed=self._unused.has_changed(used))

    def _used(self) -> list[bool]:
        """Which parameters this rank has used in this step."""
        if self._used_before is None:
            return self._arrived
        return [a or b for a, b in zip(self._arrived, self._used_before, strict=True)]

    def _launch_rest(self) -> None:
        """What goes with the last bucket."""
        communicator = self._communicator
        if not self.reduction.carries_tail:
            communicator.note = "tail of the last bucket"
            self._track(communicator.all_reduce(self._tail.array, ReduceOp.AVG, async_op=True))
        if self._buffers is not None:
            communicator.note = "buffers"
            for work in self._buffers.start(self._stepping[0], self._factor):
                self._track(work)

    def _track(self, work: Work) -> None:
        self.timer.collectives += 1
        self._pending.append((work, perf_counter()))

    def _progress(self) -> None:
        """Push the communication on; note what has arrived."""
        pending = self._pending
        while pending and pending[0][0].test():
            self.timer.add_span(pending.popleft()[1], perf_counter())

    # ---- at the end of backward ------------------------------------------------------------

    def _finish(self) -> None:
        begin = perf_counter()
        if self._next < len(self._buckets):
            self.gate.fence()  # the header may not have come before
            for bucket in self._buckets:
                bucket.missing = 0
            self.gate.fence()
        self._complete(begin)

    def _complete(self, begin: float) -> None:
        """Wait for all collectives of this backward and put the results where they belong."""
        self.gate.fence()  # what follows in a hook's chain of futures comes after other models'
        while self._pending:
            work, launched = self._pending.popleft()
            work.wait()
            self.timer.add_span(launched, perf_counter())
        self._running = False
        if self._buffers is not None:
            self._buffers.finish()
        self.timer.end_step(exposed_s=perf_counter() - begin)
        if not self._serving:
            self._give_back()
        self.gate.finish(self._epilogue)

    def _give_back(self) -> None:
        """Give the gradients back where they live outside of the buckets, or were missing."""
        as_view = self._options.as_view
        if not as_view:
            for bucket in self._buckets:
                for param, view in zip(bucket.params, bucket.views, strict=True):
                    if param.grad is not None:
                        param.grad._array[...] = view
        if all(self._arrived):
            return
        for index, used in enumerate(self._tail.used_by()):
            param = self._params[index]
            if used and param.grad is None and not self._frozen[index]:
                view = self._place[index][1]
                param.grad = Tensor(view if as_view else view.copy())

    def _epilogue(self) -> None:
        """Collective. Act on the tail, which is the same on all ranks."""
        used = [
            self._serving or a or bool(f) for a, f in zip(self._used(), self._frozen, strict=True)
        ]
        order = self._unused.look(self._tail, used, self._order, self._communicator, self._stepping)
        if order is not None:
            self.timer.collectives += 1
            plans = self._plan(order)
            if total_bytes(plans) == self._memory.size:
                self._build(plans)

    def abandon(self) -> None:
        """Forget the backward that is under way; the ranks raise all together."""
        self._running = self._local_run = False
        self._header = None

    # ---- together with other ranks ---------------------------------------------------------

    def serve(self, header: Header) -> None:
        """Take part, with nothing to contribute, in a step that other ranks make."""
        kept = [None if p.grad is None else p.grad._array.copy() for p in self._params]
        begin = perf_counter()
        self._reset()
        self._serving = True
        try:
            self._start(header)
            for bucket in self._buckets:
                bucket.missing = 0
            self._launch_full_buckets()
            self._complete(begin)
        finally:
            self._serving = False
        for param, grad in zip(self._params, kept, strict=True):
            if param.grad is not None:
                assert grad is not None
                param.grad._array[...] = grad

    def take_over(self, root: int) -> None:
        """Collective. Take all that training has changed from the root."""
        self._communicator.note = f"state of rank {root}, which made the most steps"
        take_over(self._communicator, self._module, root)
        self._communicator.note = ""

    def explain(self, rows: Array, stepping: list[int]) -> None:
        """Collective of all ranks. Raise if the rows of ranks that step do not go together."""
        if len({rows[rank, gates.RUNS] for rank in stepping}) > 1:
            counts = ", ".join(f"rank {rank}: {int(rows[rank, gates.RUNS])}" for rank in stepping)
            self.gate.fail(
                f"ranks have run backward of {self.label} a different number of times since the "
                f"last synchronised one, this one included ({counts})",
                "enter no_sync() for the same backward calls on every rank",
            )
        if len({rows[rank, gates.STRUCTURE] for rank in stepping}) > 1:
            mine = [
                (s.name, s.shape, s.dtype.name, not frozen)
                for s, frozen in zip(self._specs, self._frozen, strict=True)
            ]
            difference = first_difference(self._communicator.all_gather_object(mine))
            self.gate.fail(
                f"ranks have different trainable parameters in {self.label}; first difference, at "
                f"parameter {difference}",
                "add, freeze and thaw the same parameters before the same step on every rank",
            )
