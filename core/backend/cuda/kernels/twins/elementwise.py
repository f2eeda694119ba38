"""Twins of `elementwise.cu`."""

from __future__ import annotations

import math

import numpy as np

from ....error_function import erf
from ....protocol import Array
from .arrays import named, wide

_SQRT_2_PI = math.sqrt(2 / math.pi)


def relu_forward(x: Array, y: Array, n: int) -> None:
    y[:n] = np.maximum(wide(x[:n]), 0)


def relu_backward(grad_y: Array, y: Array, grad_x: Array, n: int) -> None:
    grad_x[:n] = np.where(wide(y[:n]) > 0, wide(grad_y[:n]), 0)


def add_relu_forward(a: Array, b: Array, y: Array, n: int) -> None:
    y[:n] = np.maximum(wide(a[:n]) + wide(b[:n]), 0)


def _sigmoid(x: Array) -> Array:
    return 1 / (1 + np.exp(-x))


def sigmoid_forward(x: Array, y: Array, n: int) -> None:
    y[:n] = _sigmoid(wide(x[:n]))


def sigmoid_backward(grad_y: Array, kept: Array, grad_x: Array, n: int) -> None:
    y = wide(kept[:n])
    grad_x[:n] = wide(grad_y[:n]) * (y * (1 - y))


def tanh_forward(x: Array, y: Array, n: int) -> None:
    y[:n] = np.tanh(wide(x[:n]))


def tanh_backward(grad_y: Array, kept: Array, grad_x: Array, n: int) -> None:
    y = wide(kept[:n])
    grad_x[:n] = wide(grad_y[:n]) * (1 - y * y)


def silu_forward(x: Array, y: Array, n: int) -> None:
    v = wide(x[:n])
    y[:n] = v * _sigmoid(v)


def silu_backward(grad_y: Array, kept: Array, grad_x: Array, n: int) -> None:
    x = wide(kept[:n])
    s = _sigmoid(x)
    grad_x[:n] = wide(grad_y[:n]) * (s * (1 + x * (1 - s)))


def gelu_forward(x: Array, y: Array, n: int) -> None:
    v = wide(x[:n])
    y[:n] = 0.5 * v * (1 + erf(v * math.sqrt(0.5)))


def gelu_backward(grad_y: Array, kept: Array, grad_x: Array, n: int) -> None:
    x = wide(kept[:n])
    slope = 0.5 * (1 + erf(x * math.sqrt(0.5)))
    slope += x / math.sqrt(2 * math.pi) * np.exp(-0.5 * x * x)
    grad_x[:n] = wide(grad_y[:n]) * slope


def gelu_tanh_forward(x: Array, y: Array, n: int) -> None:
    v = wide(x[:n])
    y[:n] = v * _sigmoid(2 * _SQRT_2_PI * (v + 0.044715 * v**3))


def gelu_tanh_backward(grad_y: Array, kept: Array, grad_x: Array, n: int) -> None:
    x = wide(kept[:n])
    s = _sigmoid(2 * _SQRT_2_PI * (x + 0.044715 * x**3))
    slope = _SQRT_2_PI * (1 + 3 * 0.044715 * x * x)
    grad_x[:n] = wide(grad_y[:n]) * (s + 2 * x * s * (1 - s) * slope)


TWINS = named(
    relu_forward, relu_backward, add_relu_forward, sigmoid_forward, sigmoid_backward, tanh_forward,
    tanh_backward, silu_forward, silu_backward, gelu_forward, gelu_backward, gelu_tanh_forward,
    gelu_tanh_backward,
)  # fmt: skip
