"""Which gradient goes into which bucket, where: pure functions of names, shapes, dtypes and caps.

Stage of the flow: first step of `DistributedDataParallel`. May import: numpy. Every rank
computes the same plan from the same arguments, so nothing of it has to be sent.

Source: Li et al., "PyTorch Distributed: Experiences on Accelerating Data Parallel Training", VLDB
2020, section 3.2.3: buckets in reverse order of registration, 25 MB, because gradients become ready
roughly in that order; the first one small, so that communication starts early.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

FIRST_BUCKET_CAP_BYTES = 1 << 20
BUCKET_CAP_BYTES = 25 << 20
BUCKETS_OVER_A_LINK = 20
SMALLEST_BUCKET_CAP_BYTES = 64 << 10  # where the time of a message is that of its bytes
ALIGNMENT_BYTES = 64  # one cache line, and the widest vector register


@dataclass(frozen=True)
class Parameter:
    """What the plan needs to know of one parameter."""

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype

    @property
    def size_bytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize


@dataclass(frozen=True)
class Slot:
    """The place of one gradient: `index` of the parameter, byte offset within the bucket."""

    index: int
    offset_bytes: int


@dataclass(frozen=True)
class BucketPlan:
    """Gradients that are reduced by one collective.

    Attributes:
        dtype: of all its gradients.
        offset_bytes: where the bucket starts in the memory of all buckets.
        size_bytes: multiple of the alignment; gaps between gradients stay zero.
        slots: the gradients, in the order in which they are expected to become ready.
        gradient_bytes: where the gradients end; behind it is only the last bucket's tail.
    """

    dtype: np.dtype
    offset_bytes: int
    size_bytes: int
    slots: tuple[Slot, ...]
    gradient_bytes: int


def default_cap(total_bytes: int, has_wire: bool) -> int:
    """The cap of buckets where the user gives none.

    Over a link, `BUCKETS_OVER_A_LINK` buckets: communication then starts early, and what is left
    for the end of backward, when nothing can hide the last bucket, is small. Source of the number:
    `benchmarks/overlap.py`.

    Args:
        total_bytes: of all gradients.
        has_wire: see `Communicator`.

    Example:
        >>> default_cap(1 << 20, has_wire=True), default_cap(1 << 30, has_wire=True) >> 20
        (65536, 25)
        >>> default_cap(1 << 20, has_wire=False) >> 20
        25
    """
    if not has_wire:
        return BUCKET_CAP_BYTES
    share = total_bytes // BUCKETS_OVER_A_LINK
    return min(BUCKET_CAP_BYTES, max(SMALLEST_BUCKET_CAP_BYTES, share))


def plan_buckets(
    parameters: Sequence[Parameter],
    order: Sequence[int] | None = None,
    *,
    cap_bytes: int = BUCKET_CAP_BYTES,
    first_cap_bytes: int = FIRST_BUCKET_CAP_BYTES,
    tail_elements: int = 0,
    alignment_bytes: int = ALIGNMENT_BYTES,
) -> list[BucketPlan]:
    """Group parameters into buckets, in the order in which the buckets are to be reduced.

    Args:
        parameters: all that take part, in order of registration.
        order: indices of `parameters` in the order in which gradients become ready; default:
            the reverse of registration.
        cap_bytes: a bucket is closed once it holds that much; its last gradient may exceed it.
        first_cap_bytes: the cap of the first bucket.
        tail_elements: elements to reserve at the end of the last bucket for the reducer's own use.
        alignment_bytes: what offsets are multiples of: 64, on GPUs 256.

    Returns:
        Buckets of one dtype each, every gradient exactly once, offsets aligned.

    Raises:
        ValueError: `order` is no permutation of the parameters.
    """
    count = len(parameters)
    sequence = list(range(count - 1, -1, -1)) if order is None else list(order)
    if sorted(sequence) != list(range(count)):
        raise ValueError(f"order must be a permutation of 0 to {count - 1}, got {sequence}")
    groups = _group(parameters, sequence, cap_bytes, first_cap_bytes, alignment_bytes)
    buckets: list[BucketPlan] = []
    start = 0
    for number, indices in enumerate(groups):
        slots, offset = [], 0
        for index in indices:
            slots.append(Slot(index, offset))
            offset += aligned(parameters[index].size_bytes, alignment_bytes)
        dtype, gradient_bytes = parameters[indices[0]].dtype, offset
        if number == len(groups) - 1:
            offset += aligned(tail_elements * dtype.itemsize, alignment_bytes)
        buckets.append(BucketPlan(dtype, start, offset, tuple(slots), gradient_bytes))
        start += offset
    return buckets


def total_bytes(buckets: Sequence[BucketPlan]) -> int:
    """Memory for all buckets."""
    return sum(bucket.size_bytes for bucket in buckets)


def aligned(size_bytes: int, alignment_bytes: int = ALIGNMENT_BYTES) -> int:
    """The next multiple of 64, or of another alignment."""
    return -(-size_bytes // alignment_bytes) * alignment_bytes


def _group(
    parameters: Sequence[Parameter],
    sequence: list[int],
    cap_bytes: int,
    first_cap_bytes: int,
    alignment_bytes: int,
) -> list[list[int]]:
    """Fill one open bucket per dtype; a bucket's place is where its last gradient becomes ready."""
    open_groups: dict[np.dtype, list[int]] = {}
    filled: dict[np.dtype, int] = {}
    closed: list[list[int]] = []
    for index in sequence:
        parameter = parameters[index]
        size, dtype = aligned(parameter.size_bytes, alignment_bytes), parameter.dtype
        open_groups.setdefault(dtype, []).append(index)
        filled[dtype] = filled.get(dtype, 0) + size
        if filled[dtype] >= (cap_bytes if closed else min(first_cap_bytes, cap_bytes)):
            closed.append(open_groups.pop(dtype))
            del filled[dtype]
    place = {index: position for position, index in enumerate(sequence)}
    closed.extend(sorted(open_groups.values(), key=lambda group: place[group[-1]]))
    return closed
