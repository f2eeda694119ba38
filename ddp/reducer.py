"""When gradients move: from the ready-hooks, while backward still runs, to the end of backward.

Stage of the flow: between the autograd engine, which says when a gradient is ready, and the
communicator. May import: `plan`, `bucket`, `communicators.base`, `allgrad`. One backward run:

    first hook      begin: ask the engine to call `_finish` at the end
    each hook       count the gradient into its bucket; launch full buckets in bucket order;
                    push on the communication that is under way
    end of run      launch what is left, wait for all, look at the tail

Note [Tail]
    The last bucket has a tail of a few elements that is reduced with it, so that ranks learn of
    each other what they must know without one more collective: element 0 is positive if some rank
    lacks a gradient that it must have; with `find_unused` element 1 + i is positive if some rank
    used parameter i. All ranks see the same tail and so take the same way: all raise, or none.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from functools import partial
from time import perf_counter

import numpy as np

from allgrad import Tensor
from allgrad.autograd import queue_callback
from allgrad.ddp.bucket import Bucket, attach, detach
from allgrad.ddp.buffers import BufferSync
from allgrad.ddp.communicators.base import Array, Communicator, Work
from allgrad.ddp.plan import (
    BUCKET_CAP_BYTES,
    FIRST_BUCKET_CAP_BYTES,
    BucketPlan,
    Parameter,
    plan_buckets,
    total_bytes,
)
from allgrad.ddp.reduction import MeanReduction, Reduction
from allgrad.ddp.timing import CommunicationTimer
from allgrad.errors import DistributedError
from allgrad.moments import moment


class Reducer:
    """Averages the gradients of `params` over the ranks in every backward that is synchronised.

    Args:
        communicator: of at least two ranks.
        names, params: what takes part, in the same order on all ranks.
        find_unused: a parameter without gradient on this rank counts as zero instead of an error.
        as_view: gradients lie in the buckets; otherwise they are copied in and out.
        buffers: what to broadcast from rank 0 at the end of backward, or None.
        cap_bytes, first_cap_bytes: see `plan_buckets`.

    Attributes:
        reduction: how one bucket becomes its mean over the ranks; may be replaced between steps.
        synchronise: whether backward runs reduce; switched off by `no_sync`.
    """

    def __init__(
        self,
        communicator: Communicator,
        names: Sequence[str],
        params: Sequence[Tensor],
        *,
        find_unused: bool = False,
        as_view: bool = True,
        buffers: BufferSync | None = None,
        cap_bytes: int = BUCKET_CAP_BYTES,
        first_cap_bytes: int = FIRST_BUCKET_CAP_BYTES,
    ) -> None:
        self.synchronise = True
        self.reduction: Reduction = MeanReduction(communicator)
        self.timer = CommunicationTimer()
        self._communicator = communicator
        self._names, self._params = list(names), list(params)
        self._find_unused, self._as_view, self._buffers = find_unused, as_view, buffers
        self._caps = (cap_bytes, first_cap_bytes)
        self._tail_elements = 1 + (len(self._params) if find_unused else 0)
        self._specs = [
            Parameter(name, tuple(p.shape), p._array.dtype)
            for name, p in zip(self._names, self._params, strict=True)
        ]
        plans = self._plan(None)
        self._memory = communicator.allocate(total_bytes(plans))
        self._order: list[int] | None = []  # learnt in the first backward, then None
        self._running = False
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
        cap_bytes, first_cap_bytes = self._caps
        return plan_buckets(
            self._specs,
            order,
            cap_bytes=cap_bytes,
            first_cap_bytes=first_cap_bytes,
            tail_elements=self._tail_elements,
        )

    def _build(self, plans: Sequence[BucketPlan]) -> None:
        self._buckets = [
            Bucket(i, plan, self._memory, self._params) for i, plan in enumerate(plans)
        ]
        attach(self._buckets, self._as_view)
        self._place: dict[int, tuple[Bucket, Array]] = {}
        for bucket, plan in zip(self._buckets, plans, strict=True):
            for slot, view in zip(plan.slots, bucket.views, strict=True):
                self._place[slot.index] = (bucket, view)
        self._tail = self._buckets[-1].flat[-self._tail_elements :]
        self.timer.bytes_per_step = sum(bucket.flat.nbytes for bucket in self._buckets)
        self.timer.buckets = len(self._buckets)

    # ---- during backward -------------------------------------------------------------------

    def _on_ready(self, index: int, param: Tensor) -> None:
        moment("gradient")
        if not self._running:
            if not self.synchronise:
                return
            self._begin()
        if self._arrived[index]:
            raise DistributedError(
                f"{self._communicator.where} the gradient of {self._names[index]!r} became ready "
                "twice in one backward. Did the backward before this one end with an exception? "
                "Then the ranks are out of step: let the exception end the program"
            )
        self._arrived[index] = True
        if self._order is not None:
            self._order.append(index)
        bucket, view = self._place[index]
        self._collect(param, view)
        bucket.missing -= 1
        if bucket.missing == 0 or self._pending:
            begin = perf_counter()
            self._launch_full_buckets()
            self._progress()
            self.timer.in_backward_s += perf_counter() - begin

    def _begin(self) -> None:
        queue_callback(self._finish)
        self._running = True
        self._arrived = [False] * len(self._params)
        if self._order is not None:
            self._order.clear()  # of a backward that lacked gradients
        self._next = 0
        self._pending: deque[tuple[Work, float]] = deque()
        for bucket in self._buckets:
            bucket.missing = len(bucket.params)
        self._tail[...] = 0

    def _collect(self, param: Tensor, view: Array) -> None:
        """Bring the gradient into the bucket, unless the engine has written it there."""
        grad = param._grad
        assert grad is not None
        if grad._array is not view:
            view[...] = grad._array
            if self._as_view:
                param.grad = Tensor(view)

    def _launch_full_buckets(self) -> None:
        while self._next < len(self._buckets) and self._buckets[self._next].missing == 0:
            self._launch()

    def _launch(self) -> None:
        bucket = self._buckets[self._next]
        self._next += 1
        if self._next == len(self._buckets):
            self._write_tail()
        work = self.reduction.reduce(bucket)
        self.timer.collectives += 1
        self._pending.append((work, perf_counter()))

    def _write_tail(self) -> None:
        if self._find_unused:
            self._tail[1:] = self._arrived
        elif not all(self._arrived):
            self._tail[0] = 1

    def _progress(self) -> None:
        """Push the communication on; note what has arrived."""
        pending = self._pending
        while pending and pending[0][0].test():
            self.timer.add_span(pending.popleft()[1], perf_counter())

    # ---- at the end of backward ------------------------------------------------------------

    def _finish(self) -> None:
        begin = perf_counter()
        self._running = False
        unused = [i for i, arrived in enumerate(self._arrived) if not arrived]
        for index in unused:
            param, view = self._params[index], self._place[index][1]
            if param.grad is None:
                view[...] = 0
            else:
                self._collect(param, view)
        while self._next < len(self._buckets):
            self._launch()
        sync = None
        if self._buffers is not None:
            sync = self._buffers.start()
            self.timer.collectives += 1
        while self._pending:
            work, launched = self._pending.popleft()
            work.wait()
            self.timer.add_span(launched, perf_counter())
        if self._buffers is not None and sync is not None:
            self._buffers.finish(sync)
        self.timer.end_step(exposed_s=perf_counter() - begin)
        self._settle(unused)
        if self._order is not None:
            self._learn_order(unused)

    def _settle(self, unused: list[int]) -> None:
        """Act on the tail, and give the gradients back if they live outside of the buckets."""
        if self._tail[0] > 0:
            self._raise_missing(unused)
        if not self._as_view:
            for bucket in self._buckets:
                for param, view in zip(bucket.params, bucket.views, strict=True):
                    if param.grad is not None:
                        param.grad._array[...] = view
        for index in unused:
            param = self._params[index]
            if param.grad is None and self._tail[1 + index] > 0:
                view = self._place[index][1]
                param.grad = Tensor(view if self._as_view else view.copy())

    def _raise_missing(self, unused: list[int]) -> None:
        names = [self._names[index] for index in unused]
        everywhere = self._communicator.all_gather_object(names)
        self.timer.collectives += 2
        lacking = "; ".join(
            f"rank {rank}: {_quoted(missing)}" for rank, missing in enumerate(everywhere) if missing
        )
        raise DistributedError(
            f"{self._communicator.where} no gradient arrived in this backward for {lacking}. "
            "These parameters took no part in the loss there, so they cannot be averaged. Use "
            "them in forward, set requires_grad=False before wrapping the model, or pass "
            "find_unused_parameters=True to DistributedDataParallel (then they count as zero)"
        )

    def _learn_order(self, unused: list[int]) -> None:
        """Cut the buckets anew, once, in the order in which gradients became ready on rank 0."""
        assert self._order is not None
        order = np.array(self._order + unused, np.int64)
        self._order = None
        self._communicator.broadcast(order, 0)
        self.timer.collectives += 1
        plans = self._plan(order.tolist())
        if total_bytes(plans) == self._memory.size:
            self._build(plans)


def _quoted(names: list[str], most: int = 8) -> str:
    text = ", ".join(repr(name) for name in names[:most])
    return text if len(names) <= most else f"{text} and {len(names) - most} more"
