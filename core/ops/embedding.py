"""Look-up of rows by integer index, and sums, means and maxima over bags of rows."""

from __future__ import annotations

import numpy as np

from ..backend import Array, Dims, ufuncs
from ..backend.arrays import by_host, on, on_device, to_host
from .base import Op
from .elementwise import Grads


class Embedding(Op):
    """Rows of weight (V, D) at integer indices: (indices, weight) -> (*indices.shape, D).

    Args:
        padding_idx: the row that gets no gradient, or None.
        by_frequency: divide the gradient of a row by how often it was looked up.
    """

    fresh_grads = True

    def __init__(self, padding_idx: int | None, by_frequency: bool = False) -> None:
        self.padding_idx, self.by_frequency = padding_idx, by_frequency

    def forward(self, indices: Array, weight: Array) -> Array:
        self.weight_shape = weight.shape
        if self.needs[1]:
            self.saved = (indices,)
        return weight[indices]

    def backward(self, grad: Array) -> Grads:
        (indices,) = self.saved
        full = np.zeros(self.weight_shape, grad.dtype, like=grad)
        if on_device(grad):  # sorting would have to tell the host how many differ
            ufuncs.at(np.add, full, indices, grad)
            if self.by_frequency:
                full /= frequencies(indices, full)
        elif indices.size:
            rows, sums, counts = summed_by_index(
                indices.reshape(-1), grad.reshape(-1, *grad.shape[indices.ndim :])
            )
            if self.by_frequency:
                sums /= counts.astype(sums.dtype).reshape(-1, *(1,) * (sums.ndim - 1))
            full[rows] = sums
        if self.padding_idx is not None:
            full[self.padding_idx] = 0
        return None, full


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


class BagReduce(Op):
    """One row for each bag of consecutive rows: x (R, D) -> (bags, D); empty bags give 0.

    Args:
        mode: "sum", "mean" or "max".
        counts: rows of each bag.
    """

    fresh_grads = True

    def __init__(self, mode: str, counts: Dims) -> None:
        self.mode, self.counts = mode, np.asarray(counts, np.int64)

    def forward(self, x: Array) -> Array:
        filled = np.flatnonzero(self.counts)
        y = np.zeros((len(self.counts), x.shape[1]), x.dtype, like=x)
        if len(filled):
            starts = (np.cumsum(self.counts) - self.counts)[filled]
            y[on(filled, x)] = self._over_bags(x, starts)
        if self.mode == "mean":
            y /= on(np.maximum(self.counts, 1).astype(x.dtype)[:, None], x)
        if self.mode == "max" and self.needs[0]:
            self.saved = (self._first_maxima(to_host(x), to_host(y)),)
        return y

    def _over_bags(self, x: Array, starts: Array) -> Array:
        if self.mode == "max":
            return by_host("embedding_bag", lambda a: np.maximum.reduceat(a, starts, axis=0), x)
        return np.add.reduceat(x, on(starts, x), axis=0)

    def _first_maxima(self, x: Array, y: Array) -> Array:
        """For every bag and column, the row of the first maximum; -1 for an empty bag."""
        at = np.repeat(np.arange(len(self.counts)), self.counts)
        hits = np.where(x == y[at], np.arange(len(x))[:, None], len(x))
        best = np.full(y.shape, -1)
        filled = np.flatnonzero(self.counts)
        if len(filled):
            starts = (np.cumsum(self.counts) - self.counts)[filled]
            best[filled] = np.minimum.reduceat(hits, starts, axis=0)
        return best

    def backward(self, grad: Array) -> Grads:
        if self.mode == "max":
            (best,) = self.saved
            grad_x = np.zeros((int(self.counts.sum()), grad.shape[1]), grad.dtype, like=grad)
            bags, columns = np.nonzero((best >= 0) & (best < len(grad_x)))
            rows, bags, columns = (on(i, grad) for i in (best[bags, columns], bags, columns))
            grad_x[rows, columns] = grad[bags, columns]
            return (grad_x,)
        if self.mode == "mean":
            grad = grad / on(np.maximum(self.counts, 1).astype(grad.dtype)[:, None], grad)
        return (np.take(grad, on(np.repeat(np.arange(len(self.counts)), self.counts), grad), 0),)
