"""Look-up of rows by integer index."""

from __future__ import annotations

import numpy as np

from ..backend import Array
from .base import Op
from .elementwise import Grads


class Embedding(Op):
    """Rows of weight (V, D) at integer indices: (indices, weight) -> (*indices.shape, D)."""

    fresh_grads = True

    def __init__(self, padding_idx: int | None) -> None:
        self.padding_idx = padding_idx

    def forward(self, indices: Array, weight: Array) -> Array:
        self.weight_shape = weight.shape
        if self.needs[1]:
            self.saved = (indices,)
        return weight[indices]

    def backward(self, grad: Array) -> Grads:
        (indices,) = self.saved
        full = np.zeros(self.weight_shape, grad.dtype)
        np.add.at(full, indices, grad)
        if self.padding_idx is not None:
            full[self.padding_idx] = 0
        return None, full
