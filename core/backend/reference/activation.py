"""GELU in plain array code. Source: Hendrycks & Gimpel 2016, "Gaussian error linear units"."""

from __future__ import annotations

import math
from typing import Any

from ..error_function import erf
from ..protocol_recurrent import Array

_SQRT_HALF = math.sqrt(0.5)
_INV_SQRT_2PI = 1 / math.sqrt(2 * math.pi)
_SQRT_2_PI = math.sqrt(2 / math.pi)


class ActivationKernels:
    """Kernels `gelu_*` of the backend protocol on the array module `xp`."""

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
