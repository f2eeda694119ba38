"""Where the gradients of one set of parameters lie: their plan, memory, buckets and tail.

Stage of the flow: between `plan` and `bucket`, which know one piece each, and `reducer`, which
knows when they move. May import: `plan`, `bucket`, `tail`, `options`, `communicators.base`.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from allgrad import Tensor
from allgrad.ddp.bucket import Bucket, attach
from allgrad.ddp.communicators.base import Array, Communicator
from allgrad.ddp.model_check import Entry
from allgrad.ddp.options import Options
from allgrad.ddp.plan import BucketPlan, Parameter, plan_buckets, total_bytes
from allgrad.ddp.tail import Tail


class Layout:
    """The buckets of some parameters, cut once `allocate` was called.

    Args:
        communicator: whose memory the buckets lie in.
        named_params: what takes part, in the same order on all ranks.
        options: how large buckets are, what is reduced last, whether gradients lie in them.

    Attributes:
        names, params: as given.
        identity: a number that differs where names, shapes or dtypes do.
        memory: in which the buckets lie.
        buckets: in the order in which they are reduced; empty before `allocate`.
        place: of every parameter by index, its bucket and its gradient's place in it.
        tail: behind the last bucket's gradients.
    """

    memory: NDArray[np.uint8]
    tail: Tail

    def __init__(
        self,
        communicator: Communicator,
        named_params: Sequence[tuple[str, Tensor]],
        options: Options,
    ) -> None:
        self._communicator, self._options = communicator, options
        self.names = [name for name, _ in named_params]
        self.params = [p for _, p in named_params]
        self._specs = [Parameter(name, tuple(p.shape), p._array.dtype) for name, p in named_params]
        self.identity = zlib.crc32(repr(self._specs).encode())
        self.buckets: list[Bucket] = []
        self.place: list[tuple[Bucket, Array]] = []

    def allocate(self) -> None:
        """Collective. Cut buckets in the order of registration."""
        plans = self._plan(None)
        self.memory = self._communicator.allocate(total_bytes(plans))
        self._build(plans)

    def cut(self, order: list[int]) -> None:
        """Cut the same memory anew, in the order in which gradients become ready.

        Padding may make another order larger; then all stays as it is.
        """
        plans = self._plan(order)
        if total_bytes(plans) == self.memory.size:
            self._build(plans)

    def entries(self) -> list[Entry]:
        """The parameters as `model_check` describes them."""
        return [
            (spec.name, spec.shape, spec.dtype.name, p.requires_grad)
            for spec, p in zip(self._specs, self.params, strict=True)
        ]

    def _plan(self, order: list[int] | None) -> list[BucketPlan]:
        options, count = self._options, len(self.params)
        if options.delayed:
            given = range(count - 1, -1, -1) if order is None else order
            order = sorted(given, key=lambda index: self.names[index] in options.delayed)
        return plan_buckets(
            self._specs,
            order,
            cap_bytes=options.cap_bytes,
            first_cap_bytes=options.first_cap_bytes,
            tail_elements=Tail.elements(count),
        )

    def _build(self, plans: Sequence[BucketPlan]) -> None:
        count = len(plans)
        self.buckets = [
            Bucket(i, count, plan, self.memory, self.names, self.params)
            for i, plan in enumerate(plans)
        ]
        attach(self.buckets, self._options.as_view)
        place = {
            index: (bucket, view)
            for bucket in self.buckets
            for index, view in zip(bucket.indices, bucket.views, strict=True)
        }
        self.place = [place[index] for index in range(len(self.params))]
        last = self.buckets[-1]
        self.tail = Tail(last.whole[last.flat.size :], len(self.params), self._communicator.size)
