"""Matrix products on the CPU: oneDNN's matmul, and NumPy's BLAS for the tiny and the thin.

The choice depends on shapes only, never on timing, so that results are the same bits on every run.
"""

from __future__ import annotations

import numpy as np

from ..errors import ShapeError
from .cpu_base import F32, CpuBase, fast, require_elements
from .layout import element_strides, is_plain
from .onednn_plan import ARG_BIAS, ARG_DST, ARG_SRC, ARG_WEIGHTS, QUERY_WEIGHTS, Plan, address
from .protocol import Array, Dims

# Below this many multiplications, or with an inner or outer dimension this thin, BLAS is faster
# (measured on Zen 4: 64x10 @ 10x50 takes 1.8 µs against 3.0 µs).
_SMALL_PRODUCT = 200_000
_THIN = 16
# From this many rows of the first factor on, the second is packed first: 1024x768 @ 768x192 then
# runs at 123 GFLOP/s instead of 102 (Cascade Lake).
_MANY_ROWS = 256
# From this many multiplications on, oneDNN's BLAS is faster than its matmul where the weights lie
# transposed: 126 GFLOP/s instead of 97 for 700x256 @ 256x8000 (Cascade Lake).
_HUGE_PRODUCT = 2**29


def _blas_is_faster(m: int, n: int, k: int) -> bool:
    return m * n * k < _SMALL_PRODUCT or n == 1 or m <= _THIN or 1 < k <= _THIN


class CpuLinear(CpuBase):
    """Kernels `linear_forward` and `matmul` of the backend protocol."""

    @fast
    def linear_forward(
        self, x: Array, weight: Array, bias: Array | None, activation: str | None = None
    ) -> Array:
        dtype = self.element_type(x, weight, bias, product=True)
        (m, k), n = x.shape, weight.shape[0]
        if _blas_is_faster(m, n, k) and dtype == F32:
            return super().linear_forward(x, weight, bias, activation)
        if m * n * k >= _HUGE_PRODUCT and dtype == F32 and activation is None:
            y = self._huge_linear(x, weight, bias)
            if y is not None:
                return y
        key = (
            "linear", x.itemsize, x.shape, x.strides, n, weight.strides, bias is None, activation,
        )  # fmt: skip
        plan = self.plans.get(key)
        if plan is None:
            plan = self.plans.add(key, self._plan_product(x, weight.T, None, bias, activation))
        y = np.empty((m, n), dtype)
        if bias is None:
            plan.run(x, weight.T, y)
        else:
            plan.run(x, weight.T, np.ascontiguousarray(bias), y)
        return y

    def _huge_linear(self, x: Array, weight: Array, bias: Array | None) -> Array | None:
        """x @ weight.T + bias by oneDNN's BLAS, or None if it cannot take the arrays."""
        if self.engine is None or not (x.flags.c_contiguous and weight.flags.c_contiguous):
            return None
        (m, k), n = x.shape, weight.shape[0]
        y = np.empty((m, n), F32)
        if bias is not None:
            y[...] = bias
        self.engine.library.sgemm(
            b"N", b"T", m, n, k, 1.0, address(x), k, address(weight), k,
            0.0 if bias is None else 1.0, address(y), n,
        )  # fmt: skip
        return y

    @fast
    def matmul(self, a: Array, b: Array, out: Array | None = None) -> Array:
        dtype = self.element_type(a, b, out, product=True)
        m, k, n = a.shape[-2], a.shape[-1], b.shape[-1]
        if k != b.shape[-2]:
            raise ShapeError(f"matmul: inner sizes differ: {a.shape} @ {b.shape}")
        if _blas_is_faster(m, n, k) and dtype == F32:
            return super().matmul(a, b, out)
        out_strides = None if out is None else out.strides
        key = ("matmul", a.itemsize, a.shape, a.strides, b.shape, b.strides, out_strides)
        plan = self.plans.get(key)
        if plan is None:
            plan = self.plans.add(key, self._plan_product(a, b, out))
        y = np.empty(plan.meta, dtype) if out is None else out
        plan.run(a, b, y)
        return y

    def _plan_product(
        self,
        a: Array,
        b: Array,
        out: Array | None,
        bias: Array | None = None,
        activation: str | None = None,
    ) -> Plan:
        require_elements(a, b)
        plan, ndim = self.new_plan(a.dtype), max(a.ndim, b.ndim)
        batch = np.broadcast_shapes(a.shape[:-2], b.shape[:-2])
        y_shape = (*batch, a.shape[-2], b.shape[-1])
        source, source_memory = _operand(plan, a, ndim)
        weights, weights_memory = _operand(plan, b, ndim)
        arguments = {ARG_SRC: source_memory, ARG_WEIGHTS: weights_memory}
        bias_descriptor = None
        if bias is not None:
            bias_descriptor = plan.dense((1, bias.shape[0]))
            arguments[ARG_BIAS] = plan.external(bias_descriptor)
        target = plan.dense(y_shape)
        packed = ndim == 2 and a.shape[0] >= _MANY_ROWS
        wanted = plan.any(b.shape) if packed else weights
        kind = plan.describe("matmul", source, wanted, bias_descriptor, target, plan.attributes())
        if packed:
            arguments[ARG_WEIGHTS] = _packed(plan, kind, weights, weights_memory)
        finish = None
        if out is None:
            y = plan.external(target)
        else:
            y, finish = plan.output(out, target)
        plan.call(kind, {**arguments, ARG_DST: y})
        if activation == "relu":
            plan.relu(target, y, y)
        if finish is not None:
            finish()
        plan.meta = y_shape
        return plan


def _packed(plan: Plan, kind: int, given: int, memory: int) -> int:
    """The second factor in the layout that the product chose."""
    wanted = plan.query(kind, QUERY_WEIGHTS)
    if plan.library.memory_desc_equal(given, wanted):
        return memory
    target = plan.internal(wanted)
    plan.reorder(given, memory, wanted, target)
    return target


def _operand(plan: Plan, array: Array, ndim: int) -> tuple[int, int]:
    """Descriptor and memory of a factor with leading axes of size 1 added up to `ndim`.

    Matrices whose rows or columns lie densely are used as they are, others are made dense first.
    """
    shape: Dims = (1,) * (ndim - array.ndim) + array.shape
    view = array.reshape(shape)
    rows, columns = view.strides[-2:]
    usable = (
        columns == view.itemsize or shape[-1] == 1 or rows == view.itemsize or shape[-2] == 1
    ) and is_plain(shape, view.strides, view.itemsize)
    if not usable:
        wanted = plan.dense(shape)
        return wanted, plan.input(view, wanted)
    if view.flags.c_contiguous:
        descriptor = plan.dense(shape)
    else:
        descriptor = plan.strided(shape, element_strides(shape, view.strides, view.itemsize))
    return descriptor, plan.external(descriptor)
