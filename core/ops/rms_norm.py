"""Root-mean-square normalisation. Source: Zhang & Sennrich 2019."""

from __future__ import annotations

import math

import numpy as np

from ..backend import Array
from .base import Op
from .elementwise import Grads


class RMSNorm(Op):
    """x / sqrt(mean(x**2) + eps) * weight over the last `axes_count` axes: (x, weight)."""

    fresh_grads = True

    def __init__(self, axes_count: int, eps: float) -> None:
        self.axes_count, self.eps = axes_count, eps

    def forward(self, x: Array, weight: Array | None) -> Array:
        rows = self._rows(x)
        mean = np.einsum("ij,ij->i", rows, rows) / max(rows.shape[1], 1)
        rstd = (1 / np.sqrt(mean + self.eps)).astype(x.dtype, copy=False)[:, None]
        y = rows * rstd
        if weight is not None:
            y *= weight.reshape(-1)
        if any(self.needs):
            self.saved = (x, weight, rstd)
        return y.reshape(x.shape)

    def backward(self, grad: Array) -> Grads:
        x, weight, rstd = self.saved
        rows, grads = self._rows(x), self._rows(grad)
        grad_weight = None
        if self.needs[1]:
            grad_weight = np.einsum("ij,ij->j", grads, rows * rstd).reshape(weight.shape)
        if not self.needs[0]:
            return None, grad_weight
        inner = grads if weight is None else grads * weight.reshape(-1)
        along = np.einsum("ij,ij->i", inner, rows)[:, None] / rows.shape[1]
        grad_x = inner * rstd - rows * (along * rstd**3)
        return grad_x.reshape(x.shape), grad_weight

    def _rows(self, x: Array) -> Array:
        leading = x.ndim - self.axes_count
        return x.reshape(math.prod(x.shape[:leading]), math.prod(x.shape[leading:]))
