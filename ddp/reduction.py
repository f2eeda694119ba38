"""How one bucket of gradients becomes its mean over the ranks.

Stage of the flow: between `reducer`, which decides when, and the communicator, which moves arrays.
May import: `bucket`, `communicators.base`.
"""

from __future__ import annotations

from typing import Protocol

from allgrad.ddp.bucket import Bucket
from allgrad.ddp.communicators.base import Communicator, ReduceOp, Work


class Reduction(Protocol):
    """Starts the reduction of buckets, one after the other in the same order on all ranks."""

    def reduce(self, bucket: Bucket) -> Work:
        """Start to replace ``bucket.flat`` by its mean; it is in place once the Work is done."""


class MeanReduction:
    """One all-reduce per bucket."""

    def __init__(self, communicator: Communicator) -> None:
        self._communicator = communicator

    def reduce(self, bucket: Bucket) -> Work:
        return self._communicator.all_reduce(bucket.flat, ReduceOp.AVG, async_op=True)
