"""Convolution and its gradients on the CPU through oneDNN, for 1 to 3 spatial dimensions.

Activations are channels-last; weights are reordered at every call to the layout that oneDNN
prefers, because they change at every step, and the gradient for the weight back to plain OIHW.
"""

from __future__ import annotations

import numpy as np

from ..errors import Unsupported
from . import cpu_winograd
from .cpu_base import F32, CpuBase, fast, require_elements
from .layout import channels_last_strides
from .onednn import dims
from .onednn_plan import (
    ARG_BIAS,
    ARG_DIFF_BIAS,
    ARG_DIFF_DST,
    ARG_DIFF_SRC,
    ARG_DIFF_WEIGHTS,
    ARG_DST,
    ARG_SRC,
    ARG_WEIGHTS,
    QUERY_DIFF_WEIGHTS,
    QUERY_WEIGHTS,
    Plan,
)
from .protocol import Array, Dims, output_size

_FORWARD_TRAINING = 64
_DIRECT = 1
# Note [Choice of implementation]: oneDNN's first choice for channels-last float32 is its
# batched-matmul convolution ("brgconv"), which for few channels and for strided gradients takes up
# to three times as long as the older direct kernel (128x16x32x32 -> 32, 1x1 stride 2, gradient for
# the input, Zen 4: 1.38 ms against 0.44 ms). The choice depends on shapes only, never on timing, so
# that results are the same bits on every run.
_DIRECT_JIT = "jit:avx512_core"


class _Geometry:
    """Shapes and window parameters of one convolution, in oneDNN's terms."""

    def __init__(
        self,
        x_shape: Dims,
        weight_shape: Dims,
        stride: Dims,
        padding: Dims,
        dilation: Dims,
        groups: int,
    ) -> None:
        if not 1 <= len(stride) <= 3:
            raise Unsupported(f"{len(stride)} spatial dimensions")
        rows = zip(x_shape[2:], weight_shape[2:], stride, padding, dilation, strict=True)
        self.x_shape = x_shape
        self.y_shape = (x_shape[0], weight_shape[0], *(output_size(*row) for row in rows))
        if min(self.y_shape) < 1 or min(weight_shape) < 1:
            raise Unsupported("empty array")
        self.weight_shape = grouped(weight_shape, groups)
        windows = (stride, tuple(d - 1 for d in dilation), padding, padding)
        self.windows = tuple(dims(w) for w in windows)

        small = self.x_shape[1] % 16 != 0 or (max(stride) > 1 and self.x_shape[1] < 64)
        self.prefer_forward = _DIRECT_JIT if small and groups == 1 else None
        small = min(self.x_shape[1], weight_shape[0]) < 64
        self.prefer_input = _DIRECT_JIT if (small or max(stride) > 1) and groups == 1 else None

    def forward(self, plan: Plan, with_bias: bool) -> int:
        """Descriptor of the forward primitive; also the hint that both gradients need."""
        bias = plan.dense((self.y_shape[1],)) if with_bias else None
        return plan.describe(
            "convolution_forward", _FORWARD_TRAINING, _DIRECT,
            plan.channels_last(self.x_shape), plan.any(self.weight_shape), bias,
            plan.channels_last(self.y_shape), *self.windows, plan.attributes(),
            prefer=self.prefer_forward,
        )  # fmt: skip


