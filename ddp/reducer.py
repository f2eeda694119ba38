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

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from time import perf_counter

from allgrad import Tensor
from allgrad.autograd import queue_callback
from allgrad.ddp import gate as gates
from allgrad.ddp.bucket import Bucket, attach, detach
from allgrad.ddp.buffers import BufferSync
from allgrad.ddp.communicators.base import Array, ReduceOp, Work
from allgrad.ddp.gate import Gate, Header
from allgrad.ddp.plan import (
    BUCKET_CAP_BYTES,
    FIRST_BUCKET_CAP_BYTES,
    BucketPlan,
    Parameter,
    plan_buckets,
    total_bytes,
)
from allgrad.ddp.reduction import MeanReduction, Reduction
from allgrad.ddp.tail import Tail, Unused
from allgrad.ddp.timing import CommunicationTimer
from allgrad.errors import DistributedError
from allgrad.moments import moment


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
    """

    as_view: bool = True
    cap_bytes: int = BUCKET_CAP_BYTES
    first_cap_bytes: int = FIRST_BUCKET_CAP_BYTES
    unused: str = "report"
    weighted: bool = True
    static: bool = False
    delayed: frozenset[str] = frozenset()


class Reducer:
    """Averages the gradients of `params` over the ranks in every backward that is synchronised.

    Args:
        gate: of a group of at least two ranks.
        label: what the model is called in messages.
        names, params: what takes part, in the same order on all ranks.
        options: see `Options`.
        buffers: what follows at the end of backward, or None.

    Attributes:
        reduction: how one bucket becomes its mean over the ranks; may be replaced between steps.
        synchronise: whether backward runs reduce; switched off by `no_sync`.
        steps: synchronised backward runs so far, those that only other ranks made included.
        samples: that forward has seen since the last synchronised backward.
        absent_count: see `DistributedDataParallel.join`.
    """

    def __init__(
        self,
        gate: Gate,
        label: str,
        names: Sequence[str],
        params: Sequence[Tensor],
        options: Options,
        buffers: BufferSync | None = None,
    ) -> None:
        self.synchronise = True
        self._communicator = gate.communicator
        self.reduction: Reduction = MeanReduction(self._communicator)
        self.timer = CommunicationTimer()
        self.steps, self.samples = 0, 0
        self._gate, self._options, self._buffers = gate, options, buffers
        self._number = gate.register(self)
        self.label = f"{label} (model {self._number})"
        self._runs = 0  # backward runs since the last synchronised one
        self._local_run = False
        self._running = False
        self._header: Header | None = None
        self._shares: list[float] | None = None
        self._use(names, params)

    def _use(self, names: Sequence[str], params: Sequence[Tensor]) -> None:
        """Collective. Cut buckets for these parameters and watch them."""
        self._names, self._params = list(names), list(params)
        self._specs = [
            Parameter(name, tuple(p.shape), p._array.dtype)
            for name, p in zip(self._names, self._params, strict=True)
        ]
        self._arrived = [False] * len(self._params)
        self._order: list[int] = []
        self._unused = Unused(self._names, self._options.unused, self._options.static)
        plans = self._plan(None)
        self._memory = self._communicator.allocate(total_bytes(plans))
        self._build(plans)
        self._handles = [
            p.register_post_accumulate_grad_hook(partial(self._on_ready, i))
            for i, p in enumerate(self._params)
        ]

    @property
    def buckets(self) -> list[Bucket]:
        """The buckets, in the order in which they are reduced."""
        return self._buckets

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
        if bucket.missing == 0 or self._pending or self._header is not None:
            begin = perf_counter()
            self._gate.advance()
            self._progress()
            self.timer.in_backward_s += perf_counter() - begin

    def _end_local_run(self) -> None:
        self._local_run = False
        self._runs += 1

    def _begin(self) -> None:
        queue_callback(self._finish)
        self._runs += 1
        self._reset()
        self._gate.begin(self)

    def _reset(self) -> None:
        self.steps += 1
        self._communicator.step = self.steps
        self._running, self._started = True, False
        self._arrived = [False] * len(self._params)
        self._order.clear()
        self._next = 0
        self._pending: deque[tuple[Work, float]] = deque()
        for bucket in self._buckets:
            bucket.missing = len(bucket.params)

    def _collect(self, param: Tensor, view: Array) -> None:
        """Bring the gradient into the bucket, unless the engine has written it there."""
        grad = param._grad
        assert grad is not None
        if grad._array is not view:
            view[...] = grad._array
            if self._options.as_view:
                param.grad = Tensor(view)

    def advance(self, wait: bool) -> bool:
        """Issue what may be issued now; True once all collectives of this backward were."""
        if not self._started:
            if self._header is None:
                self._header = Header(self._communicator, self._row())
                self.timer.collectives += 1
            if not self._header.arrived(wait):
                return False
            header, self._header = self._header, None
            self._gate.judge(header)
            self._start(header)
        self._launch_full_buckets()
        return self._next == len(self._buckets)

    def _launch_full_buckets(self) -> None:
        while self._next < len(self._buckets) and self._buckets[self._next].missing == 0:
            self._launch()

    def _row(self) -> list[float]:
        return [gates.Kind.STEP, self._number, self._runs, self.samples, self.steps, 0, 0]

    def _start(self, header: Header) -> None:
        """All ranks have begun: decide what each counts."""
        self._started = True
        self._runs, self.samples = 0, 0
        self._shares = None
        self.reduction.start(self._shares)

    def _launch(self) -> None:
        bucket = self._buckets[self._next]
        self._next += 1
        communicator, carried = self._communicator, self.reduction.carries_tail
        if bucket.is_last:
            self._tail.write(self._arrived, changed=False)
        communicator.note = bucket.note
        self._track(self.reduction.reduce(bucket))
        if bucket.is_last:
            if not carried:
                communicator.note = "tail of the last bucket"
                self._track(communicator.all_reduce(self._tail.array, ReduceOp.AVG, async_op=True))
            if self._buffers is not None:
                communicator.note = "buffers"
                self._track(self._buffers.start())
        communicator.note = ""

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
        self._take_in_unused()
        if self._next < len(self._buckets):
            self._gate.advance(wait=True)
        self._complete(begin)

    def _take_in_unused(self) -> None:
        for index, arrived in enumerate(self._arrived):
            if arrived:
                continue
            param, (bucket, view) = self._params[index], self._place[index]
            if param.grad is None:
                view[...] = 0
            else:
                self._collect(param, view)
            bucket.missing = 0

    def _complete(self, begin: float) -> None:
        """Wait for all collectives of this backward and put the results where they belong."""
        while self._pending:
            work, launched = self._pending.popleft()
            work.wait()
            self.timer.add_span(launched, perf_counter())
        self._running = False
        if self._buffers is not None:
            self._buffers.finish()
        self.timer.end_step(exposed_s=perf_counter() - begin)
        self._give_back()
        self._gate.finish(self._epilogue)

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
            if used and param.grad is None:
                view = self._place[index][1]
                param.grad = Tensor(view if as_view else view.copy())

    def _epilogue(self) -> None:
        """Collective. Act on the tail, which is the same on all ranks."""
        order = self._unused.look(self._tail, self._arrived, self._order, self._communicator)
        if order is not None:
            self.timer.collectives += 1
            plans = self._plan(order)
            if total_bytes(plans) == self._memory.size:
                self._build(plans)

    def abandon(self) -> None:
        """Forget the backward that is under way; the ranks raise all together."""
        self._running = self._local_run = False
        self._header = None

    def serve(self, header: Header) -> None:
        """Take part, with nothing to contribute, in a step that other ranks make."""
        raise NotImplementedError

    def explain(self, rows: Array, stepping: list[int]) -> None:
        """Collective of all ranks. Raise if the rows of ranks that step do not go together."""
        if len({rows[rank, gates.RUNS] for rank in stepping}) > 1:
            counts = ", ".join(f"rank {rank}: {int(rows[rank, gates.RUNS])}" for rank in stepping)
            self._gate.fail(
                f"ranks have run backward of {self.label} a different number of times since "
                f"the last synchronised one ({counts})",
                "enter no_sync() for the same backward calls on every rank",
            )
