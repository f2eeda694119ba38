"""Optimizer steps in plain array code: the oracle and the fallback.

All arrays have one shape and are changed in place, except `grad`, which is only read.
"""

from __future__ import annotations

import math
from typing import Any

from ..protocol import Array


class OptimKernels:
    """Kernels `*_step` of the backend protocol on the array module `xp`."""

    xp: Any

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
        """Source: PyTorch's definition of SGD; Sutskever et al. 2013 (momentum, Nesterov)."""
        update = -grad if maximize else grad
        if weight_decay:
            update = update + weight_decay * param
        if momentum_buffer is not None:
            if first:
                momentum_buffer[...] = update
            else:
                momentum_buffer *= momentum
                momentum_buffer += (1 - dampening) * update
            update = update + momentum * momentum_buffer if nesterov else momentum_buffer
        param -= lr * update

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
        """Source: Kingma & Ba 2015 (Adam), Loshchilov & Hutter 2019 (decoupled weight decay)."""
        xp = self.xp
        grad = -grad if maximize else grad
        if weight_decay and decoupled:
            param *= 1 - lr * weight_decay
        elif weight_decay:
            grad = grad + weight_decay * param
        exp_avg *= beta1
        exp_avg += (1 - beta1) * grad
        exp_avg_sq *= beta2
        exp_avg_sq += (1 - beta2) * (grad * grad)
        second = exp_avg_sq
        if max_exp_avg_sq is not None:
            second = xp.maximum(max_exp_avg_sq, exp_avg_sq, out=max_exp_avg_sq)
        scale = lr / (1 - beta1**step)
        root = math.sqrt(1 - beta2**step)
        param -= scale * exp_avg / (xp.sqrt(second) / root + eps)
