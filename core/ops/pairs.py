"""Elementwise functions of two inputs beyond arithmetic."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ..backend import Array
from ..backend.arrays import beside, is_array
from .base import Op
from .elementwise import Grads, conj


class Atan2(Op):
    """The angle of the point (b, a), in -pi..pi; its gradient at the origin is 0."""

    def forward(self, a: Array, b: Array) -> Array:
        self.saved = (a, b)
        return np.arctan2(a, b)

    def backward(self, grad: Array) -> Grads:
        a, b = self.saved
        square = a * a + b * b
        share = np.where(square == 0, 0, grad / square)
        return share * b, -share * a


class Hypot(Op):
    """sqrt(a**2 + b**2), without overflow."""

    def forward(self, a: Array, b: Array) -> Array:
        y = np.hypot(a, b)
        self.saved = (a, b, y)
        return y

    def backward(self, grad: Array) -> Grads:
        a, b, y = self.saved
        return grad * (a / y), grad * (b / y)


class LogAddExp(Op):
    """log(e**a + e**b), without overflow."""

    rate = 1.0

    def forward(self, a: Array, b: Array) -> Array:
        self.saved = (a, b)
        return np.logaddexp(a, b)

    def backward(self, grad: Array) -> Grads:
        a, b = self.saved
        rate = self.rate
        return grad / (1 + np.exp((b - a) * rate)), grad / (1 + np.exp((a - b) * rate))


class LogAddExp2(LogAddExp):
    """log2(2**a + 2**b), without overflow."""

    rate = math.log(2)

    def forward(self, a: Array, b: Array) -> Array:
        self.saved = (a, b)
        return np.logaddexp2(a, b)


class CopySign(Op):
    """The magnitude of a with the sign of b."""

    def forward(self, a: Array, b: Any) -> Array:
        self.saved = (a, b)
        return np.copysign(a, b)

    def backward(self, grad: Array) -> Grads:
        a, b = self.saved
        flips = np.signbit(a) != np.signbit(b)
        grad_a = np.where(a == 0, 0, np.where(flips, -grad, grad))
        return grad_a, np.zeros_like(grad) if self.needs[1] else None


class Fmax(Op):
    """The larger of a and b; a number wins over nan. Where they are equal the gradient is a's."""

    function: Any = staticmethod(np.fmax)
    first: Any = staticmethod(np.greater_equal)

    def forward(self, a: Array, b: Array) -> Array:
        self.saved = (a, b)
        return self.function(a, b)

    def backward(self, grad: Array) -> Grads:
        a, b = self.saved
        chosen = self.first(a, b) | np.isnan(b)
        zero = grad.dtype.type(0)
        return np.where(chosen, grad, zero), np.where(chosen, zero, grad)


class Fmin(Fmax):
    """The smaller of a and b; a number wins over nan. Where they are equal the gradient is a's."""

    function = staticmethod(np.fmin)
    first = staticmethod(np.less_equal)


class XLogY(Op):
    """a * log(b), 0 where a is 0."""

    def forward(self, a: Any, b: Any) -> Array:
        to = a.dtype if is_array(a) else b.dtype
        a, b = beside(a, b, to), beside(b, a, to)  # one may be a number
        self.saved = (a, b)
        zero = np.equal(a, 0) & ~np.isnan(b)
        return np.where(zero, 0, a * np.log(np.where(zero, 1, b)))

    def backward(self, grad: Array) -> Grads:
        a, b = self.saved
        zero = np.equal(a, 0) & np.less_equal(b, 0)
        grad_a = np.where(zero, 0, grad * conj(np.log(np.where(zero, 1, b))))
        return grad_a, grad * conj(a / b)


class Mantissa(Op):
    """The m, 0.5 <= |m| < 1, of x = m * 2**exponent."""

    def forward(self, x: Array) -> Array:
        y, exponent = np.frexp(x)
        self.saved = (exponent,)
        return y

    def backward(self, grad: Array) -> Grads:
        (exponent,) = self.saved
        return (np.ldexp(grad, -exponent),)
