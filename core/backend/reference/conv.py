"""Convolution in plain array code: the oracle and the fallback.

Forward gathers windows as a strided view and contracts them with the weight; the gradient for
the input scatters with one strided addition per kernel position.
"""

from __future__ import annotations

import itertools
from typing import Any

from ..protocol import Array, Dims, output_size


class ConvKernels:
    """Kernels `conv_*` of the backend protocol on the array module `xp`."""

    xp: Any

    def _windows(
        self, x: Array, kernel: Dims, out: Dims, stride: Dims, padding: Dims, dilation: Dims
    ) -> Array:
        """View (N, C, *out, *kernel) of x padded with zeros."""
        xp = self.xp
        if any(padding):
            x = xp.pad(x, ((0, 0), (0, 0), *((p, p) for p in padding)))
        spatial = x.strides[2:]
        strides = (
            *x.strides[:2],
            *(s * t for s, t in zip(spatial, stride, strict=True)),
            *(s * d for s, d in zip(spatial, dilation, strict=True)),
        )
        shape = (*x.shape[:2], *out, *kernel)
        return xp.lib.stride_tricks.as_strided(x, shape, strides)

    def conv_forward(
        self,
        x: Array,
        weight: Array,
        bias: Array | None,
        stride: Dims,
        padding: Dims,
        dilation: Dims,
        groups: int,
        activation: str | None = None,
    ) -> Array:
        xp, kernel = self.xp, weight.shape[2:]
        out = tuple(
            output_size(*a)
            for a in zip(x.shape[2:], kernel, stride, padding, dilation, strict=True)
        )
        windows = self._windows(x, kernel, out, stride, padding, dilation)
        d, per_group = len(kernel), x.shape[1] // groups
        outputs = weight.shape[0] // groups
        parts = []
        for g in range(groups):
            xg = windows[:, g * per_group : (g + 1) * per_group]
            wg = weight[g * outputs : (g + 1) * outputs]
            axes = (1, *range(2 + d, 2 + 2 * d))
            parts.append(xp.tensordot(xg, wg, axes=(axes, tuple(range(1, 2 + d)))))
        y = parts[0] if groups == 1 else xp.concatenate(parts, axis=-1)
        if bias is not None:
            y = y + bias
        if activation == "relu":
            y = xp.maximum(y, 0)
        return xp.moveaxis(y, -1, 1)

    def conv_backward_input(
        self,
        grad_y: Array,
        weight: Array,
        x_shape: Dims,
        stride: Dims,
        padding: Dims,
        dilation: Dims,
        groups: int,
    ) -> Array:
        xp, kernel = self.xp, weight.shape[2:]
        out = grad_y.shape[2:]
        per_group, outputs = x_shape[1] // groups, weight.shape[0] // groups
        # Room for every position that a window touches; floor mode may leave a tail untouched.
        padded = tuple(
            max(s + 2 * p, (o - 1) * t + d * (k - 1) + 1)
            for s, p, o, t, d, k in zip(
                x_shape[2:], padding, out, stride, dilation, kernel, strict=True
            )
        )
        grad = xp.zeros((*x_shape[:2], *padded), dtype=grad_y.dtype)
        for position in itertools.product(*(range(k) for k in kernel)):
            where = tuple(
                slice(q * d, q * d + (o - 1) * t + 1, t)
                for q, d, o, t in zip(position, dilation, out, stride, strict=True)
            )
            for g in range(groups):
                tap: Any = (slice(g * outputs, (g + 1) * outputs), slice(None), *position)
                wg = weight[tap]
                gg = grad_y[:, g * outputs : (g + 1) * outputs]
                part = xp.moveaxis(xp.tensordot(gg, wg, axes=((1,), (0,))), -1, 1)
                grad[(slice(None), slice(g * per_group, (g + 1) * per_group), *where)] += part
        inner = tuple(slice(p, p + s) for p, s in zip(padding, x_shape[2:], strict=True))
        return grad[(slice(None), slice(None), *inner)]

    def conv_backward_weight(
        self,
        grad_y: Array,
        x: Array,
        weight_shape: Dims,
        stride: Dims,
        padding: Dims,
        dilation: Dims,
        groups: int,
        with_bias: bool,
        out: Array | None = None,
    ) -> tuple[Array, Array | None]:
        xp, kernel, d = self.xp, weight_shape[2:], len(weight_shape) - 2
        windows = self._windows(x, kernel, grad_y.shape[2:], stride, padding, dilation)
        per_group, outputs = weight_shape[1], weight_shape[0] // groups
        grad_weight = xp.empty(weight_shape, dtype=grad_y.dtype) if out is None else out
        axes = (0, *range(2, 2 + d))
        for g in range(groups):
            gg = grad_y[:, g * outputs : (g + 1) * outputs]
            xg = windows[:, g * per_group : (g + 1) * per_group]
            grad_weight[g * outputs : (g + 1) * outputs] = xp.tensordot(gg, xg, axes=(axes, axes))
        return grad_weight, self.sum_to_channels(grad_y) if with_bias else None

    def sum_to_channels(self, grad_y: Array) -> Array:
        return grad_y.sum(axis=(0, *range(2, grad_y.ndim)))
