"""The error function, its complement and its inverse, on arrays.

NumPy has none of the three. Imports: NumPy.
"""

from __future__ import annotations

import math

import numpy as np

from .arrays import as_array
from .protocol import Array

_INV_SQRT_PI = 1 / math.sqrt(math.pi)

# W. J. Cody 1969, "Rational Chebyshev approximations for the error function",
# Math. Comp. 23, 631-637: coefficients for |x| <= 0.46875, up to 4, and above.
_P1 = (3.16112374387056560e00, 1.13864154151050156e02, 3.77485237685302021e02,
       3.20937758913846947e03, 1.85777706184603153e-1)  # fmt: skip
_Q1 = (2.36012909523441209e01, 2.44024637934444173e02, 1.28261652607737228e03,
       2.84423683343917062e03)  # fmt: skip
_P2 = (5.64188496988670089e-1, 8.88314979438837594e00, 6.61191906371416295e01,
       2.98635138197400131e02, 8.81952221241769090e02, 1.71204761263407058e03,
       2.05107837782607147e03, 1.23033935479799725e03, 2.15311535474403846e-8)  # fmt: skip
_Q2 = (1.57449261107098347e01, 1.17693950891312499e02, 5.37181101862009858e02,
       1.62138957456669019e03, 3.29079923573345963e03, 4.36261909014324716e03,
       3.43936767414372164e03, 1.23033935480374942e03)  # fmt: skip
_P3 = (3.05326634961232344e-1, 3.60344899949804439e-1, 1.25781726111229246e-1,
       1.60837851487422766e-2, 6.58749161529837803e-4, 1.63153871373020978e-2)  # fmt: skip
_Q3 = (2.56852019228982242e00, 1.87295284992346047e00, 5.27905102951428412e-1,
       6.05183413124413191e-2, 2.33520497626869185e-3)  # fmt: skip


def _near(a: Array) -> Array:
    """erf(a) for 0 <= a <= 0.46875, else something finite."""
    small = np.where(a <= 0.46875, a, 0)
    z = small * small
    top, bottom = _P1[4] * z, z
    for i in range(3):
        top, bottom = (top + _P1[i]) * z, (bottom + _Q1[i]) * z
    return small * (top + _P1[3]) / (bottom + _Q1[3])


def _beyond(a: Array) -> Array:
    """1 - erf(a) for a >= 0.46875, without cancellation."""
    middle = np.clip(a, 0.46875, 4)
    top, bottom = _P2[8] * middle, middle
    for i in range(7):
        top, bottom = (top + _P2[i]) * middle, (bottom + _Q2[i]) * middle
    mid = np.exp(-middle * middle) * (top + _P2[7]) / (bottom + _Q2[7])
    large = np.maximum(a, 4)
    z = 1 / (large * large)
    top, bottom = _P3[5] * z, z
    for i in range(4):
        top, bottom = (top + _P3[i]) * z, (bottom + _Q3[i]) * z
    rest = z * (top + _P3[4]) / (bottom + _Q3[4])
    far = np.exp(-np.minimum(large * large, 800)) * (_INV_SQRT_PI - rest) / large
    return np.where(a <= 4, mid, far)


def erf(x: Array) -> Array:
    """The error function, to the precision of the dtype. Source: Cody 1969."""
    if x.dtype.itemsize < 4:  # the polynomials exceed the range of float16
        return erf(x.astype(np.float32)).astype(x.dtype)
    a = np.abs(x)
    y = np.where(a <= 0.46875, _near(a), 1 - _beyond(a))
    return np.copysign(y, x).astype(x.dtype, copy=False)


def erfc(x: Array) -> Array:
    """1 - erf(x), exact also where that is tiny. Source: Cody 1969."""
    wide = as_array(x, np.float64)
    a = np.abs(wide)
    tail = _beyond(a)
    y = np.where(a <= 0.46875, 1 - np.copysign(_near(a), wide), np.where(wide > 0, tail, 2 - tail))
    return np.where(np.isnan(wide), np.nan, y).astype(x.dtype)


def erfinv(x: Array) -> Array:
    """The y with erf(y) = x; nan beyond -1..1.

    Winitzki's approximation (2008, "A handy approximation for the error function and its
    inverse") is good to 0.2 %; three of Halley's steps, each of which triples the digits, follow.
    """
    wide = as_array(x, np.float64)
    a = np.minimum(np.abs(wide), 1)
    rest = 1 - a  # exact where a is near 1
    log = np.log(np.maximum(rest * (1 + a), 1e-300))
    half = 2 / (math.pi * 0.147) + log / 2
    y = np.sqrt(np.sqrt(half * half - log / 0.147) - half)
    for _ in range(3):
        error = np.where(a < 0.5, erf(y) - a, rest - erfc(y))
        step = error * (math.sqrt(math.pi) / 2) * np.exp(y * y)
        y = y - step / (1 + y * step)
    y = np.where(a == 1, np.inf, y)
    y = np.where(np.abs(wide) <= 1, np.copysign(y, wide), np.nan)
    return y.astype(x.dtype)
