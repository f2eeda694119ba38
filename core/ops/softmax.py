"""Softmax, and cross-entropy from logits or from log-probabilities."""

from __future__ import annotations

import numpy as np

from .. import backend
from ..backend import Array
from .base import Op
from .elementwise import Grads

_BLOCK = 65536  # elements


class Softmax(Op):
    """exp(x) / sum(exp(x)) along an axis."""

    def __init__(self, axis: int) -> None:
        self.axis = axis

    def forward(self, x: Array) -> Array:
        y = backend.of(x).softmax_forward(x, self.axis)
        if self.needs[0]:
            self.saved = (y,)
        return y

    def backward(self, grad: Array) -> Grads:
        (y,) = self.saved
        inner = grad * y
        return (inner - y * inner.sum(axis=self.axis, keepdims=True),)


class LogSoftmax(Op):
    """x - log(sum(exp(x))) along an axis."""

    def __init__(self, axis: int) -> None:
        self.axis = axis

    def forward(self, x: Array) -> Array:
        y = backend.of(x).log_softmax_forward(x, self.axis)
        if self.needs[0]:
            self.saved = (y,)
        return y

    def backward(self, grad: Array) -> Grads:
        (y,) = self.saved
        return (grad - np.exp(y) * grad.sum(axis=self.axis, keepdims=True),)


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

    def __init__(
        self, reduction: str, ignore_index: int, smoothing: float = 0.0, logits: bool = False
    ) -> None:
        self.reduction, self.ignore_index = reduction, ignore_index
        self.smoothing, self.logits = smoothing, logits

    def forward(self, x: Array, target: Array, weight: Array | None) -> Array:
        log_p = backend.of(x).log_softmax_forward(x, 1) if self.logits else x
        if x.ndim == 2 and weight is None and not self.smoothing:
            picked = self._simple(log_p, target)
            if picked is not None:
                return picked
        return self._general(log_p, target, weight)

    def _simple(self, log_p: Array, target: Array) -> Array | None:
        """Rows of class scores, nothing ignored, no weights: the usual classifier."""
        if self.reduction == "none" or not len(target) or (target == self.ignore_index).any():
            return None
        rows = np.arange(len(target))
        loss = -log_p[rows, target].sum()
        self.total = len(target) if self.reduction == "mean" else 1
        if any(self.needs):
            self.saved = (log_p, rows, target)
        return np.asarray(loss / self.total, log_p.dtype)

    def _general(self, log_p: Array, target: Array, weight: Array | None) -> Array:
        valid = target != self.ignore_index
        safe = np.where(valid, target, 0)
        classes = log_p.shape[1]
        w = valid.astype(log_p.dtype) if weight is None else np.where(valid, weight[safe], 0)
        w = w.astype(log_p.dtype, copy=False)
        loss = -w * np.take_along_axis(log_p, safe[:, None], 1)[:, 0]
        coefficients = None
        if self.smoothing:
            per_class = np.ones(classes, log_p.dtype) if weight is None else weight
            spread = per_class.reshape(-1, *(1,) * (log_p.ndim - 2))
            uniform = -(log_p * spread).sum(axis=1) * valid
            loss = (1 - self.smoothing) * loss + self.smoothing / classes * uniform
            coefficients = spread * (self.smoothing / classes)
        total = w.sum() if self.reduction == "mean" else log_p.dtype.type(1)
        if any(self.needs):
            self.saved = (log_p, safe, w, valid, coefficients, total)
        if self.reduction == "none":
            return loss.astype(log_p.dtype, copy=False)
        return np.asarray(loss.sum() / total, log_p.dtype)

    def backward(self, grad: Array) -> Grads:
        if len(self.saved) == 3:
            return self._simple_backward(grad), None, None
        log_p, safe, w, valid, coefficients, total = self.saved
        scale = grad / total if self.reduction != "none" else grad
        scale = np.broadcast_to(scale, safe.shape)
        main = -w * scale * (1 - self.smoothing)
        grad_log = np.zeros(log_p.shape, log_p.dtype)
        np.put_along_axis(grad_log, safe[:, None], main[:, None], 1)
        if coefficients is not None:
            grad_log -= coefficients * (scale * valid)[:, None]
        if self.logits:
            grad_log -= np.exp(log_p) * grad_log.sum(axis=1, keepdims=True)
        return grad_log, None, None

    def _simple_backward(self, grad: Array) -> Array:
        log_p, rows, target = self.saved
        scale = grad / self.total
        if not self.logits:
            grad_log = np.zeros(log_p.shape, log_p.dtype)
            grad_log[rows, target] = -scale
            return grad_log
        grad_x = np.empty_like(log_p)
        step = max(1, _BLOCK // max(1, log_p.shape[1]))
        for start in range(0, len(log_p), step):  # both passes over one block while it is in cache
            part = np.exp(log_p[start : start + step], out=grad_x[start : start + step])
            part *= scale
        grad_x[rows, target] -= scale
        return grad_x


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
        return np.asarray(loss.sum() / count, x.dtype)

    def backward(self, grad: Array) -> Grads:
        log_p, weighted, spread, count = self.saved
        scale = grad[:, None] if self.reduction == "none" else grad / count
        grad_x = grad_target = None
        if self.needs[0]:
            grad_x = scale * (np.exp(log_p) * weighted.sum(axis=1, keepdims=True) - weighted)
        if self.needs[1]:
            grad_target = -scale * log_p * spread * (1 - self.smoothing)
        return grad_x, grad_target, None
