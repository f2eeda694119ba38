"""Dropout in main memory: factors drawn from this thread's generator, kept for backward."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ... import random
from ..protocol import Array, Dims

_MANY = 32768  # elements from which starting another stream pays


class DropoutKernels:
    """Kernels `dropout_*` of the backend protocol."""

    xp: Any

    def dropout_forward(self, x: Array, p: float, channels: bool, keep: bool) -> tuple[Array, Any]:
        """Source: Srivastava et al. 2014; channels: Tompson et al. 2015."""
        shape = x.shape[:2] + (1,) * (x.ndim - 2) if channels else x.shape
        mask = factors(shape, p, x.dtype)
        if self.xp is not np:
            mask = self.xp.asarray(mask)
        return x * mask, mask if keep else None

    def dropout_backward(self, grad_y: Array, saved: Any) -> Array:
        """The gradient times the same factors."""
        product: Array = grad_y * saved
        return product


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
    kept: Array = np.multiply(draws >= threshold(p), dtype.type(scale(p)))
    return kept


def threshold(p: float) -> int:
    """Draws of 16 bits from here on stay."""
    return round(p * 65536)


def scale(p: float) -> float:
    """What those that stay are multiplied by."""
    return 0.0 if p == 1 else 1 / (1 - p)
