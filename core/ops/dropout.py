"""Dropout: elements, or whole channels, set to zero at random."""

from __future__ import annotations

import math

import numpy as np

from .. import random
from ..backend import Array, Dims
from .base import Op
from .elementwise import Grads

_MANY = 32768  # elements from which starting another stream pays


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
        mask = factors(shape, self.p, x.dtype)
        if self.needs[0]:
            self.saved = (mask,)
        return x * mask

    def backward(self, grad: Array) -> Grads:
        (mask,) = self.saved
        return (grad * mask,)


def factors(shape: Dims, p: float, dtype: np.dtype) -> Array:
    """0 with probability p, else 1 / (1 - p), drawn from this thread's generator.

    Each element takes 16 random bits, so p is met to within 2**-17. Many elements take them from
    a faster stream (SFC64) whose seed is drawn from the generator.
    """
    bits = random.default_generator().numpy.bit_generator
    size = math.prod(shape)
    if size > _MANY:
        bits = np.random.SFC64(bits.random_raw(4))
    draws = bits.random_raw(-(-size // 4)).view(np.uint16)[:size].reshape(shape)
    scale = 0.0 if p == 1 else 1 / (1 - p)
    kept: Array = np.multiply(draws >= round(p * 65536), dtype.type(scale))
    return kept
