"""Look-up of rows by integer index, and sums, means and maxima over bags of rows."""

from __future__ import annotations

import numpy as np

from .. import backend
from ..backend import Array, Dims
from ..backend.arrays import by_host, on, to_host
from ..backend.reference.embedding import frequencies as frequencies
from ..backend.reference.embedding import summed_by_index as summed_by_index
from .base import Op
from .elementwise import Grads


class Embedding(Op):
    """Rows of weight (V, D) at integer indices: (indices, weight) -> (*indices.shape, D).

    Args:
        padding_idx: the row that gets no gradient, or None.
        by_frequency: divide the gradient of a row by how often it was looked up.
    """

    fresh_grads = True
    takes_half = True

    def __init__(self, padding_idx: int | None, by_frequency: bool = False) -> None:
        self.padding_idx, self.by_frequency = padding_idx, by_frequency

    def forward(self, indices: Array, weight: Array) -> Array:
        self.weight_shape = weight.shape
        if self.needs[1]:
            self.saved = (indices,)
        return backend.of(weight).embedding_forward(weight, indices)

    def backward(self, grad: Array) -> Grads:
        (indices,) = self.saved
        full = backend.of(grad).embedding_backward(
            grad, indices, self.weight_shape[0], self.padding_idx, self.by_frequency
        )
        return None, full


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
