"""Regression and binary losses of (input, target), with the usual reductions."""

from __future__ import annotations

import math

import numpy as np

from ..backend import Array
from ..backend.arrays import as_array
from .activation import sigmoid
from .base import Op
from .elementwise import Grads


class PairLoss(Op):
    """A loss of (input, target), reduced by "mean", "sum" or "none".

    Subclasses give the elementwise value and its derivatives.
    """

    def __init__(self, reduction: str) -> None:
        self.reduction = reduction

    def value(self, x: Array, t: Array) -> Array:
        """Loss of each element."""
        raise NotImplementedError(type(self).__name__)

    def derivatives(self, x: Array, t: Array) -> tuple[Array, Array]:
        """Derivatives of the loss of each element for the input and for the target."""
        raise NotImplementedError(type(self).__name__)

    def forward(self, x: Array, t: Array) -> Array:
        loss = self.value(x, t)
        if any(self.needs):
            self.saved = (x, t)
        if self.reduction == "none":
            return loss
        if self.reduction == "sum":
            return loss.sum()
        return as_array(loss.sum() / max(loss.size, 1), loss.dtype)

    def backward(self, grad: Array) -> Grads:
        x, t = self.saved
        if self.reduction == "mean":
            grad = grad / max(math.prod(np.broadcast_shapes(x.shape, t.shape)), 1)
        grad_x, grad_t = self.derivatives(x, t)
        return (
            grad * grad_x if self.needs[0] else None,
            grad * grad_t if self.needs[1] else None,
        )


class MSE(PairLoss):
    """(x - t)**2."""

    def value(self, x: Array, t: Array) -> Array:
        difference = x - t
        return difference * difference

    def derivatives(self, x: Array, t: Array) -> tuple[Array, Array]:
        twice = 2 * (x - t)
        return twice, -twice


class L1(PairLoss):
    """|x - t|."""

    def value(self, x: Array, t: Array) -> Array:
        return np.abs(x - t)

    def derivatives(self, x: Array, t: Array) -> tuple[Array, Array]:
        sign = np.sign(x - t)
        return sign, -sign


class SmoothL1(PairLoss):
    """0.5 d**2 / beta where |d| < beta, else |d| - 0.5 beta; times `scale` (Huber: beta)."""

    def __init__(self, reduction: str, beta: float, scale: float = 1.0) -> None:
        super().__init__(reduction)
        self.beta, self.scale = beta, scale

    def value(self, x: Array, t: Array) -> Array:
        d = np.abs(x - t)
        if self.beta == 0:
            return self.scale * d
        return self.scale * np.where(d < self.beta, 0.5 * d * d / self.beta, d - 0.5 * self.beta)

    def derivatives(self, x: Array, t: Array) -> tuple[Array, Array]:
        d = x - t
        slope = np.sign(d) if self.beta == 0 else np.clip(d / self.beta, -1, 1)
        slope = self.scale * slope
        return slope, -slope


class BCE(PairLoss):
    """-(t log x + (1 - t) log(1 - x)), logarithms not below -100 (as PyTorch)."""

    def value(self, x: Array, t: Array) -> Array:
        log_x = np.maximum(np.log(x), -100)
        log_rest = np.maximum(np.log1p(-x), -100)
        return -(t * log_x + (1 - t) * log_rest)

    def derivatives(self, x: Array, t: Array) -> tuple[Array, Array]:
        grad_x = (x - t) / np.maximum(x * (1 - x), 1e-12)
        grad_t = np.maximum(np.log1p(-x), -100) - np.maximum(np.log(x), -100)
        return grad_x, grad_t


class BCEWithLogits(PairLoss):
    """BCE of sigmoid(x), without overflow; `pos_weight` multiplies the positive part."""

    def __init__(self, reduction: str, pos_weight: Array | None) -> None:
        super().__init__(reduction)
        self.pos_weight = pos_weight

    def value(self, x: Array, t: Array) -> Array:
        # log(1 + e**-x) = max(-x, 0) + log1p(e**-|x|)
        soft = np.maximum(-x, 0) + np.log1p(np.exp(-np.abs(x)))
        if self.pos_weight is None:
            return (1 - t) * x + soft
        return (1 - t) * x + (1 + (self.pos_weight - 1) * t) * soft

    def derivatives(self, x: Array, t: Array) -> tuple[Array, Array]:
        s = sigmoid(x)
        if self.pos_weight is None:
            return s - t, -x
        p = self.pos_weight
        soft = np.maximum(-x, 0) + np.log1p(np.exp(-np.abs(x)))
        return (1 - t) - (1 + (p - 1) * t) * (1 - s), -x + (p - 1) * soft


class KLDiv(PairLoss):
    """t * (log t - x), x being log-probabilities; 0 where t is 0."""

    def value(self, x: Array, t: Array) -> Array:
        safe = np.where(t > 0, t, 1)
        return np.where(t > 0, t * (np.log(safe) - x), 0 * x)

    def derivatives(self, x: Array, t: Array) -> tuple[Array, Array]:
        safe = np.where(t > 0, t, 1)
        return -t, np.where(t > 0, np.log(safe) + 1 - x, 0 * x)
