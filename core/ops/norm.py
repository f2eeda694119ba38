"""Normalisation: batch, layer, group (instance norm is group norm with one channel a group)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from .. import backend
from ..backend import Array
from .base import Op
from .elementwise import Grads


class BatchNorm(Op):
    """Training batch norm (x, weight, bias); a following ReLU may be absorbed.

    Args:
        eps: added to the variance.
        observe: called once with (mean, biased variance, elements per channel), to update the
            running statistics.
    """

    takes_half = True
    fresh_grads = True
    deferred: Any = None

    def __init__(self, eps: float, observe: Callable[..., None] | None, relu: bool = False) -> None:
        self.eps, self.observe, self.relu = eps, observe, relu
        self.observed = [False]  # shared with the fused twin: statistics count once

    def with_relu(self) -> BatchNorm:
        """The op that also applies the ReLU."""
        twin = BatchNorm(self.eps, self.observe, relu=True)
        twin.observed = self.observed
        return twin

    def forward(self, x: Array, weight: Array | None, bias: Array | None) -> Array:
        activation = "relu" if self.relu else None
        y, mean, var, kept = backend.of(x).batch_norm_forward(x, weight, bias, self.eps, activation)
        if self.observe is not None and not self.observed[0]:
            self.observed[0] = True
            self.observe(mean, var, x.size // x.shape[1])
        if any(self.needs):
            # The bias tells a second derivative where the ReLU passed.
            self.saved = (x, weight, mean, var, kept, bias if self.relu else None)
        return y

    def backward(self, grad: Array) -> Grads:
        x, weight, mean, var, kept, _ = self.saved
        activation = "relu" if self.relu else None
        return backend.of(grad).batch_norm_backward(
            grad, x, weight, mean, var, self.eps, kept, activation
        )


class BatchNormInference(Op):
    """Batch norm with given statistics (x, weight, bias); they are constants of the op.

    Args:
        mean, var: one value per channel, in memory of their own: the op may run later.
    """

    takes_half = True
    deferred: Any = None

    def __init__(self, mean: Array, var: Array, eps: float, relu: bool = False) -> None:
        self.mean, self.var, self.eps, self.relu = mean, var, eps, relu

    def with_relu(self) -> BatchNormInference:
        """The op that also applies the ReLU."""
        return BatchNormInference(self.mean, self.var, self.eps, relu=True)

    def forward(self, x: Array, weight: Array | None, bias: Array | None) -> Array:
        activation = "relu" if self.relu else None
        y = backend.of(x).batch_norm_inference(
            x, weight, bias, self.mean, self.var, self.eps, activation
        )
        if any(self.needs):
            self.saved = (x, weight, y if self.relu else None)
        return y

    def backward(self, grad: Array) -> Grads:
        x, weight, y = self.saved
        mean, var = self.mean, self.var
        kernels = backend.of(grad)
        if self.relu:
            grad = kernels.relu_backward(grad, y)
        across = (-1, *(1,) * (x.ndim - 2))
        rstd = ((var + self.eps) ** -0.5).astype(x.dtype, copy=False)
        scale = rstd if weight is None else rstd * weight
        grad_x = grad * scale.reshape(across) if self.needs[0] else None
        grad_weight = grad_bias = None
        if self.needs[1]:
            grad_weight = kernels.sum_to_channels(
                grad * ((x - mean.reshape(across)) * rstd.reshape(across))
            )
        if self.needs[2]:
            grad_bias = kernels.sum_to_channels(grad)
        return grad_x, grad_weight, grad_bias


class LayerNorm(Op):
    """Normalise over the last `axes_count` axes (x, weight, bias)."""

    takes_half_on_gpu = True

    def __init__(self, axes_count: int, eps: float) -> None:
        self.axes_count, self.eps = axes_count, eps

    def forward(self, x: Array, weight: Array | None, bias: Array | None) -> Array:
        y, mean, rstd = backend.of(x).layer_norm_forward(x, self.axes_count, weight, bias, self.eps)
        if any(self.needs):
            self.saved = (x, weight, mean, rstd)
        return y

    def backward(self, grad: Array) -> Grads:
        x, weight, mean, rstd = self.saved
        return backend.of(grad).layer_norm_backward(grad, x, self.axes_count, weight, mean, rstd)


class GroupNorm(Op):
    """Normalise over groups of channels and all positions (x, weight, bias)."""

    takes_half_on_gpu = True

    def __init__(self, num_groups: int, eps: float) -> None:
        self.num_groups, self.eps = num_groups, eps

    def forward(self, x: Array, weight: Array | None, bias: Array | None) -> Array:
        y, mean, rstd = backend.of(x).group_norm_forward(x, self.num_groups, weight, bias, self.eps)
        if any(self.needs):
            self.saved = (x, weight, mean, rstd)
        return y

    def backward(self, grad: Array) -> Grads:
        x, weight, mean, rstd = self.saved
        return backend.of(grad).group_norm_backward(grad, x, self.num_groups, weight, mean, rstd)
