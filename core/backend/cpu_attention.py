"""Attention on the CPU: products, mask, softmax and dropout as one plan of oneDNN primitives.

Heads are read from and written to the memory of the projections, (N, L, H, E) seen as
(N, H, L, E), so that nothing is copied. All heads of a batch go through one primitive per step.
"""

from __future__ import annotations

import numpy as np

from ..errors import Unsupported
from .cpu_base import F32, CpuBase, fast, require_elements, require_float32
from .layout import element_strides, is_plain
from .onednn_plan import (
    ARG_DIFF_DST,
    ARG_DIFF_SRC,
    ARG_DST,
    ARG_POST_OP,
    ARG_SRC,
    ARG_SRC_1,
    ARG_WEIGHTS,
    BINARY_ADD,
    BINARY_MUL,
    Plan,
)
from .protocol_recurrent import Array

_FORWARD_TRAINING = 64
_SOFTMAX = 0x30000


class CpuAttention(CpuBase):
    """Kernels `attention_*` of the backend protocol."""

    @fast
    def attention_forward(
        self,
        q: Array,
        k: Array,
        v: Array,
        bias: Array | None,
        scale: float,
        keep: Array | None,
        out: Array,
    ) -> tuple[Array, Array]:
        arrays = [_four(a) for a in (q, k, v, out)]
        masks = [None if a is None else _four(a) for a in (bias, keep)]
        key = ("attention", *_layouts(*arrays, *masks))
        plan = self.plans.get(key)
        if plan is None:
            require_float32(*arrays, *masks)
            require_elements(q, k, v)
            plan = self.plans.add(key, _forward(self.new_plan(), *arrays, *masks))
        probabilities = np.empty((*q.shape[:-1], k.shape[-2]), F32)
        plan.meta[0] = scale
        given = [a for a in masks if a is not None]
        plan.run(*arrays[:3], *given, probabilities, arrays[3])
        if np.isnan(probabilities.max()):
            raise Unsupported("NaN, or a query that may attend to nothing")
        return out, probabilities

    @fast
    def attention_backward(
        self,
        grad: Array,
        q: Array,
        k: Array,
        v: Array,
        probabilities: Array,
        scale: float,
        keep: Array | None,
        out: tuple[Array, Array, Array],
    ) -> Array:
        arrays = [_four(a) for a in (grad, q, k, v, probabilities, *out)]
        mask = None if keep is None else _four(keep)
        key = ("attention_backward", *_layouts(*arrays, mask))
        plan = self.plans.get(key)
        if plan is None:
            require_float32(*arrays, mask)
            require_elements(*arrays)
            plan = self.plans.add(key, _backward(self.new_plan(), arrays, mask))
        scores = np.empty(probabilities.shape, F32)
        plan.meta[0] = scale
        plan.run(*arrays[:5], *(() if mask is None else (mask,)), scores, *arrays[5:])
        return scores


def _forward(
    plan: Plan, q: Array, k: Array, v: Array, out: Array, bias: Array | None, keep: Array | None
) -> Plan:
    (query, q_memory), (key, k_memory), (value, v_memory) = (
        _operand(plan, a) for a in (q, np.swapaxes(k, -1, -2), v)
    )
    scores = plan.dense((*q.shape[:-1], k.shape[-2]))
    number = plan.dense((1, 1, 1, 1))
    (factor,) = plan.numbers(1)
    mask = None if bias is None else _operand(plan, bias)
    factors = None if keep is None else plan.external(plan.dense(keep.shape))
    p = plan.external(scores)
    scaled = plan.attributes(("binary", BINARY_MUL, number))
    product = plan.describe("matmul", query, key, None, scores, scaled)
    arguments = {ARG_SRC: q_memory, ARG_WEIGHTS: k_memory, ARG_DST: p}
    plan.call(product, {**arguments, ARG_POST_OP: factor})
    if mask is not None:  # as a post-op of the product it would be slow when it broadcasts
        add = plan.describe("binary", BINARY_ADD, scores, mask[0], scores, plan.attributes())
        plan.call(add, {ARG_SRC: p, ARG_SRC_1: mask[1], ARG_DST: p})
    softmax = _softmax(plan, scores)
    plan.call(softmax, {ARG_SRC: p, ARG_DST: p})
    used = p
    if factors is not None:
        used = plan.internal(scores)
        multiply = plan.describe("binary", BINARY_MUL, scores, scores, scores, plan.attributes())
        plan.call(multiply, {ARG_SRC: p, ARG_SRC_1: factors, ARG_DST: used})
    target, y = _operand(plan, out)
    product = plan.describe("matmul", scores, value, None, target, plan.attributes())
    plan.call(product, {ARG_SRC: used, ARG_WEIGHTS: v_memory, ARG_DST: y})
    return plan


