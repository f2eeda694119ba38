"""Batch, layer and group normalisation on the CPU through oneDNN.

Note [Non-finite values]: oneDNN's fused ReLU turns NaN into 0, which would hide a diverged
training. A NaN or infinity in a channel makes its mean or variance non-finite, and weight and bias
are as short: so the four vectors are checked, and a call with a non-finite value in them is served
by the reference.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..dtypes import is_half
from ..errors import Unsupported
from .cpu_base import F32, CpuBase, fast, require_elements
from .layout import channels_last_strides
from .onednn_plan import (
    ARG_DIFF_DST,
    ARG_DIFF_SCALE,
    ARG_DIFF_SHIFT,
    ARG_DIFF_SRC,
    ARG_DST,
    ARG_MEAN,
    ARG_SCALE,
    ARG_SHIFT,
    ARG_SRC,
    ARG_VARIANCE,
    ARG_WORKSPACE,
    QUERY_WORKSPACE,
    Plan,
)
from .protocol import Array

_FORWARD_TRAINING, _FORWARD_INFERENCE, _BACKWARD = 64, 96, 128
_USE_GLOBAL_STATS, _USE_SCALE, _USE_SHIFT, _FUSE_RELU = 1, 2, 4, 8


@dataclass(frozen=True, slots=True)
class _Mask:
    """oneDNN's workspace: which results of one forward call the fused ReLU let through."""

    workspace: Array
    of: np.dtype  # of the call's input


