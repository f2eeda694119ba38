"""Matrix products, ReLU and softmax in plain array code: the oracle and the fallback."""

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
    """ReLU and softmax kernels of the backend protocol on the array module `xp`."""

    xp: Any

    def relu_forward(self, x: Array) -> Array:
        return self.xp.maximum(x, 0)

    def relu_backward(self, grad_y: Array, y: Array) -> Array:
        return grad_y * (y > 0)

    def add_relu_forward(self, a: Array, b: Array) -> Array:
        return self.xp.maximum(a + b, 0)

    def softmax_forward(self, x: Array, axis: int) -> Array:
        xp = self.xp
        y = xp.subtract(x, xp.max(x, axis=axis, keepdims=True))
        xp.exp(y, out=y)
        y /= y.sum(axis=axis, keepdims=True)
        return y

    def log_softmax_forward(self, x: Array, axis: int) -> Array:
        xp = self.xp
        y = xp.subtract(x, xp.max(x, axis=axis, keepdims=True))
        y -= xp.log(xp.exp(y).sum(axis=axis, keepdims=True))
        return y
