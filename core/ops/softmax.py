"""Softmax, and cross-entropy from logits or from log-probabilities."""

from __future__ import annotations

import copy

import numpy as np

from .. import backend
from ..backend import Array
from ..backend.arrays import as_array
from ..backend.protocol_softmax import FUSED
from .base import Op
from .elementwise import Grads


class Softmax(Op):
    """exp(x) / sum(exp(x)) along an axis."""

    takes_half_on_gpu = True

    def __init__(self, axis: int) -> None:
        self.axis = axis

    def forward(self, x: Array) -> Array:
        y = backend.of(x).softmax_forward(x, self.axis)
        if self.needs[0]:
            self.saved = (y,)
        return y

    def backward(self, grad: Array) -> Grads:
        (y,) = self.saved
        return (backend.of(grad).softmax_backward(grad, y, self.axis),)


class LogSoftmax(Op):
    """x - log(sum(exp(x))) along an axis."""

    takes_half_on_gpu = True

    def __init__(self, axis: int) -> None:
        self.axis = axis

    def forward(self, x: Array) -> Array:
        y = backend.of(x).log_softmax_forward(x, self.axis)
        if self.needs[0]:
            self.saved = (y,)
        return y

    def backward(self, grad: Array) -> Grads:
        (y,) = self.saved
        return (backend.of(grad).log_softmax_backward(grad, y, self.axis),)


class NLL(Op):
    """Negative log-likelihood of class indices: (log_probs (N, C, *S), target, weight).

    Target elements equal to `ignore_index` count nothing. "mean" divides by the sum of the
    weights of the targets. Source: PyTorch manual, NLLLoss and CrossEntropyLoss.

    Args:
        reduction: "mean", "sum" or "none".
        ignore_index: target value without effect.
        smoothing: label smoothing, as defined for CrossEntropyLoss (Szegedy et al. 2016).
        logits: the input is logits; the log-softmax is done here and its gradient fused.
    """

    takes_half_on_gpu = True

    def __init__(
        self, reduction: str, ignore_index: int, smoothing: float = 0.0, logits: bool = False
    ) -> None:
        self.reduction, self.logits = reduction, logits
        self.settings = (reduction, ignore_index, smoothing)

    def forward(self, x: Array, target: Array, weight: Array | None) -> Array:
        kernels = backend.of(x)
        forward = kernels.cross_entropy_forward if self.logits else kernels.nll_forward
        loss, saved = forward(x, target, weight, *self.settings)
        if any(self.needs):
            self.saved = saved
        return loss

    def backward(self, grad: Array) -> Grads:
        kernels = backend.of(grad)
        backward = kernels.cross_entropy_backward if self.logits else kernels.nll_backward
        return backward(grad, self.saved, *self.settings), None, None

    def of_log_probs(self) -> NLL:
        """This op as one of log-probabilities, with what `nll_backward` needs in `saved`."""
        plain = copy.copy(self)
        plain.logits = False
        if len(self.saved) == FUSED:
            x, target, weight, *_ = self.saved
            kernels = backend.of(x)
            log_p = kernels.log_softmax_forward(x, 1)
            _, plain.saved = kernels.nll_forward(log_p, target, weight, *self.settings)
        return plain


class SoftTargetCrossEntropy(Op):
    """Cross-entropy of logits (N, C, *S) with class probabilities: (x, target, weight)."""

    def __init__(self, reduction: str, smoothing: float) -> None:
        self.reduction, self.smoothing = reduction, smoothing

    def forward(self, x: Array, target: Array, weight: Array | None) -> Array:
        log_p = backend.of(x).log_softmax_forward(x, 1)
        if self.smoothing:
            target = target * (1 - self.smoothing) + self.smoothing / x.shape[1]
        spread = 1 if weight is None else weight.reshape(-1, *(1,) * (x.ndim - 2))
        weighted = target * spread
        loss = -(weighted * log_p).sum(axis=1)
        count = loss.size if self.reduction == "mean" else 1
        self.saved = (log_p, weighted, spread, count)
        if self.reduction == "none":
            return loss
        return as_array(loss.sum() / count, x.dtype)

    def backward(self, grad: Array) -> Grads:
        log_p, weighted, spread, count = self.saved
        scale = grad[:, None] if self.reduction == "none" else grad / count
        grad_x = grad_target = None
        if self.needs[0]:
            grad_x = scale * (np.exp(log_p) * weighted.sum(axis=1, keepdims=True) - weighted)
        if self.needs[1]:
            grad_target = -scale * log_p * spread * (1 - self.smoothing)
        return grad_x, grad_target, None
