"""Special functions: the gamma family, error functions, logit, sinc.

NumPy has none of them. Numbers of less than 64 bits are computed in float64 and rounded once.
"""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np

from ..backend import Array
from ..backend.arrays import as_array
from ..backend.error_function import erfc, erfinv
from .elementwise import FromInput, FromOutput

# Bernoulli numbers B2, B4, ...: Abramowitz & Stegun 1964, table 23.2.
_BERNOULLI = (1 / 6, -1 / 30, 1 / 42, -1 / 30, 5 / 66, -691 / 2730, 7 / 6, -3617 / 510,
              43867 / 798, -174611 / 330)  # fmt: skip
_HALF_LOG_2PI = 0.5 * math.log(2 * math.pi)


def _sin_pi(x: Array) -> Array:
    """sin(pi x), exactly 0 at integers."""
    turn = x - 2 * np.round(x / 2)
    return np.where(np.abs(turn) == 1, 0, np.sin(math.pi * turn))


def lgamma(x: Array) -> Array:
    """log|gamma(x)|: Stirling's series above 10, recurrence and reflection below.

    Source: Abramowitz & Stegun 1964, 6.1.15, 6.1.17 and 6.1.41.
    """
    wide = as_array(x, np.float64)
    positive = np.where(wide < 0.5, 1 - wide, wide)
    product, z = np.ones_like(positive), positive
    for _ in range(10):
        low = z < 10
        product, z = np.where(low, product * z, product), np.where(low, z + 1, z)
    y = (z - 0.5) * np.log(z) - z + _HALF_LOG_2PI
    for k, b in enumerate(_BERNOULLI[:7], 1):
        y = y + b / (2 * k * (2 * k - 1)) / z ** (2 * k - 1)
    y = np.where(np.isinf(z), np.inf, y - np.log(product))
    reflected = np.log(math.pi / np.abs(_sin_pi(wide))) - y
    y = np.where(wide < 0.5, reflected, y)
    return np.where(np.isneginf(wide), np.inf, y).astype(x.dtype)


def digamma(x: Array) -> Array:
    """Derivative of log(gamma(x)). Source: Abramowitz & Stegun 1964, 6.3.5, 6.3.7 and 6.3.18."""
    wide = as_array(x, np.float64)
    z = np.where(wide < 0.5, 1 - wide, wide)
    y = np.zeros_like(z)
    for _ in range(10):
        low = z < 10
        y, z = np.where(low, y - 1 / z, y), np.where(low, z + 1, z)
    y = y + np.log(z) - 0.5 / z
    for k, b in enumerate(_BERNOULLI[:7], 1):
        y = y - b / (2 * k) / z ** (2 * k)
    turn = wide - np.round(wide)
    y = np.where(wide < 0.5, y - math.pi / np.tan(math.pi * turn), y)
    y = np.where((wide < 0) & (turn == 0), np.nan, y)  # a pole with two signs
    return np.where(wide == 0, -np.copysign(np.inf, wide), y).astype(x.dtype)


def zeta(s: float, q: Array, steps: int | None = None) -> Array:
    """Hurwitz zeta function, the sum of (q + k)**-s over k >= 0, for an integer s > 1.

    Args:
        steps: how many take every q beyond 12; default: as many as it takes, for which values on
            a GPU are read.

    Source: Euler-Maclaurin summation, Abramowitz & Stegun 1964, 23.1.30.
    """
    total, z = np.zeros_like(q), q
    for _ in itertools.repeat(None) if steps is None else range(steps):
        low = z < 12
        if steps is None and not low.any():
            break
        total, z = np.where(low, total + z ** (-s), total), np.where(low, z + 1, z)
    total = total + z ** (1 - s) / (s - 1) + 0.5 * z ** (-s)
    factor = s / 2.0  # s (s+1) ... (s+2k-2) / (2k)!
    for k, b in enumerate(_BERNOULLI, 1):
        total = total + b * factor * z ** (1 - s - 2 * k)
        factor *= (s + 2 * k - 1) * (s + 2 * k) / ((2 * k + 1) * (2 * k + 2))
    return np.where((q <= 0) & (q == np.floor(q)), np.inf, total)


def polygamma(n: int, x: Array) -> Array:
    """The derivative of order n of digamma. Source: Abramowitz & Stegun 1964, 6.4.10, 6.4.7."""
    if n == 0:
        return digamma(x)
    wide = as_array(x, np.float64)
    if n == 1:
        y = zeta(2.0, np.where(wide < 0.5, 1 - wide, wide), steps=12)
        y = np.where(wide < 0.5, (math.pi / _sin_pi(wide)) ** 2 - y, y)
    else:
        y = (-1) ** (n + 1) * math.factorial(n) * zeta(float(n + 1), wide)
    return y.astype(x.dtype)


class Lgamma(FromInput):
    """log|gamma(x)|."""

    def value(self, x: Array) -> Array:
        return lgamma(x)

    def derivative(self, x: Array) -> Array:
        return digamma(x)


class Polygamma(FromInput):
    """The derivative of order n of digamma; order 0 is digamma itself."""

    def __init__(self, n: int = 0) -> None:
        self.n = n

    def value(self, x: Array) -> Array:
        return polygamma(self.n, x)

    def derivative(self, x: Array) -> Array:
        return polygamma(self.n + 1, x)


class Erfc(FromInput):
    """1 - erf(x)."""

    def value(self, x: Array) -> Array:
        return erfc(x)

    def derivative(self, x: Array) -> Array:
        return -2 / math.sqrt(math.pi) * np.exp(-x * x)


class Erfinv(FromOutput):
    """Inverse of the error function."""

    def value(self, x: Array) -> Array:
        return erfinv(x)

    def derivative(self, y: Array) -> Array:
        return math.sqrt(math.pi) / 2 * np.exp(y * y)


class Logit(FromInput):
    """log(x / (1 - x)), of x limited to [eps, 1 - eps] if eps is given."""

    def __init__(self, eps: float | None = None) -> None:
        self.eps = eps

    def value(self, x: Array) -> Array:
        if self.eps is not None:
            x = np.minimum(np.maximum(x, self.eps), 1 - self.eps)
        return np.log(x / (1 - x))

    def derivative(self, x: Array) -> Array:
        low, outside = (0, np.nan) if self.eps is None else (self.eps, 0)
        inside = (x >= low) & (x <= 1 - low)
        return np.where(inside, 1 / (x * (1 - x)), x.dtype.type(outside))


class Sinc(FromInput):
    """sin(pi x) / (pi x), 1 at 0."""

    def value(self, x: Array) -> Array:
        safe = np.where(x == 0, 1, x) * math.pi
        return np.where(x == 0, 1, np.sin(safe) / safe)

    def derivative(self, x: Array) -> Array:
        safe = np.where(x == 0, 1, x) * math.pi
        slope = math.pi * (safe * np.cos(safe) - np.sin(safe)) / (safe * safe)
        return np.where(x == 0, 0, slope)


class NanToNum(FromInput):
    """x with other numbers in the place of nan and the infinities; the gradient there is 0."""

    def __init__(self, nan: float, posinf: float | None, neginf: float | None) -> None:
        self.options: dict[str, Any] = {"nan": nan, "posinf": posinf, "neginf": neginf}

    def value(self, x: Array) -> Array:
        return np.nan_to_num(x, **self.options)

    def derivative(self, x: Array) -> Array:
        return np.isfinite(x).astype(x.dtype)
