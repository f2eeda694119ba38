"""Sums in the order of a fixed binary tree, whoever holds its leaves: pure functions, and numpy.

Stage of the flow: below the communicators. May import: numpy, `base`.

Note [Tree]
    Adding floating-point numbers in another order gives other bits. So the gradients of L logical
    shards are added in the order of one binary tree over the numbers 0 to L - 1, however many
    ranks there are: the node of shards [low, high) is the sum of its left child [low, middle) and
    its right child [middle, high), where middle - low is the largest power of two below
    high - low. A rank owns neighbouring shards and adds up the largest nodes that lie within
    them; the nodes above are added by whoever has the nodes of all ranks at hand. Each element is
    added by itself, and the sum of two numbers is correctly rounded (IEEE 754), so neither the
    width of the processor's vectors, nor alignment, nor who adds what can change a bit.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np

from allgrad.ddp.communicators.base import Array, Communicator, scale_to_mean

PIECE_BYTES = 1 << 20  # that are gathered at a time

Node = tuple[int, int]  # the shards [low, high) whose sum it is
Step = tuple[int, int]  # nodes[a] += nodes[b]


def middle(node: Node) -> int:
    """Where the node is split into its two children.

    Example:
        >>> middle((0, 8)), middle((0, 6)), middle((4, 6))
        (4, 4, 5)
    """
    low, high = node
    return low + (1 << (high - low - 1).bit_length() - 1)


def shards_of(rank: int, size: int, shards: int) -> range:
    """The shards of a rank: neighbours, as many as for the others or one more.

    Example:
        >>> [list(shards_of(rank, 3, 8)) for rank in range(3)]
        [[0, 1, 2], [3, 4, 5], [6, 7]]
    """
    few, more = divmod(shards, size)
    start = rank * few + min(rank, more)
    return range(start, start + few + (rank < more))


@cache
def nodes_of(owned: range, shards: int) -> tuple[Node, ...]:
    """The largest nodes of the tree over `shards` that lie within the owned ones, from the left.

    Example:
        >>> nodes_of(range(3, 6), 8)
        ((3, 4), (4, 6))
    """

    def within(node: Node) -> list[Node]:
        low, high = node
        if high <= owned.start or owned.stop <= low:
            return []
        if owned.start <= low and high <= owned.stop:
            return [node]
        cut = middle(node)
        return within((low, cut)) + within((cut, high))

    return tuple(within((0, shards)))


@cache
def steps_within(node: Node, cuts: tuple[Node, ...]) -> tuple[Step, ...]:
    """How to add up `cuts`, which together make up `node`, in the order of the tree.

    Returns:
        Pairs (a, b) of positions in `cuts`: add b to a, in place. The sum ends up in the first.

    Raises:
        ValueError: a shard is missing.

    Example:
        >>> steps_within((0, 8), ((0, 2), (2, 3), (3, 4), (4, 8)))
        ((1, 2), (0, 1), (0, 3))
    """
    place = {cut: position for position, cut in enumerate(cuts)}
    steps: list[Step] = []

    def add_up(inner: Node) -> int:
        if inner in place:
            return place[inner]
        low, high = inner
        if high - low == 1:
            raise ValueError(f"no shard {low} among the nodes {cuts}, which must make up {node}")
        cut = middle(inner)
        left, right = add_up((low, cut)), add_up((cut, high))
        steps.append((left, right))
        return left

    add_up(node)
    return tuple(steps)


@dataclass(frozen=True)
class TreeSum:
    """The sum of the nodes that `size` ranks hold.

    Attributes:
        size, shards: ranks, and leaves of the tree; at least one leaf per rank.
        counts: nodes per rank.
        steps: as of `steps_within`, over the nodes of all ranks, rank after rank.
    """

    size: int
    shards: int
    counts: tuple[int, ...]
    steps: tuple[Step, ...]

    @classmethod
    @cache
    def of(cls, size: int, shards: int) -> TreeSum:
        """The sum over `size` ranks that share `shards` leaves as `shards_of` says."""
        held = [nodes_of(shards_of(rank, size, shards), shards) for rank in range(size)]
        cuts = tuple(node for nodes in held for node in nodes)
        steps = steps_within((0, shards), cuts)
        return cls(size, shards, tuple(len(nodes) for nodes in held), steps)

    def add_up(self, nodes: Sequence[Array], mean: bool) -> Array:
        """Add the nodes of all ranks in place; the result is in the first, which is returned.

        Args:
            nodes: arrays of one shape; they are overwritten.
            mean: divide by the number of shards.
        """
        for target, other in self.steps:
            np.add(nodes[target], nodes[other], out=nodes[target])
        if mean:
            scale_to_mean(nodes[0], self.shards)
        return nodes[0]

    def by_gathering(
        self, communicator: Communicator, array: Array, others: Sequence[Array], mean: bool
    ) -> None:
        """`Communicator.reduce_tree` where there is no better way: all get all, in pieces."""
        nodes = [*others[: self.counts[communicator.rank] - 1], array]
        if communicator.size == 1:
            array[...] = self.add_up(nodes, mean)
            return
        most, step = max(self.counts), max(1, PIECE_BYTES // array.itemsize)
        for low in range(0, array.size, step):
            pieces = [node[low : low + step] for node in nodes]
            mine = np.zeros((most, pieces[0].nbytes), np.uint8)
            for row, piece in zip(mine, pieces, strict=False):
                row[...] = piece.view(np.uint8)
            held = communicator.all_gather(mine)
            rows = [held[r, j] for r, count in enumerate(self.counts) for j in range(count)]
            array[low : low + step] = self.add_up([row.view(array.dtype) for row in rows], mean)


def share_bounds(count: int, size: int, line: int) -> list[int]:
    """Where the shares of `size` ranks in `count` elements begin, and the end: size + 1 numbers.

    Args:
        line: shares begin at multiples of this.

    Example:
        >>> share_bounds(100, 3, 16)
        [0, 32, 64, 100]
    """
    return [count * rank // size // line * line for rank in range(size)] + [count]
