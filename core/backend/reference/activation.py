"""Smooth activations in plain array code.

Sources: Hendrycks & Gimpel 2016, "Gaussian error linear units"; PyTorch manual for the others.
"""

from __future__ import annotations

import math
from typing import Any

from ..arrays import as_array
from ..error_function import erf
from ..protocol_recurrent import Array

_SQRT_HALF = math.sqrt(0.5)
_INV_SQRT_2PI = 1 / math.sqrt(2 * math.pi)
_SQRT_2_PI = math.sqrt(2 / math.pi)


class ActivationKernels:
    """Kernels of `ActivationBackend` on the array module `xp`; complex x is served, too."""

    xp: Any

    def gelu_forward(self, x: Array, approximate: str) -> Array:
        if approximate == "tanh":
            return 0.5 * x * (1 + self.xp.tanh(_SQRT_2_PI * (x + 0.044715 * x**3)))
        return 0.5 * x * (1 + erf(x * _SQRT_HALF))

    def gelu_backward(self, grad_y: Array, x: Array, approximate: str) -> Array:
        if approximate == "tanh":
            t = self.xp.tanh(_SQRT_2_PI * (x + 0.044715 * x**3))
            inner = _SQRT_2_PI * (1 + 3 * 0.044715 * x * x)
            return grad_y * (0.5 * (1 + t) + 0.5 * x * (1 - t * t) * inner)
        slope = 0.5 * (1 + erf(x * _SQRT_HALF)) + x * _INV_SQRT_2PI * self.xp.exp(-0.5 * x * x)
        return grad_y * slope

    def sigmoid_forward(self, x: Array) -> Array:
        y = self.xp.tanh(0.5 * x)  # which cannot overflow
        y = 0.5 * y + 0.5
        return as_array(y)

    def sigmoid_backward(self, grad_y: Array, y: Array) -> Array:
        return grad_y * _conj(y * (1 - y))

    def tanh_forward(self, x: Array) -> Array:
        return self.xp.tanh(x)

    def tanh_backward(self, grad_y: Array, y: Array) -> Array:
        return grad_y * _conj(1 - y * y)

    def silu_forward(self, x: Array) -> Array:
        return x * self.sigmoid_forward(x)

    def silu_backward(self, grad_y: Array, x: Array) -> Array:
        s = self.sigmoid_forward(x)
        return grad_y * _conj(s * (1 + x * (1 - s)))


def _conj(x: Array) -> Array:
    """The complex conjugate, which the gradient of a real loss wants; x itself if it is real."""
    return x.conj() if x.dtype.kind == "c" else x
