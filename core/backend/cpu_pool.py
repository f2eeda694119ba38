"""Max and average pooling on the CPU through oneDNN, for 1 to 3 spatial dimensions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from ..errors import Unsupported
from .cpu_base import F32, CpuBase, fast, require_elements
from .layout import channels_last_strides
from .onednn import dims
from .onednn_plan import (
    ARG_DIFF_DST,
    ARG_DIFF_SRC,
    ARG_DST,
    ARG_SRC,
    ARG_WORKSPACE,
    QUERY_WORKSPACE,
    Plan,
)
from .protocol import Array, Dims
from .reference.pool import pooled_shape, right_padding

_FORWARD_TRAINING = 64
_MAX, _AVERAGE_INCLUDE, _AVERAGE_EXCLUDE = 0x1FF, 0x2FF, 0x3FF
_LOWEST = -float(np.finfo(F32).max)  # what oneDNN's max starts from
_LOWEST_BITS = 0xFF7F  # the same of bfloat16; more are -inf and negative NaN


@dataclass(frozen=True, slots=True)
class _Winners:
    """oneDNN's workspace: which element won in each window of one forward call."""

    workspace: Array
    of: np.dtype  # of the call's input


@dataclass(frozen=True, slots=True)
class _Window:
    """Window parameters of one pooling, as they enter a key."""

    algorithm: int
    kernel: Dims
    stride: Dims
    padding: Dims
    dilation: Dims
    ceil_mode: bool

    def describe(self, plan: Plan, x_shape: Dims, y_shape: Dims, gradient: bool) -> int:
        """Primitive descriptor of the forward pass or of the gradient."""
        after = right_padding(
            x_shape, y_shape, self.kernel, self.stride, self.padding, self.dilation
        )
        dilation = tuple(d - 1 for d in self.dilation)
        windows = [dims(v) for v in (self.stride, self.kernel, dilation, self.padding, after)]
        ends = (plan.channels_last(x_shape), plan.channels_last(y_shape))
        forward = plan.describe(
            "pooling_forward", _FORWARD_TRAINING, self.algorithm, *ends, *windows,
            plan.attributes(),
        )  # fmt: skip
        if not gradient:
            return forward
        attributes = plan.attributes()
        return plan.describe(
            "pooling_backward", self.algorithm, *ends, *windows, forward, attributes
        )


