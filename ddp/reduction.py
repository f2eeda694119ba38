"""How one bucket of gradients becomes its mean over the ranks.

Stage of the flow: between `reducer`, which decides when, and the communicator, which moves arrays.
May import: `bucket`, `communicators.base`.

Note [Shares]
    The mean over the ranks is the mean over all samples if rank r counts with the share
    n_r / total. Where shares differ, the reducer multiplies a bucket by size * share before it
    hands it over, so that the plain mean of what the ranks hand over is the right one. So a
    reduction, a communication hook too, computes plain means and need not know of shares.
"""

from __future__ import annotations

from collections.abc import Sequence

from allgrad.ddp.bucket import Bucket
from allgrad.ddp.communicators.base import Communicator, ReduceOp, Work


class Reduction:
    """Reduces the buckets of a backward, one after the other in the same order on all ranks.

    Attributes:
        carries_tail: whether `reduce` averages ``bucket.whole`` of the last bucket; otherwise
            the reducer sends the tail by itself.
        weighs: whether `reduce` sees to the ranks' shares itself, see Note [Shares].
    """

    carries_tail: bool = False
    weighs: bool = False

    def start(self, shares: Sequence[float] | None) -> None:
        """A backward begins; called before its first bucket.

        Args:
            shares: what each rank counts in the mean, summing to 1; None if all count the same.
        """
        return

    def reduce(self, bucket: Bucket) -> Work:
        """Start to replace ``bucket.flat`` by its mean; it is in place once the Work is done."""
        raise NotImplementedError(f"{type(self).__name__} must define reduce(bucket)")


class MeanReduction(Reduction):
    """One all-reduce per bucket."""

    carries_tail = True

    def __init__(self, communicator: Communicator) -> None:
        self._communicator = communicator

    def reduce(self, bucket: Bucket) -> Work:
        whole = bucket.whole
        return self._communicator.of(whole).all_reduce(whole, ReduceOp.AVG, async_op=True)
