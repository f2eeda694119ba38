"""Dropout: elements, or whole channels, set to zero at random."""

from __future__ import annotations

import numpy as np

from .. import random
from ..backend import Array
from .base import Op
from .elementwise import Grads


class Dropout(Op):
    """Zero with probability p, scale the rest by 1 / (1 - p) (Srivastava et al. 2014).

    Args:
        p: probability of zeroing.
        channels: draw once per (sample, channel) and zero whole channels.
    """

    def __init__(self, p: float, channels: bool = False) -> None:
        self.p, self.channels = p, channels

    def forward(self, x: Array) -> Array:
        shape = x.shape[:2] + (1,) * (x.ndim - 2) if self.channels else x.shape
        draws = random.default_generator().numpy.random(shape, np.float32)
        scale = 0.0 if self.p == 1 else 1 / (1 - self.p)
        mask = (draws >= self.p).astype(x.dtype)
        mask *= x.dtype.type(scale)
        if self.needs[0]:
            self.saved = (mask,)
        return x * mask

    def backward(self, grad: Array) -> Grads:
        (mask,) = self.saved
        return (grad * mask,)
