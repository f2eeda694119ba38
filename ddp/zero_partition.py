"""Which rank keeps the optimizer's state of which elements: pure functions of sizes.

Stage of the flow: below `zero`. May import: the standard library only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Piece:
    """Elements `start` to `stop` (exclusive) of parameter `index`, seen as a flat array."""

    index: int
    start: int
    stop: int

    @property
    def size(self) -> int:
        """Number of elements."""
        return self.stop - self.start


def by_elements(sizes: Sequence[int], ranks: int) -> list[list[Piece]]:
    """Cut the parameters, laid one after the other, into one stretch of equal length per rank.

    Args:
        sizes: elements of each parameter.
        ranks: number of ranks.

    Returns:
        Per rank its pieces, in the order of the parameters; lengths differ by one at most.

    Example:
        >>> [[(p.index, p.start, p.stop) for p in rank] for rank in by_elements([4, 2], 2)]
        [[(0, 0, 3)], [(0, 3, 4), (1, 0, 2)]]
    """
    total = sum(sizes)
    bounds = [total * rank // ranks for rank in range(ranks + 1)]
    pieces: list[list[Piece]] = [[] for _ in range(ranks)]
    first = 0
    for index, size in enumerate(sizes):
        for rank in range(ranks):
            start, stop = max(first, bounds[rank]), min(first + size, bounds[rank + 1])
            if start < stop:
                pieces[rank].append(Piece(index, start - first, stop - first))
        first += size
    return pieces


def by_parameters(sizes: Sequence[int], ranks: int) -> list[list[Piece]]:
    """Give whole parameters to ranks, the largest first, each to the rank that has least so far.

    For optimizers whose step of one element depends on the whole parameter (norms, factored
    moments).

    Example:
        >>> [[p.index for p in rank] for rank in by_parameters([5, 9, 3], 2)]
        [[1], [0, 2]]
    """
    loads = [0] * ranks
    pieces: list[list[Piece]] = [[] for _ in range(ranks)]
    for index in sorted(range(len(sizes)), key=lambda i: (-sizes[i], i)):
        rank = loads.index(min(loads))
        loads[rank] += sizes[index]
        pieces[rank].append(Piece(index, 0, sizes[index]))
    for rank_pieces in pieces:
        rank_pieces.sort(key=lambda piece: piece.index)
    return pieces
