"""The memory of the gradients: one allocation, cut into buckets, cut into gradients.

Stage of the flow: between `plan` (where things lie) and `reducer` (when they move). May import:
`plan`, numpy, `allgrad`. All buckets lie in one allocation of the communicator; a new plan cuts
the same memory differently, so gradients of a step that is under way can be carried over.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from allgrad import Tensor, devices
from allgrad.backend.arrays import address_of
from allgrad.ddp.communicators.base import Array
from allgrad.ddp.plan import BucketPlan


class Bucket:
    """Gradients that one collective reduces.

    Attributes:
        index: position in the order of reduction.
        is_last: whether it is the last one of a backward.
        flat: its gradients, one-dimensional; gaps between them are zero.
        whole: `flat` and, in the last bucket, the tail behind it (see Note [Tail] in `tail`).
        indices, names, params: its parameters; `views`: the places of their gradients in `flat`,
            in the same order.
        ready_s: when the last of its gradients was ready, seconds of perf_counter.
        missing: parameters whose gradient is not ready in this backward.
        note: what it is, for messages: "bucket 2 of 5 (fc.bias ... conv1.weight)".
    """

    __slots__ = (
        "flat",
        "index",
        "indices",
        "is_last",
        "missing",
        "names",
        "note",
        "params",
        "ready_s",
        "views",
        "whole",
    )

    def __init__(
        self,
        index: int,
        count: int,
        plan: BucketPlan,
        memory: NDArray[np.uint8],
        names: Sequence[str],
        params: Sequence[Tensor],
    ) -> None:
        self.index, self.is_last = index, index == count - 1
        start = plan.offset_bytes
        self.whole: Array = memory[start : start + plan.size_bytes].view(plan.dtype)
        self.flat: Array = memory[start : start + plan.gradient_bytes].view(plan.dtype)
        self.indices = [slot.index for slot in plan.slots]
        self.names = [names[slot.index] for slot in plan.slots]
        self.params = [params[slot.index] for slot in plan.slots]
        ends = dict.fromkeys((self.names[0], self.names[-1]))
        self.note = f"bucket {index + 1} of {count} ({' ... '.join(ends)})"
        self.views: list[Array] = []
        for slot, param in zip(plan.slots, self.params, strict=True):
            first = slot.offset_bytes // plan.dtype.itemsize
            shape = tuple(param.shape)
            self.views.append(self.flat[first : first + param.numel()].reshape(shape))
        self.missing = len(self.params)
        self.ready_s = 0.0


def elements_between(first: Array, second: Array) -> int:
    """How many elements behind the start of `first` one that shares its memory starts."""
    return (address_of(second) - address_of(first)) // int(first.itemsize)


def attach(buckets: Sequence[Bucket], as_view: bool) -> None:
    """Let the engine write gradients straight into the buckets; carry over those that exist.

    Args:
        buckets: freshly cut; may overlap with the memory that the gradients lie in now.
        as_view: whether ``param.grad`` is to lie in the bucket, or only to be copied there.
    """
    places = [pair for b in buckets for pair in zip(b.params, b.views, strict=True)]
    # copy all out before writing any: old and new places overlap
    existing = [None if p.grad is None else p.grad._array.copy() for p, _ in places]
    for bucket in buckets:
        bucket.flat[...] = 0
    for (param, view), grad in zip(places, existing, strict=True):
        param._grad_buffer = view if as_view else None
        if grad is not None and as_view:
            view[...] = grad
            param.grad = Tensor(view)


def detach(params: Sequence[Tensor]) -> None:
    """Give the parameters gradients of their own again."""
    for param in params:
        param._grad_buffer = None
        if param.grad is not None:
            array = param.grad._array
            with devices.at(devices.of(array)):  # this may run in a thread that uses another one
                param.grad = Tensor(array.copy())