class CpuNorm(CpuBase):
    """Kernels `*_norm_*` of the backend protocol."""

    @fast
    def batch_norm_forward(
        self,
        x: Array,
        weight: Array | None,
        bias: Array | None,
        eps: float,
        activation: str | None = None,
    ) -> tuple[Array, Array, Array, Any]:
        dtype = self.element_type(x)
        key = ("batch_norm", x.itemsize, x.shape, x.strides, eps, activation)
        plan = self.plans.get(key)
        if plan is None:
            plan = self.plans.add(key, self._plan_batch_norm(x, eps, activation, True))
        y_strides, mask_nbytes = plan.meta
        channels = x.shape[1]
        y = np.ndarray(x.shape, dtype, None, 0, y_strides)
        mean, var = np.empty(channels, F32), np.empty(channels, F32)
        scale, shift = self._affine(weight, bias, channels)
        if activation is None:
            plan.run(x, scale, shift, mean, var, y)
            return y, mean, var, None
        mask = np.empty(mask_nbytes, np.uint8)
        plan.run(x, scale, shift, mean, var, y, mask)
        _require_finite(mean, var, scale, shift)
        return y, mean, var, _Mask(mask, dtype)

    @fast
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
        dtype = self.element_type(x)
        key = ("batch_norm_inference", x.itemsize, x.shape, x.strides, eps, activation)
        plan = self.plans.get(key)
        if plan is None:
            plan = self.plans.add(key, self._plan_batch_norm(x, eps, activation, False))
        y = np.ndarray(x.shape, dtype, None, 0, plan.meta[0])
        scale, shift = self._affine(weight, bias, x.shape[1])
        plan.run(x, scale, shift, _vector(mean), _vector(var), y)
        return y

    def _plan_batch_norm(
        self, x: Array, eps: float, activation: str | None, training: bool
    ) -> Plan:
        require_elements(x)
        plan, y_strides = self.new_plan(x.dtype), channels_last_strides(x.shape, x.itemsize)
        x = _with_space(x)
        flags = _USE_SCALE | _USE_SHIFT
        if not training:
            flags |= _USE_GLOBAL_STATS
        elif activation == "relu":
            flags |= _FUSE_RELU
        data, vector = plan.channels_last(x.shape), plan.vector(x.shape[1])
        kind = _describe(plan, data, eps, flags)
        arguments = {ARG_SRC: plan.activation(x)[1]}
        for argument in (ARG_SCALE, ARG_SHIFT, ARG_MEAN, ARG_VARIANCE):
            arguments[argument] = plan.external(vector)
        y = arguments[ARG_DST] = plan.external(data)
        nbytes = 0
        if flags & _FUSE_RELU:
            chosen = plan.query(kind, QUERY_WORKSPACE)
            nbytes = plan.nbytes(chosen)
            arguments[ARG_WORKSPACE] = plan.external(chosen)
        plan.call(kind, arguments)
        if activation == "relu" and not training:
            plan.relu(data, y, y)  # inference: NaN must come through
        plan.meta = (y_strides, nbytes)
        return plan

    @fast
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
        if activation is not None:
            if not isinstance(saved, _Mask):
                raise Unsupported("another kernel served the forward pass")
            grad_y, x = (a.astype(saved.of, copy=False) for a in (grad_y, x))
        dtype = self.element_type(grad_y, x)
        key = (
            "batch_norm_backward", x.itemsize, x.shape, x.strides, grad_y.strides, eps, activation,
        )  # fmt: skip
        plan = self.plans.get(key)
        if plan is None:
            plan = self.plans.add(key, self._plan_batch_norm_gradient(grad_y, x, eps, activation))
        channels = x.shape[1]
        grad_x = np.ndarray(x.shape, dtype, None, 0, plan.meta)
        grad_scale, grad_shift = np.empty(channels, F32), np.empty(channels, F32)
        scale, _ = self._affine(weight, None, channels)
        arrays = (x, grad_y, scale, _vector(mean), _vector(var), grad_x, grad_scale, grad_shift)
        if activation is None:
            plan.run(*arrays)
        else:
            plan.run(*arrays, saved.workspace)
        return grad_x, grad_scale, grad_shift

    def _plan_batch_norm_gradient(
        self, grad_y: Array, x: Array, eps: float, activation: str | None
    ) -> Plan:
        require_elements(x)
        plan = self.new_plan(x.dtype)
        plan.meta = channels_last_strides(x.shape, x.itemsize)
        x, grad_y = _with_space(x), _with_space(grad_y)
        flags = _USE_SCALE | _USE_SHIFT | (_FUSE_RELU if activation == "relu" else 0)
        data, vector = plan.channels_last(x.shape), plan.vector(x.shape[1])
        kind = plan.describe(
            "batch_normalization_backward", _BACKWARD, data, data, data, eps, flags,
            _describe(plan, data, eps, flags), plan.attributes(),
        )  # fmt: skip
        arguments = {ARG_SRC: plan.activation(x)[1], ARG_DIFF_DST: plan.activation(grad_y)[1]}
        for argument in (ARG_SCALE, ARG_MEAN, ARG_VARIANCE):
            arguments[argument] = plan.external(vector)
        arguments[ARG_DIFF_SRC] = plan.external(data)
        arguments[ARG_DIFF_SCALE] = plan.external(vector)
        arguments[ARG_DIFF_SHIFT] = plan.external(vector)
        if flags & _FUSE_RELU:
            arguments[ARG_WORKSPACE] = plan.external(plan.query(kind, QUERY_WORKSPACE))
        plan.call(kind, arguments)
        return plan

    def _affine(
        self, weight: Array | None, bias: Array | None, channels: int
    ) -> tuple[Array, Array]:
        scale = self._ones(channels) if weight is None else _vector(weight)
        return scale, self._zeros(channels) if bias is None else _vector(bias)


def _describe(plan: Plan, data: int, eps: float, flags: int) -> int:
    inference = flags & _USE_GLOBAL_STATS
    return plan.describe(
        "batch_normalization_forward", _FORWARD_INFERENCE if inference else _FORWARD_TRAINING,
        data, data, eps, flags, plan.attributes(),
    )  # fmt: skip


def _with_space(x: Array) -> Array:
    """(N, C) as (N, C, 1, 1) and (N, C, L) as (N, C, 1, L): oneDNN has no faster path for fewer."""
    if x.ndim == 2:
        return x[:, :, None, None]
    return x[:, :, None] if x.ndim == 3 else x


def _vector(array: Array) -> Array:
    """One float32 number for each channel, as oneDNN wants it for every type of x."""
    if array.dtype != F32:
        if not is_half(array.dtype):
            raise Unsupported(f"dtype {array.dtype}")
        return array.astype(F32)
    return array if array.flags.c_contiguous else np.ascontiguousarray(array)


def _require_finite(mean: Array, var: Array, scale: Array, shift: Array) -> None:
    # NaN and infinity survive a dot product; an overflow of it only costs the slow path.
    if not math.isfinite(float(var.dot(scale)) + float(mean.dot(shift))):
        raise Unsupported("non-finite values in the statistics or parameters")