def grouped(weight_shape: Dims, groups: int) -> Dims:
    """(O, I, *K) as oneDNN wants it: unchanged, or (G, O/G, I, *K)."""
    if groups == 1:
        return weight_shape
    return (groups, weight_shape[0] // groups, *weight_shape[1:])


class CpuConv(CpuBase):
    """Kernels `conv_*` of the backend protocol."""

    def _suits_winograd(
        self, array: Array, x_shape: Dims, w_shape: Dims, window: tuple[Dims, Dims, Dims, int]
    ) -> bool:
        # bfloat16 has too few bits for the transforms, and a direct sum of it is fast
        return self.winograd and array.dtype == F32 and cpu_winograd.suits(x_shape, w_shape, window)

    @fast
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
        key = (
            "conv_forward", x.itemsize, x.shape, x.strides, weight.shape, weight.strides,
            bias is None, stride, padding, dilation, groups, activation,
        )  # fmt: skip
        dtype = self.element_type(x, weight, bias, product=True)
        plan = self.plans.get(key)
        if plan is None:
            window = (stride, padding, dilation, groups)
            plan = self.plans.add(key, self._plan_forward(x, weight, bias, window, activation))
        y_shape, y_strides = plan.meta
        y = np.ndarray(y_shape, dtype, None, 0, y_strides)
        if bias is None:
            plan.run(x, weight, y)
        else:
            plan.run(x, weight, _vector(bias), y)
        return y

    def _plan_forward(
        self,
        x: Array,
        weight: Array,
        bias: Array | None,
        window: tuple[Dims, Dims, Dims, int],
        activation: str | None,
    ) -> Plan:
        plan, shape = self.new_plan(x.dtype), _Geometry(x.shape, weight.shape, *window)
        plan.meta = (shape.y_shape, channels_last_strides(shape.y_shape, x.itemsize))
        if self._suits_winograd(x, x.shape, weight.shape, window):
            cpu_winograd.build_forward(plan, x, weight, bias, activation)
            return plan
        descriptor = shape.forward(plan, bias is not None)
        _, source = plan.activation(x)
        weights = plan.input(
            weight.reshape(shape.weight_shape), plan.query(descriptor, QUERY_WEIGHTS)
        )
        arguments = {ARG_SRC: source, ARG_WEIGHTS: weights}
        if bias is not None:
            arguments[ARG_BIAS] = plan.external(plan.dense(bias.shape))
        y = arguments[ARG_DST] = plan.external(plan.channels_last(shape.y_shape))
        plan.call(descriptor, arguments)
        if activation == "relu":
            plan.relu(plan.channels_last(shape.y_shape), y, y)
        return plan

    @fast
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
        key = (
            "conv_backward_input", grad_y.itemsize, grad_y.shape, grad_y.strides, weight.shape,
            weight.strides, x_shape, stride, padding, dilation, groups,
        )  # fmt: skip
        dtype = self.element_type(grad_y, weight, product=True)
        plan = self.plans.get(key)
        if plan is None:
            window = (stride, padding, dilation, groups)
            plan = self.plans.add(key, self._plan_input(grad_y, weight, x_shape, window))
        grad_x = np.ndarray(x_shape, dtype, None, 0, plan.meta)
        plan.run(grad_y, weight, grad_x)
        return grad_x

    def _plan_input(
        self, grad_y: Array, weight: Array, x_shape: Dims, window: tuple[Dims, Dims, Dims, int]
    ) -> Plan:
        plan, shape = self.new_plan(grad_y.dtype), _Geometry(x_shape, weight.shape, *window)
        plan.meta = channels_last_strides(x_shape, grad_y.itemsize)
        if self._suits_winograd(grad_y, x_shape, weight.shape, window):
            cpu_winograd.build_input_gradient(plan, grad_y, weight)
            return plan
        wanted, target = plan.channels_last(grad_y.shape), plan.channels_last(x_shape)
        descriptor = plan.describe(
            "convolution_backward_data", _DIRECT, target, plan.any(shape.weight_shape), wanted,
            *shape.windows, shape.forward(plan, False), plan.attributes(),
            prefer=shape.prefer_input,
        )  # fmt: skip
        _, source = plan.activation(grad_y)
        weights = plan.input(
            weight.reshape(shape.weight_shape), plan.query(descriptor, QUERY_WEIGHTS)
        )
        arguments = {ARG_DIFF_DST: source, ARG_WEIGHTS: weights}
        plan.call(descriptor, {**arguments, ARG_DIFF_SRC: plan.external(target)})
        return plan

    @fast
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
        key = (
            "conv_backward_weight", x.itemsize, grad_y.shape, grad_y.strides, x.shape, x.strides,
            weight_shape, stride, padding, dilation, groups, with_bias,
            None if out is None else out.strides,
        )  # fmt: skip
        dtype = self.element_type(grad_y, x, out, product=True)
        grad_weight = np.empty(weight_shape, dtype) if out is None else out
        plan = self.plans.get(key)
        if plan is None:
            window = (stride, padding, dilation, groups)
            plan = self._plan_weight(grad_y, x, grad_weight, window, with_bias)
            self.plans.add(key, plan)
        if not with_bias or plan.meta == "no bias":
            plan.run(x, grad_y, grad_weight)
            return grad_weight, self.sum_to_channels(grad_y) if with_bias else None
        grad_bias = np.empty(weight_shape[0], dtype)
        plan.run(x, grad_y, grad_weight, grad_bias)
        return grad_weight, grad_bias

    def _plan_weight(
        self,
        grad_y: Array,
        x: Array,
        grad_weight: Array,
        window: tuple[Dims, Dims, Dims, int],
        with_bias: bool,
    ) -> Plan:
        require_elements(grad_y, x)
        plan, shape = self.new_plan(x.dtype), _Geometry(x.shape, grad_weight.shape, *window)
        if self._suits_winograd(x, x.shape, grad_weight.shape, window):
            plan.meta = "no bias"  # the sums over tiles do not contain it
            cpu_winograd.build_weight_gradient(plan, x, grad_y, grad_weight)
            return plan
        bias = plan.dense((grad_weight.shape[0],)) if with_bias else None
        descriptor = plan.describe(
            "convolution_backward_weights", _DIRECT, plan.channels_last(x.shape),
            plan.any(shape.weight_shape), bias, plan.channels_last(grad_y.shape),
            *shape.windows, shape.forward(plan, with_bias), plan.attributes(),
        )  # fmt: skip
        arguments = {ARG_SRC: plan.activation(x)[1], ARG_DIFF_DST: plan.activation(grad_y)[1]}
        chosen = plan.query(descriptor, QUERY_DIFF_WEIGHTS)
        target, finish = plan.output(grad_weight.reshape(shape.weight_shape), chosen)
        arguments[ARG_DIFF_WEIGHTS] = target
        if bias is not None:
            arguments[ARG_DIFF_BIAS] = plan.external(bias)
        plan.call(descriptor, arguments)
        finish()
        return plan


def _vector(bias: Array) -> Array:
    return bias if bias.flags.c_contiguous else np.ascontiguousarray(bias)
