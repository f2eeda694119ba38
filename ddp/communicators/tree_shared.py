"""The sum over a tree in shared memory: every rank reads the nodes of all, for its share.

Stage of the flow: an operation of the shared-memory communicator. May import: `operations`, `tree`.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from allgrad.ddp.communicators.base import Array
from allgrad.ddp.communicators.operations import BLOCK_BYTES, Operation
from allgrad.ddp.communicators.tree import TreeSum, share_bounds

_SHARE_BYTES = 64  # shares start on cache-line boundaries


class ReduceTree(Operation):
    """All-reduce in the order of a tree, in place, of arrays that all lie in shared memory.

    As `ReduceShares`: rank r adds up the r-th share of the elements and writes the sum into every
    rank's array; the nodes' own memory serves for the sums below.

    Args:
        nodes: of all ranks, rank after rank.
        results: the array of every rank that takes the result.
        mean: divide by the number of shards.
    """

    __slots__ = ("_mean", "_nodes", "_rank", "_results", "_tree")

    waits_for_all = True

    def __init__(
        self,
        signature: int,
        tree: TreeSum,
        rank: int,
        nodes: Sequence[Array],
        results: Sequence[Array],
        mean: bool,
    ) -> None:
        super().__init__(signature)
        self._tree, self._rank, self._nodes, self._results = tree, rank, nodes, results
        self._mean = mean

    def stage(self, slot: NDArray[np.uint8]) -> None:
        return None

    def consume(self, slots: Sequence[NDArray[np.uint8]]) -> None:
        nodes, first = self._nodes, self._nodes[0]
        line = max(1, _SHARE_BYTES // first.itemsize)
        bounds = share_bounds(first.size, self._tree.size, line)
        start, stop = bounds[self._rank : self._rank + 2]
        others = [array for array in self._results if array is not first]
        block = BLOCK_BYTES // first.itemsize
        for low in range(start, stop, block):
            high = min(low + block, stop)
            total = self._tree.add_up([node[low:high] for node in nodes], self._mean)
            for other in others:
                other[low:high] = total
