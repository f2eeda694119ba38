"""Where the gradients of one set of parameters lie: their plan, memory, buckets and tail.

Stage of the flow: between `plan` and `bucket`, which know one piece each, and `reducer`, which
knows when they move. May import: `plan`, `bucket`, `tail`, `options`, `communicators.base`,
`allgrad.backend.arrays`.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from allgrad import Tensor
from allgrad.backend import arrays
from allgrad.ddp.bucket import Bucket, attach
from allgrad.ddp.communicators.base import Array, Communicator
from allgrad.ddp.model_check import Entry
from allgrad.ddp.options import Options
from allgrad.ddp.plan import ALIGNMENT_BYTES, BucketPlan, Parameter, plan_buckets, total_bytes
from allgrad.ddp.tail import Tail
from allgrad.errors import DistributedError

GPU_ALIGNMENT_BYTES = 256


class Layout:
    """The buckets of some parameters, cut once `allocate` was called.

    Args:
        communicator: of the ranks. Collective, where the parameters lie on GPUs.
        named_params: what takes part, in the same order on all ranks.
        options: how large buckets are, what is reduced last, whether gradients lie in them.

    Attributes:
        names, params: as given.
        arrays: the communicator for the parameters' gradients, whose memory the buckets lie in.
        on_gpu: whether that is a GPU's. The tail then lies in main memory, by itself: what it says
            is told and asked by the host, which does not wait for the GPU.
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
        self.on_gpu = _on_one_gpu(communicator, named_params)
        self.arrays = communicator.of(self.params[0]._array) if self.params else communicator
        self._specs = [Parameter(name, tuple(p.shape), p._array.dtype) for name, p in named_params]
        self.identity = zlib.crc32(repr(self._specs).encode())
        self.buckets: list[Bucket] = []
        self.place: list[tuple[Bucket, Array]] = []

    def allocate(self) -> None:
        """Collective. Cut buckets in the order of registration."""
        plans = self._plan(None)
        self.memory = self.arrays.allocate(total_bytes(plans))
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
            tail_elements=0 if self.on_gpu else Tail.elements(count),
            alignment_bytes=GPU_ALIGNMENT_BYTES if self.on_gpu else ALIGNMENT_BYTES,
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
        last, count = self.buckets[-1], len(self.params)
        tail = last.whole[last.flat.size :]
        if self.on_gpu:
            tail = np.zeros(Tail.elements(count), np.float32)
        self.tail = Tail(tail, count, self._communicator.size)


def _on_one_gpu(communicator: Communicator, named_params: Sequence[tuple[str, Tensor]]) -> bool:
    """Whether the parameters lie on a GPU; they must all lie on the same one, or in main memory."""
    places = {arrays.index_of(p._array): name for name, p in named_params}
    if len(places) > 1:
        told = ", ".join(
            f"{name!r} on {'the CPU' if place is None else f'cuda:{place}'}"
            for place, name in places.items()
        )
        raise DistributedError(
            f"{communicator.where} the parameters of a wrapped module must lie on one device, but "
            f"{told}: move the module before it is wrapped, module.to(device)"
        )
    return bool(places) and None not in places
