"""Pooling over 1 to 3 spatial dimensions."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from .. import backend
from ..backend import Array, Dims
from .base import Op
from .elementwise import Grads


class MaxPool(Op):
    """Maximum of each window."""

    takes_half = True

    def __init__(
        self, kernel: Dims, stride: Dims, padding: Dims, dilation: Dims, ceil_mode: bool
    ) -> None:
        self.geometry = (kernel, stride, padding, dilation)
        self.ceil_mode = ceil_mode

    def forward(self, x: Array) -> Array:
        y, workspace = backend.of(x).max_pool_forward(x, *self.geometry, self.ceil_mode)
        if self.needs[0]:
            self.saved = (workspace,)
            self.x_shape = x.shape
        return y

    def backward(self, grad: Array) -> Grads:
        (workspace,) = self.saved
        kernels = backend.of(grad)
        return (kernels.max_pool_backward(grad, workspace, self.x_shape, *self.geometry),)


class AvgPool(Op):
    """Mean of each window."""

    takes_half = True

    def __init__(
        self,
        kernel: Dims,
        stride: Dims,
        padding: Dims,
        ceil_mode: bool = False,
        count_include_pad: bool = True,
    ) -> None:
        self.settings = (kernel, stride, padding, ceil_mode, count_include_pad)

    def forward(self, x: Array) -> Array:
        self.x_shape = x.shape
        return backend.of(x).avg_pool_forward(x, *self.settings)

    def backward(self, grad: Array) -> Grads:
        return (backend.of(grad).avg_pool_backward(grad, self.x_shape, *self.settings),)


def windows(shape: Dims, output_size: Dims) -> Iterator[tuple[Any, Any]]:
    """(index of the output, index of its window) of every adaptive window."""
    spans = [
        [(i * s // n, -(-(i + 1) * s // n)) for i in range(n)]
        for s, n in zip(shape, output_size, strict=True)
    ]
    for index in np.ndindex(*output_size):
        window = tuple(slice(*spans[d][i]) for d, i in enumerate(index))
        yield (..., *index), (..., *window)


class AdaptivePool(Op):
    """Mean or maximum over windows that split each dimension as evenly as possible.

    Window i of n over a dimension of size s spans floor(i*s/n) to ceil((i+1)*s/n).
    Source: PyTorch manual, AdaptiveAvgPool2d.
    """

    def __init__(self, output_size: Dims, maximum: bool) -> None:
        self.output_size, self.maximum = output_size, maximum

    def forward(self, x: Array) -> Array:
        y = np.empty((*x.shape[:2], *self.output_size), x.dtype, like=x)
        axes = tuple(range(2, x.ndim))
        for where, window in windows(x.shape[2:], self.output_size):
            y[where] = x[window].max(axis=axes) if self.maximum else x[window].mean(axis=axes)
        self.x_shape = x.shape
        if self.needs[0] and self.maximum:
            self.saved = (x, y)
        return y

    def backward(self, grad: Array) -> Grads:
        grad_x = np.zeros(self.x_shape, grad.dtype, like=grad)
        shape = (*self.x_shape[:2],) + (1,) * (len(self.x_shape) - 2)
        for where, window in windows(self.x_shape[2:], self.output_size):
            part = grad[where].reshape(shape)
            if self.maximum:
                x, y = self.saved
                grad_x[window] += part * _first(x[window], y[where].reshape(shape))
            else:
                size = np.prod([s.stop - s.start for s in window[1:]], dtype=grad.dtype)
                grad_x[window] += part / size
        return (grad_x,)


def _first(x: Array, top: Array) -> Array:
    """1 at the first element of each (n, c) plane that equals `top`, else 0."""
    flat = (x == top).reshape(*x.shape[:2], -1)
    hit = np.zeros(flat.shape, x.dtype, like=x)
    np.put_along_axis(hit, flat.argmax(axis=2)[..., None], 1, axis=2)
    return hit.reshape(x.shape)
