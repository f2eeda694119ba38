"""Products of the steps of recurrent layers: one per gate, with weights packed once per sequence.

Memory of gates is (gate, row, feature); each gate's product is a primitive of its own, all of them
run as one plan.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from .cpu_base import F32, CpuBase
from .onednn_plan import (
    ARG_BIAS,
    ARG_DST,
    ARG_SRC,
    ARG_WEIGHTS,
    QUERY_WEIGHTS,
    Plan,
    aligned_empty,
)
from .protocol_recurrent import Array


class _Packed:
    """What both kinds of products share: weights (gates, K, N) packed for products of `rows`."""

    def __init__(self, kernels: CpuBase, w: Array, rows: int, key: tuple[Any, ...]) -> None:
        self.w, self.rows = w, rows
        key = (type(self).__name__, rows, w.shape, w.strides, *key)
        plan = kernels.plans.get(key)
        if plan is None:
            plan = kernels.plans.add(key, self.build(kernels.new_plan()))
        self.plan: Plan = plan
        packing, nbytes = plan.meta
        self.packed = aligned_empty(nbytes)
        packing.run(w[0], self.packed)

    def build(self, plan: Plan) -> Plan:
        """Add the products of all gates."""
        raise NotImplementedError

    def prepare_packing(self, plan: Plan, kind: int) -> tuple[int, int]:
        """Descriptor of one packed gate, and the bytes from one to the next."""
        packed = plan.query(kind, QUERY_WEIGHTS)
        nbytes = -(-plan.nbytes(packed) // 64) * 64
        packing = Plan(plan.engine, plan.scratch)
        size, strides = self.w.itemsize, self.w.strides
        given = packing.strided(self.w.shape[1:], [s // size for s in strides[1:]])
        source, target = packing.external(given), packing.external(packed)
        for gate in range(len(self.w)):
            packing.reorder(
                given, _at(packing, source, given, gate * strides[0]),
                packed, _at(packing, target, packed, gate * nbytes),
            )  # fmt: skip
        plan.meta = packing.seal(), nbytes * len(self.w)
        return packed, nbytes


class GateProducts(_Packed):
    """z[gate] += h @ w[gate], or without adding.

    Args:
        w: (gates, K, N).
        rows: of h (rows, K) and of z (gates, rows, N), in most calls.
        gap: elements from one gate of z to the next.
        bias: (gates, N), added.
    """

    def __init__(
        self,
        kernels: CpuBase,
        w: Array,
        rows: int,
        gap: int,
        *,
        add: bool = True,
        bias: Array | None = None,
    ) -> None:
        self.gap, self.add, self.bias = gap, add, bias
        super().__init__(kernels, w, rows, (gap, add, bias is None))

    def build(self, plan: Plan) -> Plan:
        """One primitive per gate."""
        gates, inputs, outputs = self.w.shape
        z, h = plan.dense((self.rows, outputs)), plan.dense((self.rows, inputs))
        vector = None if self.bias is None else plan.dense((1, outputs))
        post_ops = [("sum", 1.0)] if self.add else []
        kind = plan.describe(
            "matmul", h, plan.any((inputs, outputs)), vector, z, plan.attributes(*post_ops)
        )
        packed, nbytes = self.prepare_packing(plan, kind)
        source, weights, target = plan.external(h), plan.external(packed), plan.external(z)
        added = None if vector is None else plan.external(vector)
        for gate in range(gates):
            arguments = {ARG_SRC: source, ARG_WEIGHTS: _at(plan, weights, packed, gate * nbytes)}
            if added is not None and vector is not None:
                arguments[ARG_BIAS] = _at(plan, added, vector, gate * outputs * F32.itemsize)
            place = _at(plan, target, z, gate * self.gap * F32.itemsize)
            plan.call(kind, {**arguments, ARG_DST: place})
        return plan

    def __call__(self, h: Array, z: Array) -> None:
        """Change z (gates, rows of h, N) in place."""
        if len(h) == self.rows:
            extra = () if self.bias is None else (self.bias,)
            self.plan.run(h, self.packed, z[0], *extra)
            return
        product = np.matmul(h, self.w)  # fewer sequences are left
        z[...] = z + product if self.add else product
        if self.bias is not None:
            z += self.bias[:, None]


class GateSum(_Packed):
    """y = sum of d[gate] @ w[gate] over the gates, or y += that sum.

    Args:
        w: (gates, K, N).
        rows: of d (gates, rows, K) and of y (rows, N), in most calls.
        gap: elements from one gate of d to the next.
    """

    def __init__(
        self, kernels: CpuBase, w: Array, rows: int, gap: int, *, add: bool = False
    ) -> None:
        self.gap, self.add = gap, add
        super().__init__(kernels, w, rows, (gap, add))

    def build(self, plan: Plan) -> Plan:
        """One primitive per gate; all but the first add to the result."""
        gates, inputs, outputs = self.w.shape
        y, d = plan.dense((self.rows, outputs)), plan.dense((self.rows, inputs))
        kinds = [
            plan.describe("matmul", d, plan.any((inputs, outputs)), None, y, attributes)
            for attributes in (plan.attributes(), plan.attributes(("sum", 1.0)))
        ]
        packed, nbytes = self.prepare_packing(plan, kinds[0])
        source, weights, target = plan.external(d), plan.external(packed), plan.external(y)
        for gate in range(gates):
            arguments = {
                ARG_SRC: _at(plan, source, d, gate * self.gap * F32.itemsize),
                ARG_WEIGHTS: _at(plan, weights, packed, gate * nbytes),
            }
            plan.call(kinds[self.add or gate > 0], {**arguments, ARG_DST: target})
        return plan

    def __call__(self, d: Array, y: Array) -> None:
        """Change y (rows of d, N) in place."""
        if len(y) == self.rows:
            self.plan.run(d[0], self.packed, y)
            return
        total = np.matmul(d, self.w).sum(axis=0)
        y[...] = y + total if self.add else total


class GateGradients(_Packed):
    """grad[gate] = d[gate].T @ x: the gradients of the weights of all gates, x packed once.

    Args:
        x: (1, rows, inputs).
        d: (gates, rows, H), dense within a gate; only its layout counts here.
    """

    def __init__(self, kernels: CpuBase, x: Array, d: Array) -> None:
        self.gates, self.gap = len(d), d.strides[0]
        super().__init__(kernels, x, d.shape[2], (self.gates, self.gap))

    def build(self, plan: Plan) -> Plan:
        """One primitive per gate."""
        _, count, inputs = self.w.shape
        d, grad = plan.strided((self.rows, count), (1, self.rows)), plan.dense((self.rows, inputs))
        kind = plan.describe("matmul", d, plan.any((count, inputs)), None, grad, plan.attributes())
        packed, _ = self.prepare_packing(plan, kind)
        source, weights, target = plan.external(d), plan.external(packed), plan.external(grad)
        for gate in range(self.gates):
            arguments = {ARG_SRC: _at(plan, source, d, gate * self.gap), ARG_WEIGHTS: weights}
            place = _at(plan, target, grad, gate * plan.nbytes(grad))
            plan.call(kind, {**arguments, ARG_DST: place})
        return plan

    def __call__(self, d: Array) -> Array:
        """The gradients, (gates * H, inputs)."""
        grad = np.empty((self.gates * self.rows, self.w.shape[2]), F32)
        self.plan.run(d[0], self.packed, grad)
        return grad


def _at(plan: Plan, memory: int, descriptor: int, offset_bytes: int) -> int:
    return plan.part(memory, descriptor, offset_bytes) if offset_bytes else memory