class CpuPool(CpuBase):
    """Kernels `*_pool_*` of the backend protocol."""

    @fast
    def max_pool_forward(
        self,
        x: Array,
        kernel: Dims,
        stride: Dims,
        padding: Dims,
        dilation: Dims,
        ceil_mode: bool,
    ) -> tuple[Array, Any]:
        dtype = self.element_type(x)
        key = (
            "max_pool",
            x.itemsize,
            x.shape,
            x.strides,
            kernel,
            stride,
            padding,
            dilation,
            ceil_mode,
        )
        plan = self.plans.get(key)
        if plan is None:
            window = _Window(_MAX, kernel, stride, padding, dilation, ceil_mode)
            plan = self.plans.add(key, self._plan_pool(x, window))
        y_shape, y_strides, workspace_nbytes = plan.meta
        y = np.ndarray(y_shape, dtype, None, 0, y_strides)
        workspace = np.empty(workspace_nbytes, np.uint8)
        plan.run(x, y, workspace)
        if _holds_lowest(y):
            # A window held nothing above oneDNN's starting value: all NaN or all -inf. oneDNN
            # returns that starting value; the reference says what PyTorch says.
            raise Unsupported("a window holds only NaN or -inf")
        return y, _Winners(workspace, dtype)

    def _plan_pool(self, x: Array, window: _Window) -> Plan:
        require_elements(x)
        plan = self.new_plan(x.dtype)
        y_shape = pooled_shape(
            x.shape, window.kernel, window.stride, window.padding, window.dilation,
            window.ceil_mode,
        )  # fmt: skip
        kind = window.describe(plan, x.shape, y_shape, gradient=False)
        arguments = {ARG_SRC: plan.activation(x)[1]}
        arguments[ARG_DST] = plan.external(plan.channels_last(y_shape))
        nbytes = 0
        if window.algorithm == _MAX:
            chosen = plan.query(kind, QUERY_WORKSPACE)
            nbytes = plan.nbytes(chosen)
            arguments[ARG_WORKSPACE] = plan.external(chosen)
        plan.call(kind, arguments)
        plan.meta = (y_shape, channels_last_strides(y_shape, x.itemsize), nbytes)
        return plan

    @fast
    def max_pool_backward(
        self,
        grad_y: Array,
        saved: Any,
        x_shape: Dims,
        kernel: Dims,
        stride: Dims,
        padding: Dims,
        dilation: Dims,
    ) -> Array:
        if not isinstance(saved, _Winners):
            raise Unsupported("another kernel served the forward pass")
        window = (x_shape, kernel, stride, padding, dilation)
        if saved.of != grad_y.dtype:  # the gradient of a gradient is taken in float32
            return self.max_pool_backward(grad_y.astype(saved.of), saved, *window).astype(
                grad_y.dtype
            )
        dtype = self.element_type(grad_y)
        key = (
            "max_pool_backward", grad_y.itemsize, grad_y.shape, grad_y.strides, x_shape, kernel,
            stride, padding, dilation,
        )  # fmt: skip
        plan = self.plans.get(key)
        if plan is None:
            shape = _Window(_MAX, kernel, stride, padding, dilation, False)
            plan = self.plans.add(key, self._plan_gradient(grad_y, x_shape, shape))
        grad_x = np.ndarray(x_shape, dtype, None, 0, plan.meta)
        plan.run(grad_y, saved.workspace, grad_x)
        return grad_x

    def _plan_gradient(self, grad_y: Array, x_shape: Dims, window: _Window) -> Plan:
        require_elements(grad_y)
        plan = self.new_plan(grad_y.dtype)
        kind = window.describe(plan, x_shape, grad_y.shape, gradient=True)
        arguments = {ARG_DIFF_DST: plan.activation(grad_y)[1]}
        if window.algorithm == _MAX:
            arguments[ARG_WORKSPACE] = plan.external(plan.query(kind, QUERY_WORKSPACE))
        arguments[ARG_DIFF_SRC] = plan.external(plan.channels_last(x_shape))
        plan.call(kind, arguments)
        plan.meta = channels_last_strides(x_shape, grad_y.itemsize)
        return plan

    @fast
    def avg_pool_forward(
        self,
        x: Array,
        kernel: Dims,
        stride: Dims,
        padding: Dims,
        ceil_mode: bool,
        count_include_pad: bool,
    ) -> Array:
        dtype = self.element_type(x)
        key = (
            "avg_pool", x.itemsize, x.shape, x.strides, kernel, stride, padding, ceil_mode,
            count_include_pad,
        )  # fmt: skip
        plan = self.plans.get(key)
        if plan is None:
            window = _average(kernel, stride, padding, ceil_mode, count_include_pad)
            plan = self._plan_pool(x, window)
            _require_equal_counts(x.shape, plan.meta[0], window)
            self.plans.add(key, plan)
        y_shape, y_strides, _ = plan.meta
        y = np.ndarray(y_shape, dtype, None, 0, y_strides)
        plan.run(x, y)
        return y

    @fast
    def avg_pool_backward(
        self,
        grad_y: Array,
        x_shape: Dims,
        kernel: Dims,
        stride: Dims,
        padding: Dims,
        ceil_mode: bool,
        count_include_pad: bool,
    ) -> Array:
        dtype = self.element_type(grad_y)
        key = (
            "avg_pool_backward", grad_y.itemsize, grad_y.shape, grad_y.strides, x_shape, kernel,
            stride, padding, ceil_mode, count_include_pad,
        )  # fmt: skip
        plan = self.plans.get(key)
        if plan is None:
            window = _average(kernel, stride, padding, ceil_mode, count_include_pad)
            _require_equal_counts(x_shape, grad_y.shape, window)
            plan = self.plans.add(key, self._plan_gradient(grad_y, x_shape, window))
        grad_x = np.ndarray(x_shape, dtype, None, 0, plan.meta)
        plan.run(grad_y, grad_x)
        return grad_x


def _holds_lowest(y: Array) -> bool:
    if y.dtype == F32:
        return bool(y.min() <= _LOWEST)
    return bool(y.view(np.uint16).max() >= _LOWEST_BITS)


def _average(
    kernel: Dims, stride: Dims, padding: Dims, ceil_mode: bool, count_include_pad: bool
) -> _Window:
    # Without padding both algorithms divide by the same counts, and excluding is right for the
    # windows that ceil mode lets reach over the end.
    include = count_include_pad and any(padding)
    algorithm = _AVERAGE_INCLUDE if include else _AVERAGE_EXCLUDE
    return _Window(algorithm, kernel, stride, padding, (1,) * len(kernel), ceil_mode)


def _require_equal_counts(x_shape: Dims, y_shape: Dims, window: _Window) -> None:
    """Raise Unsupported where oneDNN counts cells beyond the padding and PyTorch does not."""
    if window.algorithm != _AVERAGE_INCLUDE:
        return
    after = right_padding(
        x_shape, y_shape, window.kernel, window.stride, window.padding, window.dilation
    )
    if any(a > p for a, p in zip(after, window.padding, strict=True)):
        raise Unsupported("ceil_mode window beyond the padding with count_include_pad")
