"""When gradients move: from the ready-hooks, while backward still runs, to the end of backward.

Stage of the flow: between the autograd engine, which says when a gradient is ready, and the
communicator. May import: `plan`, `bucket`, `gate`, `reduction`, `tail`, `buffers`,
`communicators.base`, `allgrad`. One backward run:

    first hook      begin: send the step header, ask the engine to call `_finish` at the end
    each hook       count the gradient into its bucket; launch full buckets in bucket order, once
                    the header has arrived; push on the communication that is under way
    end of run      launch what is left, wait for all, look at the tail
    epilogue        what follows from the tail: errors, reports, a better order of the buckets

Which collectives are issued when depends on the program alone: Note [Order of collectives], `gate`.
"""

from __future__ import annotations

import zlib
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from time import perf_counter

from allgrad import Tensor
from allgrad.autograd import call_after_nodes, queue_callback
from allgrad.ddp import captured, complaints
from allgrad.ddp import gate as gates
from allgrad.ddp.bucket import Bucket, detach
from allgrad.ddp.buffers import BufferSync
from allgrad.ddp.communicators.base import Array, ReduceOp, Work
from allgrad.ddp.diagnosis.replicas import Fingerprints
from allgrad.ddp.gate import Gate, Header
from allgrad.ddp.join import take_over
from allgrad.ddp.layout import Layout
from allgrad.ddp.options import Options
from allgrad.ddp.overlap_choice import OverlapChoice
from allgrad.ddp.reduction import MeanReduction, Reduction
from allgrad.ddp.samples import SampleCount, scale, shares_of
from allgrad.ddp.tail import HELD, Unused
from allgrad.ddp.timing import CommunicationTimer, UnderWay
from allgrad.moments import moment
from allgrad.nn import Module
from allgrad.tensors.gradients import RemovableHandle


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
        choice: whether buckets are launched while backward runs; otherwise all after it.
        synchronise: whether backward runs reduce; switched off by `no_sync`.
        steps: synchronised backward runs so far, those that only other ranks made included.
        samples: that forward has seen since the last synchronised backward.
        check_every: replicas are compared every so many steps; 0: never.
        divide_by_initial: see `DistributedDataParallel.join`; None outside of it.
        captured: whether the step is part of a CUDA graph; see Note [Captured steps] in `captured`.
        prints: of the replicas.
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
        self.synchronise = True
        self.choice = OverlapChoice(options.overlap)
        self.captured = False
        self.divide_by_initial: bool | None = None
        self._communicator = gate.communicator
        self.reduction: Reduction = MeanReduction(self._communicator)
        self.timer = CommunicationTimer()
        self.steps = 0
        self.samples = SampleCount()
        self._module = module
        self.gate, self._options, self._buffers = gate, options, buffers
        self.check_every = options.check_every
        self._handles: list[RemovableHandle] = []
        self._params: list[Tensor] = []
        self._number = gate.register(self)
        self.label = f"{type(module).__name__} (wrapped model {self._number})"
        self._runs = 0  # backward runs since the last synchronised one
        self._local_run = self._running = False
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
        self._layout = layout = Layout(self._communicator, named_params, self._options)
        self._params, self._buckets = layout.params, layout.buckets
        self._arrived = [False] * len(self._params)
        self._order: list[int] = []
        self.prints = Fingerprints(self._params, layout.on_gpu)
        self._unused = Unused(layout.names, self._options.unused, self._options.static)
        self._handles = [
            p.register_post_accumulate_grad_hook(partial(self._on_ready, i))
            for i, p in enumerate(self._params)
        ]

    def _allocate(self) -> None:
        """Collective. Cut buckets in the order of registration."""
        self._layout.allocate()
        self._take_layout()

    def _take_layout(self) -> None:
        layout = self._layout
        self._buckets, self._place, self._tail = layout.buckets, layout.place, layout.tail
        self.timer.bytes_per_step = sum(bucket.whole.nbytes for bucket in self._buckets)
        self.timer.buckets = len(self._buckets)

    @property
    def params(self) -> list[Tensor]:
        """What takes part."""
        return self._params

    @property
    def memory(self) -> Array:
        """In which the buckets lie."""
        return self._layout.memory

    @property
    def buffers(self) -> BufferSync | None:
        """What follows at the end of backward."""
        return self._buffers

    def announce(self, samples: int) -> Header:
        """Collective. Send the step header now, not at the beginning of backward."""
        if not self._buckets:
            self._allocate()
        self.samples.given = samples
        self._frozen = self._frozen_now()
        row = self.row()
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
        for param, (_, view) in zip(self._params, self._place, strict=True):
            if param.grad is None:
                view[...] = 0
            else:
                self._collect(param, view)
        return runs

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
            raise complaints.arrived_twice(self._communicator, self._layout.names[index])
        if self._frozen[index]:
            raise complaints.frozen_meanwhile(self._communicator, self._layout.names[index])
        self._arrived[index] = True
        self._left -= 1
        self._order.append(index)
        bucket, view = self._place[index]
        self._collect(param, view)
        bucket.missing -= 1
        if bucket.missing == 0:
            bucket.ready_s = perf_counter()
            self._push()

    def _push(self) -> None:
        """Launch what can be launched and let the communication go on, without waiting."""
        if self.choice.overlapping:
            begin = perf_counter()
            self.gate.advance()
            self._progress()
            self.timer.pushed(begin)

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
        if self._layout.on_gpu:
            self.captured = captured.begin(self, self._layout, self._options, self._unused)
        self.gate.begin(self)
        if not self._buckets:
            self._begin_with_new_parameters()

    def _begin_with_new_parameters(self) -> None:
        """Collective. All ranks see others than before: cut buckets for them, then go on."""
        self.gate.fence()
        if not self._started:
            raise complaints.changed_through_several(self._communicator, self.label)

    def _reset(self) -> None:
        self.steps += 1
        self._communicator.step = self.steps
        self.choice.begin()
        self._running, self._started = True, False
        self._left = len(self._params)  # gradients that have not arrived
        self._arrived = [False] * self._left
        self._frozen = self._frozen_now()
        self._order.clear()
        self._next = 0
        self._pending: deque[UnderWay] = deque()
        self._count_missing()

    def _frozen_now(self) -> bytes:
        """Per parameter 1 if it is frozen."""
        trained = [p._requires_grad for p in self._params]
        return bytes(len(trained)) if all(trained) else bytes(not t for t in trained)

    def _count_missing(self) -> None:
        for bucket in self._buckets:
            bucket.missing = len(bucket.params)
        if self._buckets and 1 in self._frozen:
            # they will not come; those who wait behind them need not wait
            for (bucket, _), frozen in zip(self._place, self._frozen, strict=True):
                bucket.missing -= frozen

    def _collect(self, param: Tensor, view: Array) -> None:
        """Bring the gradient into the bucket, unless the engine has written it there."""
        grad = param._grad
        assert grad is not None
        if grad._array is not view:
            if grad.requires_grad:
                raise complaints.graph_of_mean(self._communicator)
            view[...] = grad._array
            if self._options.as_view:
                param.grad = Tensor(view)

    def advance(self, wait: bool) -> bool:
        """Issue what may be issued now; True once all collectives of this backward were."""
        if not self._started:
            if self._header is None:
                self._header = Header(self._communicator, self.row())
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

    def row(self) -> list[float]:
        """What this rank says in the step header."""
        structure = zlib.crc32(self._frozen, self._layout.identity)
        flags = gates.THROW if self.gate.throwing else 0
        flags |= gates.CAPTURED if self.captured else 0
        samples = self.samples.total
        row = [gates.Kind.STEP, self._number, self._runs, samples, self.steps, structure, flags]
        if self.captured:
            return row  # whose replays are compared
        checked = self.prints.at(self.steps, self.check_every)
        return row if checked is None else [*row, checked]

    def _start(self, header: Header) -> None:
        """All ranks have begun: decide what each counts."""
        self._started = True
        shares, size = None, self._communicator.size
        if header.uniform:
            self._stepping = list(range(size))
        else:
            self._stepping = header.ranks(gates.Kind.STEP)
            samples = header.rows[:, gates.SAMPLES].tolist()
            weighted = self._options.weighted
            shares = shares_of(samples, self._stepping, weighted, self.divide_by_initial)
        self._factor = 1.0 if shares is None else size * shares[self._communicator.rank]
        if not self._serving:
            self._runs = 0
            self.samples.reset()
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
        self._track(self.reduction.reduce(bucket), bucket)
        if bucket.is_last:
            self._launch_rest()
        communicator.note = ""

    def _take_in_missing(self, bucket: Bucket) -> None:
        """Gradients that have not arrived are zero, or what was accumulated before."""
        if self._left == 0:
            return
        for place, index in enumerate(bucket.indices):
            if not self._arrived[index]:
                param, view = bucket.params[place], bucket.views[place]
                if param.grad is None:
                    view[...] = 0
                else:
                    self._collect(param, view)

    def _write_tail(self) -> None:
        if self._serving:
            self._tail.write([0] * len(self._params), changed=False)
            return
        used = self._used()
        levels: Sequence[float] = used
        if self._left:
            held = [HELD if p.grad is not None else 0 for p in self._params]
            levels = [max(u, h) for u, h in zip(used, held, strict=True)]
        self._tail.write(levels, changed=self._unused.has_changed(used))

    def _used(self) -> list[bool]:
        """Which parameters this rank has used in this step; a frozen one lacks nothing."""
        used = self._arrived
        if self._left == 0:
            return used
        if self._used_before is not None:
            used = [a or b for a, b in zip(used, self._used_before, strict=True)]
        return [a or bool(f) for a, f in zip(used, self._frozen, strict=True)]

    def _launch_rest(self) -> None:
        """What goes with the last bucket."""
        communicator = self._communicator
        if self._layout.on_gpu or not self.reduction.carries_tail:
            communicator.note = "tail of the last bucket"
            self._track(communicator.all_reduce(self._tail.array, ReduceOp.AVG, async_op=True))
        if self._buffers is not None:
            communicator.note = "buffers"
            for work in self._buffers.start(self._stepping[0], self._factor):
                self._track(work)

    def _track(self, work: Work, bucket: Bucket | None = None) -> None:
        self.timer.collectives += 1
        self._pending.append(UnderWay(work, perf_counter(), self._communicator.note, bucket))

    def _progress(self) -> None:
        """Push the communication on; note what has arrived."""
        pending = self._pending
        while pending and self._layout.arrays.pushes and pending[0].work.test():
            self.timer.completed(pending.popleft())

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
            self._pending[0].work.wait()
            self.timer.completed(self._pending.popleft())
        self._running = False
        if self._buffers is not None:
            self._buffers.finish()
        self.timer.end_step(begin)
        self.choice.end(self._serving)
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
        if self._left == 0:
            return
        for index, used in enumerate(self._tail.used_by()):
            param = self._params[index]
            if used and param.grad is None and not self._frozen[index]:
                view = self._place[index][1]
                param.grad = Tensor(view if as_view else view.copy())

    def _epilogue(self) -> None:
        """Collective. Act on the tail, which is the same on all ranks."""
        used = [True] * len(self._params) if self._serving else self._used()
        order = self._unused.look(self._tail, used, self._order, self._communicator, self._stepping)
        if order is not None and not self.captured:
            self.timer.collectives += 1
            self._layout.cut(order)
            self._take_layout()
        self.timer.collectives += self.choice.settle(self._communicator)
        self.captured = False

    def abandon(self) -> None:
        """Forget the backward that is under way; the ranks raise all together."""
        self._running = self._local_run = self.captured = False
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
            if grad is not None and param.grad is not None:
                param.grad._array[...] = grad

    def take_over(self, root: int) -> None:
        """Collective. Take all that training has changed from the root."""
        self._communicator.note = f"state of rank {root}, which made the most steps"
        take_over(self._communicator, self._module, root)
        self._communicator.note = ""

    def explain(self, rows: Array, stepping: list[int]) -> None:
        """Collective of all ranks. Raise if the rows of ranks that step do not go together."""
        complaints.explain(self.gate, self.label, self._layout, rows, stepping)
