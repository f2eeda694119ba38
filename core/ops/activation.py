"""Activation functions. Source of the formulas: PyTorch manual, "Non-linear Activations"."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from .. import backend
from ..backend import Array
from ..backend.error_function import erf
from .base import Op
from .elementwise import FromInput, Grads


class ReLU(Op):
    """max(x, 0); the gradient at 0 is 0."""

    takes_half = True

    def forward(self, x: Array) -> Array:
        y = backend.of(x).relu_forward(x)
        if self.needs[0]:
            self.saved = (y,)
        return y

    def backward(self, grad: Array) -> Grads:
        (y,) = self.saved
        return (backend.of(grad).relu_backward(grad, y),)


class AddActivations(Op):
    """a + b of equal shapes, where a ReLU may follow; see Note [Pending outputs]."""

    takes_half = True
    deferred: Any = None

    def __init__(self, relu: bool = False) -> None:
        self.relu = relu

    def with_relu(self) -> AddActivations:
        """The op that also applies the ReLU."""
        return AddActivations(relu=True)

    def forward(self, a: Array, b: Array) -> Array:
        if not self.relu:
            return a + b
        y = backend.of(a).add_relu_forward(a, b)
        if any(self.needs):
            self.saved = (y,)
        return y

    def backward(self, grad: Array) -> Grads:
        if self.relu:
            (y,) = self.saved
            grad = backend.of(grad).relu_backward(grad, y)
        return grad, grad


class Sigmoid(Op):
    """1 / (1 + e**-x), without overflow."""

    takes_half_on_gpu = True

    def forward(self, x: Array) -> Array:
        y = sigmoid(x)
        if self.needs[0]:
            self.saved = (y,)
        return y

    def backward(self, grad: Array) -> Grads:
        (y,) = self.saved
        return (backend.of(grad).sigmoid_backward(grad, y),)


def sigmoid(x: Array) -> Array:
    """1 / (1 + e**-x), without overflow."""
    return backend.of(x).sigmoid_forward(x)


class LogSigmoid(FromInput):
    """log(sigmoid(x)), without overflow."""

    def value(self, x: Array) -> Array:
        return np.minimum(x, 0) - np.log1p(np.exp(-np.abs(x)))

    def derivative(self, x: Array) -> Array:
        return sigmoid(-x)


class LeakyReLU(FromInput):
    """x where positive, else slope * x."""

    def __init__(self, slope: float) -> None:
        self.slope = slope

    def value(self, x: Array) -> Array:
        return np.where(x > 0, x, self.slope * x)

    def derivative(self, x: Array) -> Array:
        return np.where(x > 0, x.dtype.type(1), x.dtype.type(self.slope))


class PReLU(Op):
    """x where positive, else weight * x, one weight for all or one per channel."""

    def forward(self, x: Array, weight: Array) -> Array:
        self.saved = (x, weight)
        return np.where(x > 0, x, self._spread(x, weight) * x)

    @staticmethod
    def _spread(x: Array, weight: Array) -> Array:
        return weight if weight.size == 1 else weight.reshape(-1, *(1,) * (x.ndim - 2))

    def backward(self, grad: Array) -> Grads:
        x, weight = self.saved
        grad_x = grad_w = None
        if self.needs[0]:
            grad_x = np.where(x > 0, grad, self._spread(x, weight) * grad)
        if self.needs[1]:
            part = grad * np.minimum(x, 0)
            axes = tuple(i for i in range(x.ndim) if weight.size == 1 or i != 1)
            grad_w = part.sum(axis=axes).reshape(weight.shape)
        return grad_x, grad_w


class ELU(FromInput):
    """scale * (x where positive, else alpha * (e**(x * rate) - 1)); also SELU and CELU."""

    def __init__(self, alpha: float, scale: float = 1.0, rate: float = 1.0) -> None:
        self.alpha, self.scale, self.rate = alpha, scale, rate

    def value(self, x: Array) -> Array:
        low = self.alpha * np.expm1(np.minimum(x, 0) * self.rate)
        return self.scale * np.where(x > 0, x, low)

    def derivative(self, x: Array) -> Array:
        low = self.alpha * self.rate * np.exp(np.minimum(x, 0) * self.rate)
        return self.scale * np.where(x > 0, x.dtype.type(1), low)


class GELU(Op):
    """x * Phi(x), exactly by erf or by its tanh approximation (Hendrycks & Gimpel 2016)."""

    takes_half_on_gpu = True

    def __init__(self, approximate: str) -> None:
        self.approximate = approximate

    def forward(self, x: Array) -> Array:
        if self.needs[0]:
            self.saved = (x,)
        return backend.of(x).gelu_forward(x, self.approximate)

    def backward(self, grad: Array) -> Grads:
        (x,) = self.saved
        return (backend.of(grad).gelu_backward(grad, x, self.approximate),)


class SiLU(Op):
    """x * sigmoid(x)."""

    takes_half_on_gpu = True

    def forward(self, x: Array) -> Array:
        if self.needs[0]:
            self.saved = (x,)
        return backend.of(x).silu_forward(x)

    def backward(self, grad: Array) -> Grads:
        (x,) = self.saved
        return (backend.of(grad).silu_backward(grad, x),)


class Softplus(FromInput):
    """log(1 + e**(beta * x)) / beta; x itself where beta * x exceeds the threshold."""

    def __init__(self, beta: float, threshold: float) -> None:
        self.beta, self.threshold = beta, threshold

    def value(self, x: Array) -> Array:
        z = self.beta * x
        soft = (np.maximum(z, 0) + np.log1p(np.exp(-np.abs(z)))) / self.beta
        return np.where(z > self.threshold, x, soft)

    def derivative(self, x: Array) -> Array:
        z = self.beta * x
        return np.where(z > self.threshold, x.dtype.type(1), sigmoid(z))


class Erf(FromInput):
    """The error function."""

    def value(self, x: Array) -> Array:
        return erf(x)

    def derivative(self, x: Array) -> Array:
        return 2 / math.sqrt(math.pi) * np.exp(-x * x)
