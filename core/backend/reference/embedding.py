"""Embeddings in plain array code."""

from __future__ import annotations

from typing import Any

import numpy as np

from .. import half, ufuncs
from ..protocol import Array


class EmbeddingKernels:
    """Kernels `embedding_*` of the backend protocol."""

    xp: Any

    @half.serves_halves
    def embedding_forward(self, weight: Array, indices: Array) -> Array:
        """The rows themselves, in their type."""
        rows: Array = weight[indices]
        return rows

    def embedding_backward(
        self, grad_y: Array, indices: Array, rows: int, padding: int | None, by_frequency: bool
    ) -> Array:
        """Rows of equal index added up."""
        shape = (rows, *grad_y.shape[indices.ndim :])
        full = self.xp.zeros(shape, grad_y.dtype)
        if self.xp is not np:  # sorting would have to tell the host how many differ
            ufuncs.at(np.add, full, indices, grad_y)
            if by_frequency:
                full /= frequencies(indices, full)
        elif indices.size:
            found, sums, counts = summed_by_index(
                indices.reshape(-1), grad_y.reshape(-1, *grad_y.shape[indices.ndim :])
            )
            if by_frequency:
                sums /= counts.astype(sums.dtype).reshape(-1, *(1,) * (sums.ndim - 1))
            full[found] = sums
        if padding is not None:
            full[padding] = 0
        return full


def frequencies(indices: Array, weight: Array) -> Array:
    """(V, 1, ...): how often each row of `weight` is looked up, at least 1, in its dtype."""
    counts = np.zeros(len(weight), np.int64, like=weight)
    ufuncs.at(np.add, counts, indices.reshape(-1), 1)
    return np.maximum(counts, 1).astype(weight.dtype).reshape(-1, *(1,) * (weight.ndim - 1))


def summed_by_index(indices: Array, values: Array) -> tuple[Array, Array, Array]:
    """(distinct indices, sums of the values of each, how many these were).

    Sorting brings equal indices together; `np.add.at` takes six times as long.
    """
    order = np.argsort(indices, kind="stable")
    ordered = indices[order]
    starts = np.flatnonzero(np.concatenate(([True], ordered[1:] != ordered[:-1])))
    counts = np.diff(starts, append=len(indices))
    if len(starts) * 4 < len(indices):
        return ordered[starts], np.add.reduceat(values[order], starts, axis=0), counts
    sums = values[order[starts]]  # mostly distinct: add the second of each, the third, ...
    for turn in range(1, counts.max()):
        more = np.flatnonzero(counts > turn)
        sums[more] += values[order[starts[more] + turn]]
    return ordered[starts], sums, counts