def _backward(plan: Plan, arrays: list[Array], keep: Array | None) -> Plan:
    grad, q, k, v, probabilities = arrays[:5]
    (g, g_memory), (query, q_memory), (key, k_memory), (_, v_memory) = (
        _operand(plan, a) for a in (grad, q, k, v)
    )
    scores, number = plan.dense(probabilities.shape), plan.dense((1, 1, 1, 1))
    (factor,) = plan.numbers(1)
    turned = plan.strided(*_turned(probabilities))
    p = plan.external(scores)
    factors = None if keep is None else plan.external(scores)
    s = plan.external(scores)
    (to_q, q_target), (to_k, k_target), (to_v, v_target) = (_operand(plan, a) for a in arrays[5:])
    used, none = p, plan.attributes()
    multiply = plan.describe("binary", BINARY_MUL, scores, scores, scores, none)
    if factors is not None:
        used = plan.internal(scores)
        plan.call(multiply, {ARG_SRC: p, ARG_SRC_1: factors, ARG_DST: used})
    product = plan.describe("matmul", turned, g, None, to_v, none)
    arguments = {ARG_SRC: plan.alias(used, turned), ARG_WEIGHTS: g_memory}
    plan.call(product, {**arguments, ARG_DST: v_target})
    value_turned = plan.strided(*_turned(v))
    product = plan.describe("matmul", g, value_turned, None, scores, none)
    arguments = {ARG_SRC: g_memory, ARG_WEIGHTS: plan.alias(v_memory, value_turned)}
    plan.call(product, {**arguments, ARG_DST: s})
    if factors is not None:
        plan.call(multiply, {ARG_SRC: s, ARG_SRC_1: factors, ARG_DST: s})
    kind = plan.describe(
        "softmax_backward", _SOFTMAX, scores, scores, scores, 3, _softmax(plan, scores), none
    )
    plan.call(kind, {ARG_DST: p, ARG_DIFF_DST: s, ARG_DIFF_SRC: s})
    scaled = plan.attributes(("binary", BINARY_MUL, number))
    for left, left_memory, right, right_memory, target, memory in (
        (scores, s, key, k_memory, to_q, q_target),
        (turned, plan.alias(s, turned), query, q_memory, to_k, k_target),
    ):
        product = plan.describe("matmul", left, right, None, target, scaled)
        arguments = {ARG_SRC: left_memory, ARG_WEIGHTS: right_memory, ARG_DST: memory}
        plan.call(product, {**arguments, ARG_POST_OP: factor})
    return plan


def _softmax(plan: Plan, scores: int) -> int:
    return plan.describe(
        "softmax_forward", _FORWARD_TRAINING, _SOFTMAX, scores, scores, 3, plan.attributes()
    )


def _four(array: Array) -> Array:
    """The array with exactly four axes.

    Raises:
        Unsupported: there are more, in a layout whose leading ones cannot be joined.
    """
    if array.ndim == 4:
        return array
    if array.ndim < 4:
        return array[(None,) * (4 - array.ndim)]
    joined = array.view()
    try:
        joined.shape = (-1, *array.shape[-3:])
    except AttributeError as error:
        raise Unsupported(f"{array.ndim} axes with strides {array.strides}") from error
    return joined


def _layouts(*arrays: Array | None) -> list[object]:
    return [None if a is None else (a.shape, a.strides, a.dtype) for a in arrays]


def _steps(array: Array) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Shape and strides, in elements, for a primitive that reads or writes in place."""
    if not is_plain(array.shape, array.strides, array.itemsize) or array.itemsize not in (
        array.strides[-1],
        array.strides[-2],
    ):
        raise Unsupported(f"shape {array.shape} with strides {array.strides}")
    return array.shape, element_strides(array.shape, array.strides, array.itemsize)


def _turned(array: Array) -> tuple[tuple[int, ...], tuple[int, ...]]:
    return _steps(np.swapaxes(array, -1, -2))


def _operand(plan: Plan, array: Array) -> tuple[int, int]:
    descriptor = plan.strided(*_steps(array))
    return descriptor, plan.external(descriptor)
