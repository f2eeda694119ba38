"""How the gradients of logical shards become their mean: in the order of a fixed tree.

Stage of the flow: a `Reduction`, between `reducer` and the communicator. May import: `bucket`,
`reduction`, `samples`, `communicators`, `allgrad`. See Note [Tree] in ``communicators/tree.py``.

Note [Folding]
    A rank that owns several shards runs their backward one after the other, all into the same
    buckets. After each but the last, the bucket is added to the nodes of the tree that are complete
    by then, or put aside as a new one; so few nodes are kept (at most log2 of the shards). The last
    shard's buckets are reduced while its backward still runs, as ever: each takes up the nodes it
    completes, then the ranks' nodes are added up by `Communicator.reduce_tree`.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from allgrad.backend.arrays import address_of
from allgrad.ddp.bucket import Bucket
from allgrad.ddp.communicators.base import Array, Communicator, Work
from allgrad.ddp.communicators.tree import Node, TreeSum, middle, shards_of
from allgrad.ddp.reduction import Reduction
from allgrad.ddp.samples import scale
from allgrad.errors import DistributedError


class TreeReduction(Reduction):
    """Sums the shards' gradients in the order of the tree, then divides by their number.

    If shards have different numbers of samples, each is multiplied by its share of the samples
    before instead. Which of the two it is depends on the shards' sizes alone.

    Args:
        communicator: with at most as many ranks as shards.
        shards: logical shards of a step.

    Attributes:
        owned: this rank's shards.
        weights: the shares of the owned shards; None if all shards count the same.
    """

    weighs = True

    def __init__(self, communicator: Communicator, shards: int) -> None:
        self._communicator = communicator
        self.shards = shards
        self.tree = TreeSum.of(communicator.size, shards)
        self.owned = shards_of(communicator.rank, communicator.size, shards)
        self.weights: Sequence[float] | None = None
        self._merges = merges_of(self.owned, shards)
        self._held = 0  # nodes put aside
        self._rows: list[NDArray[np.uint8]] = []
        self._memory: NDArray[np.uint8] | None = None

    def allocate(self, memory: NDArray[np.uint8]) -> None:
        """Collective. Make room for nodes that are put aside, once per memory of the buckets."""
        if self._memory is memory:
            return
        communicator, size_bytes = self._communicator, memory.size
        count = max(
            _most_held(shards_of(rank, communicator.size, self.shards), self.shards)
            for rank in range(communicator.size)
        )
        self._rows = []
        if count:
            whole = communicator.of(memory).allocate(count * size_bytes)
            self._rows = [whole[i * size_bytes : (i + 1) * size_bytes] for i in range(count)]
        self._memory = memory

    def start(self, shares: Sequence[float] | None) -> None:
        if shares is not None and 0 in shares:
            absent = [rank for rank, share in enumerate(shares) if share == 0]
            raise DistributedError(
                f"{self._communicator.where} ranks {absent} make no step while others do, or one "
                "without samples; with logical_shards all ranks must have the same number of "
                "batches, and none is empty. Deal the samples with ddp.ShardedBatchSampler"
            )

    def fold(self, buckets: Sequence[Bucket], position: int) -> None:
        """Add the gradients of the owned shard at `position`, not the last, to the nodes."""
        for bucket in buckets:
            self._weigh(bucket, position)
            self._put_aside(bucket.flat, self._nodes(bucket), self._merges[position])
        self._held += 1 - self._merges[position]

    def _put_aside(self, flat: Array, nodes: list[Array], merges: int) -> None:
        held = self._held
        if merges == 0:
            nodes[held][...] = flat
            return
        target = nodes[held - 1]
        np.add(target, flat, out=target)
        for place in range(held - 2, held - 1 - merges, -1):
            np.add(nodes[place], nodes[place + 1], out=nodes[place])

    def reduce(self, bucket: Bucket) -> Work:
        """As `Reduction.reduce`, with the gradients of the last owned shard in the bucket."""
        last = len(self.owned) - 1
        self._weigh(bucket, last)
        flat, nodes = bucket.flat, self._nodes(bucket)
        for place in range(self._held - 1, self._held - 1 - self._merges[last], -1):
            np.add(nodes[place], flat, out=flat)
        if bucket.is_last:
            self._held = 0
        others = nodes[: max(self.tree.counts) - 1]
        arrays = self._communicator.of(flat)
        return arrays.reduce_tree(self.tree, flat, others, mean=self.weights is None)

    def _weigh(self, bucket: Bucket, position: int) -> None:
        if self.weights is not None:
            scale(bucket.flat, self.weights[position])

    def _nodes(self, bucket: Bucket) -> list[Array]:
        """Where the bucket's nodes are put aside."""
        if not self._rows:
            return []
        assert self._memory is not None
        start = address_of(bucket.flat) - address_of(self._memory)
        stop = start + bucket.flat.nbytes
        return [row[start:stop].view(bucket.flat.dtype) for row in self._rows]


def merges_of(owned: range, shards: int) -> list[int]:
    """After each owned shard, how many nodes of the tree become complete with it.

    Example:
        >>> merges_of(range(8), 8), merges_of(range(3, 6), 8)
        ([0, 1, 0, 2, 0, 1, 0, 3], [0, 0, 1])
    """
    complete = set(_inner_nodes((0, shards)))
    stack: list[Node] = []
    merges = []
    for shard in owned:
        node, count = (shard, shard + 1), 0
        while stack and (stack[-1][0], node[1]) in complete:
            node = (stack.pop()[0], node[1])
            count += 1
        stack.append(node)
        merges.append(count)
    return merges


def _inner_nodes(node: Node) -> list[Node]:
    low, high = node
    if high - low == 1:
        return []
    cut = middle(node)
    return [node, *_inner_nodes((low, cut)), *_inner_nodes((cut, high))]


def _most_held(owned: range, shards: int) -> int:
    """The most nodes that are put aside at a time while the owned shards are run."""
    held = most = 0
    for merges in merges_of(owned, shards)[:-1]:
        held += 1 - merges
        most = max(most, held)
    return most
