"""SGD and Adam steps on the CPU in cache-sized blocks.

An optimizer step reads and writes each array several times and computes little. So it goes over
all arrays block by block, small enough that the passes over one block find it in cache, large
enough that starting a primitive (2 µs) does not count, and each pass is one fused oneDNN
primitive: a * x + b * y, or that plus c * result.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from ..errors import Unsupported
from .cpu_base import F32, fast, require_elements, require_float32
from .cpu_optim_blocks import CpuOptimBlocks
from .onednn_plan import (
    ARG_DST,
    ARG_POST_OP_2,
    ARG_SCALES,
    ARG_SRC,
    ARG_SRC_1,
    BINARY_ADD,
    BINARY_DIV,
    BINARY_MAX,
    BINARY_MUL,
    Plan,
    address,
)
from .protocol import Array

_SQRT = 0x25
_BLOCK_ELEMENTS = 131072  # 512 KiB per array and thread
_SMALL = 8192  # elements below which NumPy's smaller overhead wins


class _Pass(NamedTuple):
    """One primitive applied to every block.

    Args:
        kind: "combine" y = a * x0 + b * x1; "accumulate" y = a * x0 + b * x1 + keep * y;
            "accumulate_product" y = a * x0 * x1 + keep * y; "maximum" y = max(x0, x1);
            "root" y = sqrt(x0) + a; "divide" y = x0 / x1.
        arrays: addresses of the inputs, then of y; None stands for the temporary block.
        numbers: a, b. They change between steps without a new primitive, unlike `keep`.
    """

    kind: str
    arrays: tuple[int | None, ...]
    numbers: tuple[float, ...] = ()
    keep: float = 0.0


class CpuOptim(CpuOptimBlocks):
    """Kernels `sgd_step` and `adam_step` of the backend protocol."""

    @fast
    def sgd_step(
        self,
        param: Array,
        grad: Array,
        momentum_buffer: Array | None,
        *,
        lr: float,
        momentum: float,
        dampening: float,
        weight_decay: float,
        nesterov: bool,
        maximize: bool,
        first: bool,
    ) -> None:
        grad = _checked(grad, param, momentum_buffer)
        if param.size < _SMALL:
            super().sgd_step(
                param, grad, momentum_buffer, lr=lr, momentum=momentum, dampening=dampening,
                weight_decay=weight_decay, nesterov=nesterov, maximize=maximize, first=first,
            )  # fmt: skip
            return
        p, g, sign = address(param), address(grad), -1.0 if maximize else 1.0
        plain_step = _Pass("combine", (g, p, p), (-lr * sign, 1 - lr * weight_decay))
        if momentum_buffer is None:
            self._sweep(param.size, [plain_step])
            return
        m = address(momentum_buffer)
        share = 1.0 if first else 1 - dampening
        new = (share * sign, share * weight_decay)
        if first:
            passes = [_Pass("combine", (g, p, m), new)]
        elif weight_decay:
            passes = [_Pass("accumulate", (g, p, m), new, keep=momentum)]
        else:
            passes = [_Pass("combine", (g, m, m), (share * sign, momentum))]
        if nesterov:
            passes += [plain_step, _Pass("combine", (m, p, p), (-lr * momentum, 1.0))]
        else:
            passes.append(_Pass("combine", (m, p, p), (-lr, 1.0)))
        self._sweep(param.size, passes)

    @fast
    def adam_step(
        self,
        param: Array,
        grad: Array,
        exp_avg: Array,
        exp_avg_sq: Array,
        max_exp_avg_sq: Array | None,
        *,
        step: int,
        lr: float,
        beta1: float,
        beta2: float,
        eps: float,
        weight_decay: float,
        decoupled: bool,
        maximize: bool,
    ) -> None:
        grad = _checked(grad, param, exp_avg, exp_avg_sq, max_exp_avg_sq)
        if param.size < _SMALL:
            super().adam_step(
                param, grad, exp_avg, exp_avg_sq, max_exp_avg_sq, step=step, lr=lr, beta1=beta1,
                beta2=beta2, eps=eps, weight_decay=weight_decay, decoupled=decoupled,
                maximize=maximize,
            )  # fmt: skip
            return
        g: int | None = address(grad)
        p, sign, kept, passes = address(param), -1.0 if maximize else 1.0, 1.0, []
        if weight_decay and decoupled:
            kept = 1 - lr * weight_decay
        elif weight_decay:
            passes.append(_Pass("combine", (g, p, None), (sign, weight_decay)))
            g, sign = None, 1.0
        m, v = address(exp_avg), address(exp_avg_sq)
        passes.append(_Pass("combine", (g, m, m), (sign * (1 - beta1), beta1)))
        passes.append(_Pass("accumulate_product", (g, g, v), (1 - beta2,), keep=beta2))
        if max_exp_avg_sq is not None:
            largest = address(max_exp_avg_sq)
            passes.append(_Pass("maximum", (largest, v, largest)))
            v = largest
        passes += _adam_update(p, m, v, step, lr, beta1, beta2, eps, kept)
        self._sweep(param.size, passes)

    def _sweep(self, size: int, passes: Sequence[_Pass]) -> None:
        """Run all passes over one block of the arrays after the other."""
        block = min(size, _BLOCK_ELEMENTS * self.threads())
        if self._block.size < block:
            self._block = np.empty(block, F32)
        temporary = address(self._block)
        for start, count in ((0, size - size % block), (size - size % block, size % block)):
            if not count:
                continue
            length = min(count, block)
            plans = [self._pass_plan(i, step, length) for i, step in enumerate(passes)]
            for offset in range(start * 4, (start + count) * 4, length * 4):
                for step, plan in zip(passes, plans, strict=True):
                    plan.run_at([temporary if a is None else a + offset for a in step.arrays])

    def _pass_plan(self, place: int, step: _Pass, length: int) -> Plan:
        """The plan of one pass on blocks of `length` elements, with its numbers written."""
        # Numbers live in the plan, so passes with different numbers in one sweep need their own.
        key = (step.kind, length, step.keep, place)
        plan = self.plans.get(key)
        if plan is None:
            plan = self.plans.add(key, self._build_pass(step, length))
        if step.numbers:
            plan.meta[:] = step.numbers
        return plan

    def _build_pass(self, step: _Pass, length: int) -> Plan:
        plan = self.new_plan()
        vector = plan.dense((length,))
        numbers = plan.numbers(len(step.numbers))
        memories = [plan.external(vector) for _ in step.arrays]
        if step.kind == "root":
            one = plan.dense((1,))
            chain = plan.attributes(("eltwise", _SQRT), ("binary", BINARY_ADD, one))
            kind = plan.describe("binary", BINARY_MUL, vector, one, vector, chain)
            source, target = memories
            operands = {ARG_SRC: source, ARG_SRC_1: plan.constant(self._ones(1)), ARG_DST: target}
            plan.call(kind, {**operands, ARG_POST_OP_2: numbers[0]})
            return plan
        scaled = (ARG_SRC, ARG_SRC_1)[: len(numbers)]
        post_ops = (("sum", step.keep),) if step.kind.startswith("accumulate") else ()
        attributes = plan.attributes(*post_ops, scaled=scaled)
        kind = plan.describe("binary", _ALGORITHM[step.kind], vector, vector, vector, attributes)
        arguments = dict(zip((ARG_SRC, ARG_SRC_1, ARG_DST), memories, strict=True))
        for argument, number in zip(scaled, numbers, strict=True):
            arguments[ARG_SCALES | argument] = number
        plan.call(kind, arguments)
        return plan


def _adam_update(
    p: int,
    m: int,
    v: int,
    step: int,
    lr: float,
    beta1: float,
    beta2: float,
    eps: float,
    kept: float,
) -> list[_Pass]:
    """Passes for p = kept * p - lr/c1 * m / (sqrt(v)/root + eps)."""
    root = math.sqrt(1 - beta2**step)  # both sides of the fraction are multiplied by it
    return [
        _Pass("root", (v, None), (eps * root,)),
        _Pass("divide", (m, None, None)),
        _Pass("combine", (None, p, p), (-lr * root / (1 - beta1**step), kept)),
    ]


_ALGORITHM = {
    "combine": BINARY_ADD,
    "accumulate": BINARY_ADD,
    "accumulate_product": BINARY_MUL,
    "maximum": BINARY_MAX,
    "divide": BINARY_DIV,
}


def _checked(grad: Array, param: Array, *states: Array | None) -> Array:
    """The gradient in C order; Unsupported unless all others are float32 in C order."""
    require_float32(grad, param, *states)
    require_elements(param)
    for array in (param, *states):
        if array is not None and not array.flags.c_contiguous:
            raise Unsupported(f"parameter or state with strides {array.strides}")
    if grad.shape != param.shape:
        raise Unsupported(f"gradient {grad.shape} for a parameter {param.shape}")
    # not np.ascontiguousarray, which turns shape () into (1,)
    return grad if grad.flags.c_contiguous else grad.copy(order="C")
