"""ReLU, add + ReLU, softmax and channel sums on the CPU.

Elementwise kernels see any dense array as a vector in memory order, so one plan serves every
layout of that many elements; the result has the memory order of the (first) input.
"""

from __future__ import annotations

import math

import numpy as np

from ..errors import Unsupported
from .cpu_base import F32, CpuBase, fast, require_elements, require_float32
from .layout import same_memory_order
from .onednn_plan import (
    ARG_DST,
    ARG_POST_OP,
    ARG_SRC,
    ARG_SRC_1,
    BINARY_ADD,
    BINARY_GT,
    BINARY_MUL,
    Plan,
)
from .protocol import Array

_FORWARD_TRAINING = 64
_SOFTMAX, _LOG_SOFTMAX = 0x30000, 0x30001
_TINY = 2048  # elements below which NumPy's smaller overhead wins
_ZERO = np.zeros(1, F32)
_ZERO.setflags(write=False)


class CpuElementwise(CpuBase):
    """Kernels `relu_*`, `add_relu_forward`, `*softmax_forward`, `sum_to_channels`."""

    def _like(self, array: Array, pattern: Array) -> Array:
        """`array` in the memory order of `pattern` (same shape), copied if it differs."""
        strides = pattern.strides
        if array.strides == strides or same_memory_order(array.shape, array.strides, strides):
            return array
        return self.reordered(array, strides)

    @fast
    def relu_forward(self, x: Array) -> Array:
        dtype = self.element_type(x)
        if x.size < _TINY:
            return super().relu_forward(x)
        x, y = dense(x)
        key = ("relu", x.itemsize, x.size)
        plan = self.plans.get(key) or self.plans.add(key, self._plan_relu(x.size, dtype))
        plan.run(x, y)
        return y

    def _plan_relu(self, size: int, dtype: np.dtype) -> Plan:
        plan = self.new_plan(dtype)
        vector = plan.dense((size,))
        plan.relu(vector, plan.external(vector), plan.external(vector))
        return plan

    @fast
    def relu_backward(self, grad_y: Array, y: Array) -> Array:
        dtype = self.element_type(grad_y, y)
        if y.size < _TINY:
            return super().relu_backward(grad_y, y)
        y, grad_x = dense(y)
        key = ("relu_backward", y.itemsize, y.size)
        plan = self.plans.get(key) or self.plans.add(key, self._plan_relu_backward(y.size, dtype))
        plan.run(y, _ZERO, self._like(grad_y, y), grad_x)  # the bits of 0 are the same in any type
        return grad_x

    def _plan_relu_backward(self, size: int, dtype: np.dtype) -> Plan:
        # (y > 0) * grad_y as a comparison with a fused product: 0.075 ms for half a million
        # elements on Zen 4, where the ReLU-gradient primitive takes 0.124 ms.
        plan = self.new_plan(dtype)
        vector, number = plan.dense((size,)), plan.dense((1,))
        attributes = plan.attributes(("binary", BINARY_MUL, vector))
        kind = plan.describe("binary", BINARY_GT, vector, number, vector, attributes)
        y, zero = plan.external(vector), plan.external(number)
        grad_y, grad_x = plan.external(vector), plan.external(vector)
        plan.call(kind, {ARG_SRC: y, ARG_SRC_1: zero, ARG_POST_OP: grad_y, ARG_DST: grad_x})
        return plan

    @fast
    def add_relu_forward(self, a: Array, b: Array) -> Array:
        dtype = self.element_type(a, b)
        if a.shape != b.shape:
            raise Unsupported(f"shapes {a.shape} and {b.shape} differ")
        if a.size < _TINY:
            return super().add_relu_forward(a, b)
        a, y = dense(a)
        key = ("add_relu", a.itemsize, a.size)
        plan = self.plans.get(key) or self.plans.add(key, self._plan_add_relu(a.size, dtype))
        plan.run(a, self._like(b, a), y)
        return y

    def _plan_add_relu(self, size: int, dtype: np.dtype) -> Plan:
        plan = self.new_plan(dtype)
        vector = plan.dense((size,))
        kind = plan.describe("binary", BINARY_ADD, vector, vector, vector, plan.attributes())
        a, b, y = plan.external(vector), plan.external(vector), plan.external(vector)
        plan.call(kind, {ARG_SRC: a, ARG_SRC_1: b, ARG_DST: y})
        plan.relu(vector, y, y)
        return plan

    @fast
    def softmax_forward(self, x: Array, axis: int) -> Array:
        return self._softmax(x, axis, _SOFTMAX)

    @fast
    def log_softmax_forward(self, x: Array, axis: int) -> Array:
        return self._softmax(x, axis, _LOG_SOFTMAX)

    def _softmax(self, x: Array, axis: int, algorithm: int) -> Array:
        require_float32(x)
        require_elements(x)
        if not x.max() < math.inf:  # oneDNN would spoil the NaN's own element only, not its row
            raise Unsupported("NaN or infinity")
        rows = x if axis in (-1, x.ndim - 1) else np.moveaxis(x, axis, -1)
        key = ("softmax", rows.shape, rows.strides, algorithm)
        plan = self.plans.get(key) or self.plans.add(key, self._plan_softmax(rows, algorithm))
        y = np.empty(rows.shape, F32)
        plan.run(rows, y)
        return y if rows is x else np.moveaxis(y, -1, axis)

    def _plan_softmax(self, rows: Array, algorithm: int) -> Plan:
        plan = self.new_plan()
        dense = plan.dense(rows.shape)
        source = plan.input(rows, dense)
        kind = plan.describe(
            "softmax_forward", _FORWARD_TRAINING, algorithm, dense, dense, rows.ndim - 1,
            plan.attributes(),
        )  # fmt: skip
        plan.call(kind, {ARG_SRC: source, ARG_DST: plan.external(dense)})
        return plan

    @fast
    def sum_to_channels(self, grad_y: Array) -> Array:
        # A product with ones runs at memory speed in BLAS; np.sum over the leading axis of a
        # narrow matrix takes 5 to 25 times as long.
        require_float32(grad_y)
        require_elements(grad_y)
        rows = np.moveaxis(grad_y, 1, -1)
        if grad_y.ndim > 2 and grad_y.flags.c_contiguous and not rows.flags.c_contiguous:
            n, c = grad_y.shape[:2]  # plain NCHW
            planes = grad_y.reshape(n * c, -1)
            return (planes @ self._ones(planes.shape[1])).reshape(n, c).sum(axis=0)
        rows = np.ascontiguousarray(rows).reshape(-1, rows.shape[-1])
        return self._ones(rows.shape[0]) @ rows


def dense(x: Array) -> tuple[Array, Array]:
    """x (copied if it has gaps or overlaps) and an empty array with the same strides."""
    y = np.empty_like(x)
    if y.strides != x.strides and not same_memory_order(x.shape, x.strides, y.strides):
        y[...] = x
        x, y = y, np.empty_like(y)
    return x, y
