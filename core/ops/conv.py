"""Convolution and transposed convolution over 1 to 3 spatial dimensions.

The transposed one is the gradient of the other for its input, so both use the same three kernels.
"""

from __future__ import annotations

from typing import Any

from .. import backend
from ..backend import Array, Dims
from .base import Op
from .elementwise import Grads


class Conv(Op):
    """Cross-correlation (x, weight, bias); a following ReLU may be absorbed."""

    takes_half = True
    fresh_grads = True
    writes_out = (1,)
    deferred: Any = None

    def __init__(
        self, stride: Dims, padding: Dims, dilation: Dims, groups: int, relu: bool = False
    ) -> None:
        self.geometry = (stride, padding, dilation, groups)
        self.relu = relu

    def with_relu(self) -> Conv:
        """The op that also applies the ReLU."""
        return Conv(*self.geometry, relu=True)

    def forward(self, x: Array, weight: Array, bias: Array | None) -> Array:
        activation = "relu" if self.relu else None
        y = backend.of(x).conv_forward(x, weight, bias, *self.geometry, activation)
        if any(self.needs):
            self.saved = (
                x if self.needs[1] else None,
                weight,
                y if self.relu else None,
            )
            self.x_shape = x.shape
        return y

    def backward(self, grad: Array) -> Grads:
        x, weight, y = self.saved
        kernels = backend.of(grad)
        if self.relu:
            grad = kernels.relu_backward(grad, y)
        grad_x = grad_weight = grad_bias = None
        if self.needs[1]:
            grad_weight, grad_bias = kernels.conv_backward_weight(
                grad,
                x,
                weight.shape,
                *self.geometry,
                self.needs[2],
                self.out.get(1) if self.out else None,
            )
        elif self.needs[2]:
            grad_bias = kernels.sum_to_channels(grad)
        if self.needs[0]:
            grad_x = kernels.conv_backward_input(grad, weight, self.x_shape, *self.geometry)
        return grad_x, grad_weight, grad_bias


class ConvTranspose(Op):
    """Transposed convolution (x, weight, bias): weight is (C, O/groups, *K).

    Args:
        out_shape: spatial sizes of the result; `output_padding` has been worked in.
    """

    fresh_grads = True
    writes_out = (1,)

    def __init__(
        self, stride: Dims, padding: Dims, dilation: Dims, groups: int, out_shape: Dims
    ) -> None:
        self.geometry = (stride, padding, dilation, groups)
        self.out_shape = out_shape

    def forward(self, x: Array, weight: Array, bias: Array | None) -> Array:
        groups = self.geometry[3]
        shape = (x.shape[0], weight.shape[1] * groups, *self.out_shape)
        y = backend.of(x).conv_backward_input(x, weight, shape, *self.geometry)
        if bias is not None:
            y = y + bias.reshape(-1, *(1,) * len(self.out_shape))
        self.saved = (x if self.needs[1] else None, weight)
        return y

    def backward(self, grad: Array) -> Grads:
        x, weight = self.saved
        kernels = backend.of(grad)
        grad_x = grad_weight = grad_bias = None
        if self.needs[1]:
            out = self.out.get(1) if self.out else None
            grad_weight, _ = kernels.conv_backward_weight(
                x, grad, weight.shape, *self.geometry, False, out
            )
        if self.needs[2]:
            grad_bias = kernels.sum_to_channels(grad)
        if self.needs[0]:
            grad_x = kernels.conv_forward(grad, weight, None, *self.geometry)
        return grad_x, grad_weight, grad_bias
