"""Trigonometric and hyperbolic functions and their inverses, of real or complex numbers."""

from __future__ import annotations

import math

import numpy as np

from ..backend import Array
from .elementwise import FromInput, FromOutput


class Asin(FromInput):
    """Inverse sine."""

    def value(self, x: Array) -> Array:
        return np.arcsin(x)

    def derivative(self, x: Array) -> Array:
        return 1 / np.sqrt(1 - x * x)


class Acos(FromInput):
    """Inverse cosine."""

    def value(self, x: Array) -> Array:
        return np.arccos(x)

    def derivative(self, x: Array) -> Array:
        return -1 / np.sqrt(1 - x * x)


class Atan(FromInput):
    """Inverse tangent."""

    def value(self, x: Array) -> Array:
        return np.arctan(x)

    def derivative(self, x: Array) -> Array:
        return 1 / (1 + x * x)


class Sinh(FromInput):
    """Hyperbolic sine."""

    def value(self, x: Array) -> Array:
        return np.sinh(x)

    def derivative(self, x: Array) -> Array:
        return np.cosh(x)


class Cosh(FromInput):
    """Hyperbolic cosine."""

    def value(self, x: Array) -> Array:
        return np.cosh(x)

    def derivative(self, x: Array) -> Array:
        return np.sinh(x)


class Asinh(FromInput):
    """Inverse hyperbolic sine."""

    def value(self, x: Array) -> Array:
        return np.arcsinh(x)

    def derivative(self, x: Array) -> Array:
        return 1 / np.sqrt(1 + x * x)


class Acosh(FromInput):
    """Inverse hyperbolic cosine."""

    def value(self, x: Array) -> Array:
        return np.arccosh(x)

    def derivative(self, x: Array) -> Array:
        return 1 / (np.sqrt(x - 1) * np.sqrt(x + 1))


class Atanh(FromInput):
    """Inverse hyperbolic tangent."""

    def value(self, x: Array) -> Array:
        return np.arctanh(x)

    def derivative(self, x: Array) -> Array:
        return 1 / (1 - x * x)


class Exp2(FromOutput):
    """2**x."""

    def value(self, x: Array) -> Array:
        return np.exp2(x) if x.dtype.kind != "c" else np.exp(x * math.log(2))

    def derivative(self, y: Array) -> Array:
        return y * math.log(2)
