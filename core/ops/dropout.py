"""Dropout: elements, or whole channels, set to zero at random."""

from __future__ import annotations

import numpy as np

from .. import backend
from ..backend import Array
from ..backend.reference.dropout import factors as factors
from .base import Op
from .elementwise import Grads


class Dropout(Op):
    """Zero with probability p, scale the rest by 1 / (1 - p) (Srivastava et al. 2014).

    Args:
        p: probability of zeroing.
        channels: draw once per (sample, channel) and zero whole channels.
    """

    takes_half = True

    def __init__(self, p: float, channels: bool = False) -> None:
        self.p, self.channels = p, channels

    def forward(self, x: Array) -> Array:
        kernels = backend.of(x)
        y, saved = kernels.dropout_forward(x, self.p, self.channels, self.needs[0])
        if self.needs[0]:
            self.saved = (saved,)
        return y

    def backward(self, grad: Array) -> Grads:
        return (backend.of(grad).dropout_backward(grad, self.saved[0]),)

    def factors_like(self, grad: Array) -> Array:
        """What backward multiplies by, as an array: for gradients of gradients."""
        return backend.of(grad).dropout_backward(np.ones_like(grad), self.saved[0])
