"""Optimizer steps in plain array code: the oracle and the fallback.

All arrays have one shape and are changed in place, except `grad`, which is only read.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from ..protocol import Array
from .optim_more import MoreOptimKernels, average, penalized, shrunk
from .optim_whole import WholeOptimKernels


class OptimKernels(MoreOptimKernels, WholeOptimKernels):
    """Kernels `step_all` and `*_step` of the backend protocol on the array module `xp`."""

    xp: Any

    def step_all(
        self,
        kernel: str,
        params: Sequence[Array],
        grads: Sequence[Array],
        states: Sequence[Sequence[Array] | None],
        **settings: Any,
    ) -> None:
        """Call the kernel on one parameter after the other; narrow floats become float32 there."""
        step = getattr(self, kernel)
        for i, (param, grad) in enumerate(zip(params, grads, strict=True)):
            arrays = [param, grad, *(None if s is None else s[i] for s in states)]
            step_one(step, arrays, settings)

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
        update = penalized(param, grad, weight_decay, maximize)
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
        grad = shrunk(param, grad, lr, weight_decay, decoupled, maximize)
        average(exp_avg, grad, beta1)
        average(exp_avg_sq, grad * grad, beta2)
        second = exp_avg_sq
        if max_exp_avg_sq is not None:
            second = xp.maximum(max_exp_avg_sq, exp_avg_sq, out=max_exp_avg_sq)
        scale = lr / (1 - beta1**step)
        root = math.sqrt(1 - beta2**step)
        param -= scale * exp_avg / (xp.sqrt(second) / root + eps)


def step_one(step: Any, arrays: Sequence[Array | None], settings: dict[str, Any]) -> None:
    """Call `step` on one parameter, its gradient and its state, as numbers it can compute with.

    float16 and bfloat16 are computed in float32 and rounded once at the end; complex numbers are
    stepped as pairs of real ones.
    """
    dtype = arrays[0].dtype  # type: ignore[union-attr]
    if dtype.kind == "f" and dtype.itemsize >= 4:
        step(*arrays, **settings)
        return
    wide = [None if a is None else _widened(a) for a in arrays]
    step(*wide, **settings)
    for position, (array, result) in enumerate(zip(arrays, wide, strict=True)):
        if array is None or result is None or position == 1:  # 1: the gradient is only read
            continue
        array[...] = result if dtype.kind != "c" else result[..., 0] + 1j * result[..., 1]


def _widened(array: Array) -> Array:
    if array.dtype.kind == "c":
        return np.stack((array.real, array.imag), axis=-1)
    return array.astype(np.float32)
