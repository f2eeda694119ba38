"""Matrix products and ReLU in plain array code: the oracle and the fallback."""

from __future__ import annotations

from typing import Any

from ..protocol import Array


class LinearKernels:
    """Kernels for matrix products of the backend protocol on the array module `xp`."""

    xp: Any

    def linear_forward(
        self, x: Array, weight: Array, bias: Array | None, activation: str | None = None
    ) -> Array:
        y = self.xp.matmul(x, weight.T)
        if bias is not None:
            y += bias
        if activation == "relu":
            self.xp.maximum(y, 0, out=y)
        return y

    def matmul(self, a: Array, b: Array, out: Array | None = None) -> Array:
        return self.xp.matmul(a, b) if out is None else self.xp.matmul(a, b, out=out)


class ElementwiseKernels:
    """ReLU kernels of the backend protocol on the array module `xp`."""

    xp: Any

    def relu_forward(self, x: Array) -> Array:
        return self.xp.maximum(x, 0)

    def relu_backward(self, grad_y: Array, y: Array) -> Array:
        return grad_y * (y > 0)

    def add_relu_forward(self, a: Array, b: Array) -> Array:
        return self.xp.maximum(a + b, 0)
