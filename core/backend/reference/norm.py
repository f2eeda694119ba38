"""Batch, layer and group normalisation in plain array code: the oracle and the fallback.

Statistics of half-precision input are computed in float32, all else in the input's own dtype.
Source: Ioffe & Szegedy 2015 (batch norm), Ba et al. 2016 (layer norm), Wu & He 2018 (group norm).
"""

from __future__ import annotations

import math
from typing import Any

from .. import half
from ..protocol import Array, Dims, broadcast_channels


class NormKernels:
    """Kernels `*_norm_*` of the backend protocol on the array module `xp`."""

    xp: Any

    def _wide(self, x: Array) -> Array:
        return x.astype(self.xp.float32) if x.dtype.itemsize < 4 else x

    def batch_norm_forward(
        self,
        x: Array,
        weight: Array | None,
        bias: Array | None,
        eps: float,
        activation: str | None = None,
    ) -> tuple[Array, Array, Array, Any]:
        axes = _all_but_channels(x)
        wide = self._wide(x)
        mean = _mean(wide, axes)
        centred = wide - broadcast_channels(mean, x.ndim)
        var = _mean(centred * centred, axes)
        y = self.batch_norm_inference(x, weight, bias, mean, var, eps, activation)
        return y, mean, var, (y > 0 if activation == "relu" else None)

    def batch_norm_backward(
        self,
        grad_y: Array,
        x: Array,
        weight: Array | None,
        mean: Array,
        var: Array,
        eps: float,
        saved: Any,
        activation: str | None = None,
    ) -> tuple[Array, Array, Array]:
        axes, ndim = _all_but_channels(x), x.ndim
        grad = self._wide(grad_y if activation is None else grad_y * saved)
        rstd = 1 / self.xp.sqrt(var + eps)
        normalised = (self._wide(x) - broadcast_channels(mean, ndim)) * broadcast_channels(
            rstd, ndim
        )
        grad_bias = grad.sum(axis=axes)
        grad_weight = (grad * normalised).sum(axis=axes)
        count = max(x.size // max(x.shape[1], 1), 1)
        scale = rstd if weight is None else rstd * weight
        grad_x = broadcast_channels(scale, ndim) * (
            grad
            - broadcast_channels(grad_bias / count, ndim)
            - normalised * broadcast_channels(grad_weight / count, ndim)
        )
        return grad_x.astype(x.dtype, copy=False), grad_weight, grad_bias

    @half.serves_halves
    def batch_norm_running(
        self,
        running_mean: Array,
        running_var: Array,
        mean: Array,
        var: Array,
        momentum: float,
        count: int,
    ) -> None:
        unbiased = var * (count / (count - 1))
        for running, now in ((running_mean, mean), (running_var, unbiased)):
            running *= 1 - momentum
            running += (momentum * now).astype(running.dtype, copy=False)

    def batch_norm_inference(
        self,
        x: Array,
        weight: Array | None,
        bias: Array | None,
        mean: Array,
        var: Array,
        eps: float,
        activation: str | None = None,
    ) -> Array:
        scale = 1 / self.xp.sqrt(var + eps)
        if weight is not None:
            scale = scale * weight
        y = (self._wide(x) - broadcast_channels(mean, x.ndim)) * broadcast_channels(scale, x.ndim)
        if bias is not None:
            y += broadcast_channels(bias, x.ndim)
        if activation == "relu":
            self.xp.maximum(y, 0, out=y)
        return y.astype(x.dtype, copy=False)

    def layer_norm_forward(
        self, x: Array, axes_count: int, weight: Array | None, bias: Array | None, eps: float
    ) -> tuple[Array, Array, Array]:
        axes = tuple(range(x.ndim - axes_count, x.ndim))
        normalised, mean, rstd = self._normalise(self._wide(x), axes, eps)
        y = _affine(normalised, weight, bias)
        return y.astype(x.dtype, copy=False), mean, rstd

    def layer_norm_backward(
        self,
        grad_y: Array,
        x: Array,
        axes_count: int,
        weight: Array | None,
        mean: Array,
        rstd: Array,
    ) -> tuple[Array, Array | None, Array | None]:
        axes = tuple(range(x.ndim - axes_count, x.ndim))
        leading = tuple(range(x.ndim - axes_count))
        grad = self._wide(grad_y)
        normalised = (self._wide(x) - mean) * rstd
        grad_weight = (grad * normalised).sum(axis=leading)
        grad_bias = grad.sum(axis=leading)
        inner = grad if weight is None else grad * weight
        grad_x = _normalise_backward(inner, normalised, rstd, axes)
        return grad_x.astype(x.dtype, copy=False), grad_weight, grad_bias

    def rms_norm_forward(
        self, x: Array, axes_count: int, weight: Array | None, eps: float
    ) -> tuple[Array, Array]:
        xp = self.xp
        rows = _as_rows(x, axes_count)
        mean = xp.einsum("ij,ij->i", rows, rows) / max(rows.shape[1], 1)
        rstd = (1 / xp.sqrt(mean + eps)).astype(x.dtype, copy=False)[:, None]
        y = rows * rstd
        if weight is not None:
            y *= weight.reshape(-1)
        return y.reshape(x.shape), rstd

    def rms_norm_backward(
        self,
        grad_y: Array,
        x: Array,
        axes_count: int,
        weight: Array | None,
        rstd: Array,
        needs: tuple[bool, ...],
    ) -> tuple[Array | None, Array | None]:
        xp = self.xp
        rows, grads = _as_rows(x, axes_count), _as_rows(grad_y, axes_count)
        grad_weight = None
        if needs[1] and weight is not None:
            grad_weight = xp.einsum("ij,ij->j", grads, rows * rstd).reshape(weight.shape)
        if not needs[0]:
            return None, grad_weight
        inner = grads if weight is None else grads * weight.reshape(-1)
        along = xp.einsum("ij,ij->i", inner, rows)[:, None] / rows.shape[1]
        grad_x = inner * rstd - rows * (along * rstd**3)
        return grad_x.reshape(x.shape), grad_weight

    def group_norm_forward(
        self, x: Array, num_groups: int, weight: Array | None, bias: Array | None, eps: float
    ) -> tuple[Array, Array, Array]:
        grouped = self._wide(x).reshape(_grouped(x.shape, num_groups))
        normalised, mean, rstd = self._normalise(grouped, (2, 3), eps)
        normalised = normalised.reshape(x.shape)
        y = _affine(
            normalised,
            None if weight is None else broadcast_channels(weight, x.ndim),
            None if bias is None else broadcast_channels(bias, x.ndim),
        )
        return y.astype(x.dtype, copy=False), mean[:, :, 0, 0], rstd[:, :, 0, 0]

    def group_norm_backward(
        self,
        grad_y: Array,
        x: Array,
        num_groups: int,
        weight: Array | None,
        mean: Array,
        rstd: Array,
    ) -> tuple[Array, Array | None, Array | None]:
        shape = _grouped(x.shape, num_groups)
        mean, rstd = mean[:, :, None, None], rstd[:, :, None, None]
        grad = self._wide(grad_y)
        normalised = (self._wide(x).reshape(shape) - mean) * rstd
        axes = _all_but_channels(x)
        grad_weight = (grad * normalised.reshape(x.shape)).sum(axis=axes)
        grad_bias = grad.sum(axis=axes)
        inner = grad if weight is None else grad * broadcast_channels(weight, x.ndim)
        grad_x = _normalise_backward(inner.reshape(shape), normalised, rstd, (2, 3))
        return grad_x.reshape(x.shape).astype(x.dtype, copy=False), grad_weight, grad_bias

    def _normalise(self, x: Array, axes: Dims, eps: float) -> tuple[Array, Array, Array]:
        mean = _mean(x, axes, keepdims=True)
        centred = x - mean
        rstd = 1 / self.xp.sqrt(_mean(centred * centred, axes, keepdims=True) + eps)
        return centred * rstd, mean, rstd


def _all_but_channels(x: Array) -> Dims:
    return (0, *range(2, x.ndim))


def _mean(x: Array, axes: Dims, keepdims: bool = False) -> Array:
    """Mean that is 0, not NaN with a warning, over no elements (empty batch)."""
    count = math.prod(x.shape[axis] for axis in axes)
    return x.sum(axis=axes, keepdims=keepdims) / max(count, 1)


def _affine(x: Array, weight: Array | None, bias: Array | None) -> Array:
    if weight is not None:
        x = x * weight
    return x if bias is None else x + bias


def _as_rows(x: Array, axes_count: int) -> Array:
    """x as (rows, elements of the last axes)."""
    leading = x.ndim - axes_count
    return x.reshape(math.prod(x.shape[:leading]), math.prod(x.shape[leading:]))


def _grouped(shape: Dims, num_groups: int) -> Dims:
    """(N, C, *S) as (N, G, C/G, prod S)."""
    return (shape[0], num_groups, shape[1] // num_groups, math.prod(shape[2:]))


def _normalise_backward(grad: Array, normalised: Array, rstd: Array, axes: Dims) -> Array:
    """Gradient of (x - mean) * rstd, where `grad` is the gradient of the result."""
    along = _mean(grad * normalised, axes, keepdims=True)
    return (grad - _mean(grad, axes, keepdims=True) - normalised * along) * rstd
