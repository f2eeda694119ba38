"""Root-mean-square normalisation. Source: Zhang & Sennrich 2019."""

from __future__ import annotations

from .. import backend
from ..backend import Array
from .base import Op
from .elementwise import Grads


class RMSNorm(Op):
    """x / sqrt(mean(x**2) + eps) * weight over the last `axes_count` axes: (x, weight)."""

    takes_half_on_gpu = True
    fresh_grads = True

    def __init__(self, axes_count: int, eps: float) -> None:
        self.axes_count, self.eps = axes_count, eps

    def forward(self, x: Array, weight: Array | None) -> Array:
        y, rstd = backend.of(x).rms_norm_forward(x, self.axes_count, weight, self.eps)
        if any(self.needs):
            self.saved = (x, weight, rstd)
        return y

    def backward(self, grad: Array) -> Grads:
        x, weight, rstd = self.saved
        return backend.of(grad).rms_norm_backward(
            grad, x, self.axes_count, weight, rstd, self.needs
        )
