"""Sums in the order of a tree on GPUs: shares are exchanged, added up in order, and gathered.

Stage of the flow: a part of `nccl`. May import: numpy, `tree`, `base`. Each element is added up by
one rank, in the order of the tree, so the bits are those of every other communicator (Note [Tree]
in `tree`); and what travels is twice an array per node, however many ranks there are.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from allgrad.ddp.communicators.base import Work
from allgrad.ddp.communicators.tree import TreeSum, share_bounds

if TYPE_CHECKING:
    from allgrad.ddp.communicators.nccl import NcclCommunicator

_LINE_BYTES = 256


class TreeExchange:
    """Sums of arrays of one size; keeps the memory for the shares of others.

    Args:
        communicator: of the ranks.
        tree: what they hold.
        array: one like those that will be summed.
    """

    def __init__(self, communicator: NcclCommunicator, tree: TreeSum, array: Any) -> None:
        self._communicator, self._tree = communicator, tree
        line = max(1, _LINE_BYTES // array.itemsize)
        self._bounds = list(pairwise(share_bounds(array.size, tree.size, line)))
        low, high = self._bounds[communicator.rank]
        rows = sum(tree.counts)
        self._held: Any = np.empty_like(array, shape=(rows, high - low))

    def reduce(self, array: Any, others: Sequence[Any], mean: bool) -> Work:
        """See `Communicator.reduce_tree`."""
        c, tree = self._communicator, self._tree
        nodes = [*others[: tree.counts[c.rank] - 1], array]
        inputs, outputs = [], []
        for rank, (low, high) in enumerate(self._bounds):
            inputs.append([node[low:high] for node in nodes])
            start = sum(tree.counts[:rank])
            outputs.append([self._held[start + j] for j in range(tree.counts[rank])])
        c.exchange_lists(outputs, inputs)
        low, high = self._bounds[c.rank]
        with c.stream:  # nothing in here needs new memory, see Note [Streams of communication]
            array[low:high] = tree.add_up([self._held[i] for i in range(len(self._held))], mean)
        return c.gather_shares(array, self._bounds)
