"""GELU on the CPU by oneDNN's elementwise primitives, on any dense array in memory order."""

from __future__ import annotations

from .cpu_base import fast, require_elements, require_float32
from .cpu_elementwise import CpuElementwise, dense
from .onednn_plan import ARG_DIFF_DST, ARG_DIFF_SRC, ARG_DST, ARG_SRC, Plan
from .protocol_recurrent import Array

_FORWARD_TRAINING = 64
_ALGORITHMS = {"none": 0x31, "tanh": 0x2B}


class CpuActivation(CpuElementwise):
    """Kernels `gelu_*` of the backend protocol."""

    @fast
    def gelu_forward(self, x: Array, approximate: str) -> Array:
        require_float32(x)
        require_elements(x)
        x, y = dense(x)
        key = ("gelu", x.size, approximate)
        plan = self.plans.get(key)
        if plan is None:
            plan = self.plans.add(key, _plan(self.new_plan(), x.size, approximate))
        plan.run(x, y)
        return y

    @fast
    def gelu_backward(self, grad_y: Array, x: Array, approximate: str) -> Array:
        require_float32(grad_y, x)
        require_elements(x)
        x, grad_x = dense(x)
        key = ("gelu_backward", x.size, approximate)
        plan = self.plans.get(key)
        if plan is None:
            plan = self.plans.add(key, _plan_gradient(self.new_plan(), x.size, approximate))
        plan.run(x, self._like(grad_y, x), grad_x)
        return grad_x


def _describe(plan: Plan, vector: int, approximate: str) -> int:
    return plan.describe(
        "eltwise_forward", _FORWARD_TRAINING, _ALGORITHMS[approximate], vector, vector, 0.0, 0.0,
        plan.attributes(),
    )  # fmt: skip


def _plan(plan: Plan, size: int, approximate: str) -> Plan:
    vector = plan.dense((size,))
    kind = _describe(plan, vector, approximate)
    plan.call(kind, {ARG_SRC: plan.external(vector), ARG_DST: plan.external(vector)})
    return plan


def _plan_gradient(plan: Plan, size: int, approximate: str) -> Plan:
    vector = plan.dense((size,))
    kind = plan.describe(
        "eltwise_backward", _ALGORITHMS[approximate], vector, vector, vector, 0.0, 0.0,
        _describe(plan, vector, approximate), plan.attributes(),
    )  # fmt: skip
    x, grad_y, grad_x = (plan.external(vector) for _ in range(3))
    plan.call(kind, {ARG_SRC: x, ARG_DIFF_DST: grad_y, ARG_DIFF_SRC: grad_x})
    return plan
