"""Activations that cut a range out of their input. Source of the formulas: PyTorch manual."""

from __future__ import annotations

import numpy as np

from ..backend import Array
from .elementwise import FromInput


class Hardshrink(FromInput):
    """x outside of [-limit, limit], else 0."""

    def __init__(self, limit: float) -> None:
        self.limit = limit

    def _inside(self, x: Array) -> Array:
        return (x >= -self.limit) & (x <= self.limit)

    def value(self, x: Array) -> Array:
        return np.where(self._inside(x), x.dtype.type(0), x)

    def derivative(self, x: Array) -> Array:
        return (~self._inside(x)).astype(x.dtype)


class Softshrink(FromInput):
    """x moved towards 0 by `limit`, and 0 within."""

    def __init__(self, limit: float) -> None:
        self.limit = limit

    def value(self, x: Array) -> Array:
        limit = x.dtype.type(self.limit)
        return x - np.clip(x, -limit, limit)

    def derivative(self, x: Array) -> Array:
        return (np.abs(x) > self.limit).astype(x.dtype)


class Threshold(FromInput):
    """x above `threshold`, else `value`."""

    def __init__(self, threshold: float, constant: float) -> None:
        self.threshold, self.constant = threshold, constant

    def value(self, x: Array) -> Array:
        return np.where(x <= self.threshold, x.dtype.type(self.constant), x)

    def derivative(self, x: Array) -> Array:
        return (~(x <= self.threshold)).astype(x.dtype)
