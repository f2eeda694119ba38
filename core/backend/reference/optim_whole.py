"""Optimizer steps that look at a parameter as a whole: its norm, its rows, its singular values.

Plain array code, called once per parameter; arrays are changed in place, `grad` is only read.
"""

from __future__ import annotations

import math
from typing import Any

from ..protocol import Array
from .optim_more import average, penalized


def norm(x: Array) -> float:
    """The Euclidean norm of all elements."""
    flat = x.reshape(-1)
    return math.sqrt(float(flat @ flat))


class WholeOptimKernels:
    """Kernels `lars_step`, `lamb_step`, `adafactor_step` and `muon_step` of the protocol."""

    xp: Any
    matmul: Any

    def lars_step(
        self,
        param: Array,
        grad: Array,
        momentum_buffer: Array,
        *,
        lr: float,
        momentum: float,
        weight_decay: float,
        trust_coefficient: float,
        eps: float,
        nesterov: bool,
        maximize: bool,
        adapt: bool,
    ) -> None:
        """Source: You, Gitman & Ginsburg 2017, algorithm 1."""
        if adapt:
            size, slope = norm(param), norm(grad)
            if size > 0 and slope > 0:
                lr *= trust_coefficient * size / (slope + weight_decay * size + eps)
        step = lr * penalized(param, grad, weight_decay if adapt else 0.0, maximize)
        momentum_buffer *= momentum
        momentum_buffer += step
        param -= step + momentum * momentum_buffer if nesterov else momentum_buffer

    def lamb_step(
        self,
        param: Array,
        grad: Array,
        exp_avg: Array,
        exp_avg_sq: Array,
        *,
        step: int,
        lr: float,
        beta1: float,
        beta2: float,
        eps: float,
        weight_decay: float,
        bounds: tuple[float, float] | None,
        maximize: bool,
        adapt: bool,
    ) -> None:
        """Source: You et al. 2020, algorithm 2."""
        grad = -grad if maximize else grad
        average(exp_avg, grad, beta1)
        average(exp_avg_sq, grad * grad, beta2)
        scale = self.xp.sqrt(exp_avg_sq)
        scale /= math.sqrt(1 - beta2**step)
        scale += eps
        update = exp_avg / (1 - beta1**step)
        update /= scale
        if adapt:
            if weight_decay:
                update += weight_decay * param
            size, length = norm(param), norm(update)
            if bounds is not None:
                size = min(max(size, bounds[0]), bounds[1])
            if size > 0 and length > 0:
                lr *= size / length
        update *= lr
        param -= update

    def adafactor_step(
        self,
        param: Array,
        grad: Array,
        row_var: Array | None,
        col_var: Array | None,
        variance: Array | None,
        *,
        step: int,
        lr: float,
        beta2_decay: float,
        eps1: float,
        eps2: float,
        d: float,
        weight_decay: float,
        maximize: bool,
    ) -> None:
        """Source: Shazeer & Stern 2018, algorithms 4 and 5."""
        if param.size == 0:  # it has no means
            return
        xp = self.xp
        grad = -grad if maximize else grad
        keep = 1 - float(step) ** beta2_decay
        root = math.sqrt(param.size)
        rate = max(eps2, norm(param) / root) * min(lr, 1 / math.sqrt(step))
        if weight_decay:
            param *= 1 - lr * weight_decay
        square = grad * grad
        if variance is not None:
            average(variance, square, keep)
            spread = xp.maximum(variance, eps1 * eps1)
        elif row_var is not None and col_var is not None:
            average(row_var, square.mean(axis=-1, keepdims=True), keep)
            average(col_var, square.mean(axis=-2, keepdims=True), keep)
            spread = row_var * col_var
            spread /= xp.maximum(row_var.mean(axis=-2, keepdims=True), eps1)
            xp.maximum(spread, eps1 * eps1, out=spread)
        update = grad / xp.sqrt(spread)
        update *= rate / max(1.0, norm(update) / (root * d))
        param -= update

    def muon_step(
        self,
        param: Array,
        grad: Array,
        momentum_buffer: Array,
        *,
        lr: float,
        adjusted_lr: float,
        weight_decay: float,
        momentum: float,
        nesterov: bool,
        coefficients: tuple[float, float, float],
        eps: float,
        steps: int,
    ) -> None:
        """Source: Jordan 2024, "Muon: An optimizer for hidden layers in neural networks"."""
        average(momentum_buffer, grad, momentum)
        update = momentum_buffer
        if nesterov:
            update = grad * (1 - momentum)
            update += momentum * momentum_buffer
        param *= 1 - lr * weight_decay
        param -= adjusted_lr * self._orthogonalized(update, coefficients, eps, steps)

    def _orthogonalized(
        self, matrix: Array, coefficients: tuple[float, float, float], eps: float, steps: int
    ) -> Array:
        """`matrix` with singular values near 1, by a quintic Newton-Schulz iteration."""
        a, b, c = coefficients
        tall = matrix.shape[0] > matrix.shape[1]
        x = matrix.T if tall else matrix
        x = self._scaled_to_one(x, eps)
        for _ in range(steps):
            gram = self.matmul(x, x.T)
            mixed = c * self.matmul(gram, gram)
            mixed += b * gram
            x = a * x + self.matmul(mixed, x)
        return x.T if tall else x

    def _scaled_to_one(self, matrix: Array, eps: float) -> Array:
        """`matrix` divided by its norm, or by `eps` where that is larger."""
        return matrix / max(norm(matrix), eps)
