"""Gradients whose mean each rank gets for its own pieces only. See `zero`.

Stage of the flow: a `Reduction`, beside the plain mean. May import: `bucket`, `reduction`,
`zero_partition`, `communicators.base`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from allgrad.ddp.bucket import Bucket, elements_between
from allgrad.ddp.communicators.base import Communicator, ReduceOp, Work
from allgrad.ddp.reduction import Reduction
from allgrad.ddp.zero_partition import Piece

Parts = list[list[tuple[int, int]]]


class ScatterReduction(Reduction):
    """One reduce-scatter per bucket.

    Args:
        communicator: of the wrapped model.
        owned: per rank, its pieces by the parameter's ``id``.
    """

    def __init__(
        self, communicator: Communicator, owned: Sequence[Mapping[int, Sequence[Piece]]]
    ) -> None:
        self._communicator, self._owned = communicator, owned
        self._parts: dict[int, tuple[Bucket, Parts]] = {}

    def reduce(self, bucket: Bucket) -> Work:
        known = self._parts.get(bucket.index)
        if known is None or known[0] is not bucket:  # buckets are cut anew when the order changes
            known = self._parts[bucket.index] = bucket, self._layout(bucket)
        flat = bucket.flat
        arrays = self._communicator.of(flat)
        return arrays.reduce_parts(flat, known[1], ReduceOp.AVG, async_op=True)

    def _layout(self, bucket: Bucket) -> Parts:
        """Per rank, the stretches of the bucket that it owns, neighbours joined."""
        flat, parts = bucket.flat, []
        for pieces in self._owned:
            own: list[tuple[int, int]] = []
            for param, view in zip(bucket.params, bucket.views, strict=True):
                first = elements_between(flat, view)
                for piece in pieces.get(id(param), ()):
                    start, stop = first + piece.start, first + piece.stop
                    if own and own[-1][1] == start:
                        start = own.pop()[0]
                    own.append((start, stop))
            parts.append(own)
        return parts
