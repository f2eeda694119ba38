"""Layer normalisation on the CPU through oneDNN's layer normalisation of matrix rows."""

from __future__ import annotations

import math

import numpy as np

from ..errors import Unsupported
from .cpu_base import F32, CpuBase, fast, require_elements, require_float32
from .layout import is_plain
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
    Plan,
)
from .protocol import Array, Dims

_FORWARD_TRAINING, _BACKWARD = 64, 128
_USE_SCALE, _USE_SHIFT = 2, 4


class CpuLayerNorm(CpuBase):
    """Kernels `layer_norm_*` of the backend protocol."""

    @fast
    def layer_norm_forward(
        self, x: Array, axes_count: int, weight: Array | None, bias: Array | None, eps: float
    ) -> tuple[Array, Array, Array]:
        require_float32(x, weight, bias)
        require_elements(x)
        leading, trailing = _split(x.shape, axes_count)
        columns = math.prod(trailing)
        scale = self._ones(columns) if weight is None else np.ascontiguousarray(weight)
        shift = self._zeros(columns) if bias is None else np.ascontiguousarray(bias)
        y, mean, var = self._rows_forward(x, math.prod(leading), columns, scale, shift, eps)
        rstd = 1 / np.sqrt(var + F32.type(eps))
        keep = leading + (1,) * axes_count
        return y, mean.reshape(keep), rstd.reshape(keep)

    @fast
    def layer_norm_backward(
        self,
        grad_y: Array,
        x: Array,
        axes_count: int,
        weight: Array | None,
        mean: Array,
        rstd: Array,
    ) -> tuple[Array, Array | None, Array | None]:
        require_float32(grad_y, x, weight, mean, rstd)
        require_elements(x)
        leading, trailing = _split(x.shape, axes_count)
        rows, columns = math.prod(leading), math.prod(trailing)
        scale = self._ones(columns) if weight is None else np.ascontiguousarray(weight)
        result = self._rows_backward(grad_y, x, rows, columns, scale, mean, rstd)
        grad_x, grad_weight, grad_bias = result
        return grad_x, grad_weight.reshape(trailing), grad_bias.reshape(trailing)

    def _rows_forward(
        self, x: Array, rows: int, columns: int, scale: Array, shift: Array, eps: float
    ) -> tuple[Array, Array, Array]:
        """Normalise x seen as a matrix (rows, columns) in C order: (y, mean, variance)."""
        key = ("layer_norm", x.shape, x.strides, rows, eps)
        plan = self.plans.get(key)
        if plan is None:
            plan = self.plans.add(key, self._plan_rows(x, rows, columns, eps))
        y = np.empty(x.shape, F32)
        mean, var = np.empty(rows, F32), np.empty(rows, F32)
        plan.run(x, scale, shift, mean, var, y)
        return y, mean, var

    def _plan_rows(self, x: Array, rows: int, columns: int, eps: float) -> Plan:
        plan = self.new_plan()
        matrix, vector = plan.dense((rows, columns)), plan.dense((columns,))
        kind = _describe_rows(plan, (rows, columns), eps)
        arguments = {ARG_SRC: _as_matrix(plan, x, (rows, columns))}
        arguments[ARG_SCALE], arguments[ARG_SHIFT] = plan.external(vector), plan.external(vector)
        statistics = plan.dense((rows,))
        arguments[ARG_MEAN] = plan.external(statistics)
        arguments[ARG_VARIANCE] = plan.external(statistics)
        plan.call(kind, {**arguments, ARG_DST: plan.external(matrix)})
        return plan

    def _rows_backward(
        self,
        grad_y: Array,
        x: Array,
        rows: int,
        columns: int,
        scale: Array,
        mean: Array,
        rstd: Array,
    ) -> tuple[Array, Array, Array]:
        """Gradients for x, scale and shift of `_rows_forward`."""
        key = ("layer_norm_backward", x.shape, x.strides, grad_y.strides, rows)
        plan = self.plans.get(key)
        if plan is None:
            plan = self.plans.add(key, self._plan_rows_gradient(grad_y, x, rows, columns))
        # The primitive wants the variance and adds eps to it: give it 1/rstd² and no eps.
        var = 1 / np.square(np.ascontiguousarray(rstd))
        grad_x = np.empty(x.shape, F32)
        grad_scale, grad_shift = np.empty(columns, F32), np.empty(columns, F32)
        mean = np.ascontiguousarray(mean)
        plan.run(x, grad_y, scale, mean, var, grad_x, grad_scale, grad_shift)
        return grad_x, grad_scale, grad_shift

    def _plan_rows_gradient(self, grad_y: Array, x: Array, rows: int, columns: int) -> Plan:
        plan, shape = self.new_plan(), (rows, columns)
        matrix, vector, statistics = plan.dense(shape), plan.dense((columns,)), plan.dense((rows,))
        kind = plan.describe(
            "layer_normalization_backward", _BACKWARD, matrix, matrix, matrix, statistics, 0.0,
            _USE_SCALE | _USE_SHIFT, _describe_rows(plan, shape, 0.0), plan.attributes(),
        )  # fmt: skip
        arguments = {ARG_SRC: _as_matrix(plan, x, shape)}
        arguments[ARG_DIFF_DST] = _as_matrix(plan, grad_y, shape)
        arguments[ARG_SCALE] = plan.external(vector)
        arguments[ARG_MEAN] = plan.external(statistics)
        arguments[ARG_VARIANCE] = plan.external(statistics)
        arguments[ARG_DIFF_SRC] = plan.external(matrix)
        arguments[ARG_DIFF_SCALE] = plan.external(vector)
        arguments[ARG_DIFF_SHIFT] = plan.external(vector)
        if plan.input_count(kind) == 6:  # oneDNN 3.2 counts the shift, which it does not read
            arguments[ARG_SHIFT] = plan.constant(self._zeros(columns))
        plan.call(kind, arguments)
        return plan


def _describe_rows(plan: Plan, shape: Dims, eps: float) -> int:
    matrix, statistics = plan.dense(shape), plan.dense(shape[:1])
    return plan.describe(
        "layer_normalization_forward", _FORWARD_TRAINING, matrix, matrix, statistics, eps,
        _USE_SCALE | _USE_SHIFT, plan.attributes(),
    )  # fmt: skip


def _split(shape: Dims, axes_count: int) -> tuple[Dims, Dims]:
    return shape[: len(shape) - axes_count], shape[len(shape) - axes_count :]


def _as_matrix(plan: Plan, array: Array, shape: Dims) -> int:
    """Memory of `array`, brought to C order, which is then a matrix of `shape`."""
    if array.flags.c_contiguous:
        return plan.external(plan.dense(shape))
    if not is_plain(array.shape, array.strides, array.itemsize):
        raise Unsupported(f"strides {array.strides}")
    return plan.alias(plan.input(array, plan.dense(array.shape)), plan.dense(shape))
