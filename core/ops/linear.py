"""Matrix products and the linear layer."""

from __future__ import annotations

from typing import Any

import numpy as np

from .. import backend
from ..backend import Array
from ..backend.arrays import as_array
from .base import Op
from .elementwise import Grads


def adjoint(x: Array) -> Array:
    """The last two axes exchanged, complex elements conjugated."""
    y = np.swapaxes(x, -1, -2)
    return y.conj() if y.dtype.kind == "c" else y


class MatMul(Op):
    """a @ b for two or more dimensions each; leading ones broadcast."""

    takes_half = True
    fresh_grads = True
    writes_out = (1,)

    def forward(self, a: Array, b: Array) -> Array:
        self.saved = (a if self.needs[1] else None, b if self.needs[0] else None)
        self.flat_b = b.ndim == 2
        if a.ndim > 2 == b.ndim and a.flags.c_contiguous and a.size:  # one product, not many
            y = backend.of(a).matmul(a.reshape(-1, a.shape[-1]), b)
            return y.reshape(*a.shape[:-1], b.shape[-1])
        return backend.of(a).matmul(a, b)

    def backward(self, grad: Array) -> Grads:
        a, b = self.saved
        kernels = backend.of(grad)
        grad_a = kernels.matmul(grad, adjoint(b)) if self.needs[0] else None
        grad_b = None
        if self.needs[1]:
            if a.ndim > 2 and self.flat_b and a.flags.c_contiguous and a.size:
                rows = grad.reshape(-1, grad.shape[-1])
                return grad_a, kernels.matmul(adjoint(a.reshape(-1, a.shape[-1])), rows)
            out = self.out.get(1) if self.out and a.ndim == 2 == grad.ndim else None
            grad_b = kernels.matmul(adjoint(a), grad, out)
        return grad_a, grad_b


class Dot(Op):
    """Product of a vector with a vector, or with the last but one axis of a matrix stack."""

    def forward(self, a: Array, b: Array) -> Array:
        self.saved = (a, b)
        return as_array(np.matmul(a, b))

    def backward(self, grad: Array) -> Grads:
        a, b = self.saved
        conj_a, conj_b = (x.conj() if x.dtype.kind == "c" else x for x in (a, b))
        if a.ndim == 1 == b.ndim:
            return grad * conj_b, grad * conj_a
        if a.ndim == 1:  # (k) @ (..., k, n) -> (..., n)
            grad_a = np.matmul(conj_b, grad[..., None])[..., 0]
            return grad_a, conj_a[:, None] * grad[..., None, :]
        # (..., m, k) @ (k) -> (..., m)
        grad_b = np.matmul(adjoint(a), grad[..., None])[..., 0]
        return grad[..., None] * conj_b, grad_b


class Linear(Op):
    """x @ weight.T + bias over the last axis; a following ReLU may be absorbed."""

    takes_half = True
    fresh_grads = True
    writes_out = (1,)
    deferred: Any = None

    def __init__(self, relu: bool = False) -> None:
        self.relu = relu

    def with_relu(self) -> Linear:
        """The op that also applies the ReLU."""
        return Linear(relu=True)

    def forward(self, x: Array, weight: Array, bias: Array | None) -> Array:
        rows = x if x.ndim == 2 else x.reshape(-1, x.shape[-1])
        activation = "relu" if self.relu else None
        y = backend.of(x).linear_forward(rows, weight, bias, activation)
        if x.ndim != 2:
            y = y.reshape(*x.shape[:-1], weight.shape[0])
        self.saved = (
            x if self.needs[1] else None,
            weight if self.needs[0] else None,
            y if self.relu and any(self.needs) else None,
        )
        return y

    def backward(self, grad: Array) -> Grads:
        x, weight, y = self.saved
        kernels = backend.of(grad)
        if self.relu:
            grad = kernels.relu_backward(grad, y)
        rows = grad if grad.ndim == 2 else grad.reshape(-1, grad.shape[-1])
        grad_x = grad_weight = grad_bias = None
        if self.needs[1]:
            inputs = x if x.ndim == 2 else x.reshape(-1, x.shape[-1])
            grad_weight = kernels.matmul(rows.T, inputs, self.out.get(1) if self.out else None)
        if self.needs[2]:
            grad_bias = kernels.sum_to_channels(rows)
        if self.needs[0]:
            grad_x = kernels.matmul(rows, weight)
            if grad.ndim != 2:
                grad_x = grad_x.reshape(*grad.shape[:-1], grad_x.shape[-1])
        return grad_x, grad_weight, grad_bias
