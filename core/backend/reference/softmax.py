"""Softmax and the losses behind it in plain array code: the oracle and the fallback."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..arrays import as_array
from ..protocol import Array

_BLOCK = 65536  # elements


class SoftmaxKernels:
    """Softmax, negative log-likelihood and cross-entropy on the array module `xp`.

    What `nll_forward` saves: (log_probs, rows, target, total) for rows of class scores with nothing
    special, else (log_probs, target without what is ignored, its weights, where it counts,
    coefficients of the smoothing or None, total).
    """

    xp: Any

    def softmax_forward(self, x: Array, axis: int) -> Array:
        xp = self.xp
        y = xp.subtract(x, xp.max(x, axis=axis, keepdims=True))
        xp.exp(y, out=y)
        y /= y.sum(axis=axis, keepdims=True)
        return y

    def softmax_backward(self, grad_y: Array, y: Array, axis: int) -> Array:
        inner = grad_y * y
        return inner - y * inner.sum(axis=axis, keepdims=True)

    def log_softmax_forward(self, x: Array, axis: int) -> Array:
        xp = self.xp
        y = xp.subtract(x, xp.max(x, axis=axis, keepdims=True))
        y -= xp.log(xp.exp(y).sum(axis=axis, keepdims=True))
        return y

    def log_softmax_backward(self, grad_y: Array, y: Array, axis: int) -> Array:
        return grad_y - self.xp.exp(y) * grad_y.sum(axis=axis, keepdims=True)

    def cross_entropy_forward(
        self,
        x: Array,
        target: Array,
        weight: Array | None,
        reduction: str,
        ignore_index: int,
        smoothing: float,
    ) -> tuple[Array, tuple[Any, ...]]:
        log_p = self.log_softmax_forward(x, 1)
        return self.nll_forward(log_p, target, weight, reduction, ignore_index, smoothing)

    def cross_entropy_backward(
        self,
        grad_y: Array,
        saved: tuple[Any, ...],
        reduction: str,
        ignore_index: int,
        smoothing: float,
    ) -> Array:
        if len(saved) == 4:
            return self._softmax_minus_hit(grad_y, *saved)
        grad_log = self.nll_backward(grad_y, saved, reduction, ignore_index, smoothing)
        grad_log -= self.xp.exp(saved[0]) * grad_log.sum(axis=1, keepdims=True)
        return grad_log

    def nll_forward(
        self,
        log_probs: Array,
        target: Array,
        weight: Array | None,
        reduction: str,
        ignore_index: int,
        smoothing: float,
    ) -> tuple[Array, tuple[Any, ...]]:
        rows = log_probs.ndim == 2 and weight is None and not smoothing and reduction != "none"
        # The usual classifier; a GPU would have to be waited for to know that nothing is ignored.
        if rows and self.xp is np and len(target) and not (target == ignore_index).any():
            return self._picked(log_probs, target, reduction)
        return self._general(log_probs, target, weight, reduction, ignore_index, smoothing)

    def _picked(self, log_p: Array, target: Array, reduction: str) -> tuple[Array, tuple[Any, ...]]:
        rows = np.arange(len(target))
        loss = -log_p[rows, target].sum()
        total = len(target) if reduction == "mean" else 1
        return as_array(loss / total, log_p.dtype), (log_p, rows, target, total)

    def _general(
        self,
        log_p: Array,
        target: Array,
        weight: Array | None,
        reduction: str,
        ignore_index: int,
        smoothing: float,
    ) -> tuple[Array, tuple[Any, ...]]:
        xp = self.xp
        valid = target != ignore_index
        safe = xp.where(valid, target, 0)
        classes = log_p.shape[1]
        w = valid.astype(log_p.dtype) if weight is None else xp.where(valid, weight[safe], 0)
        w = w.astype(log_p.dtype, copy=False)
        if xp is not np:  # nothing can be raised from a GPU
            outside = (safe < 0) | (safe >= classes)
            safe, w = xp.where(outside, 0, safe), xp.where(outside, log_p.dtype.type(np.nan), w)
        loss = -w * xp.take_along_axis(log_p, safe[:, None], 1)[:, 0]
        coefficients = None
        if smoothing:
            per_class = xp.ones(classes, log_p.dtype) if weight is None else weight
            spread = per_class.reshape(-1, *(1,) * (log_p.ndim - 2))
            uniform = -(log_p * spread).sum(axis=1) * valid
            loss = (1 - smoothing) * loss + smoothing / classes * uniform
            coefficients = spread * (smoothing / classes)
        total = w.sum() if reduction == "mean" else log_p.dtype.type(1)
        saved = (log_p, safe, w, valid, coefficients, total)
        if reduction == "none":
            return loss.astype(log_p.dtype, copy=False), saved
        return as_array(loss.sum() / total, log_p.dtype), saved

    def nll_backward(
        self,
        grad_y: Array,
        saved: tuple[Any, ...],
        reduction: str,
        ignore_index: int,
        smoothing: float,
    ) -> Array:
        xp = self.xp
        if len(saved) == 4:
            log_p, rows, target, divisor = saved
            grad_log = xp.zeros(log_p.shape, log_p.dtype)
            grad_log[rows, target] = -(grad_y / divisor)
            return grad_log
        log_p, safe, w, valid, coefficients, total = saved
        scale = grad_y / total if reduction != "none" else grad_y
        scale = xp.broadcast_to(scale, safe.shape)
        main = -w * scale * (1 - smoothing)
        grad_log = xp.zeros(log_p.shape, log_p.dtype)
        xp.put_along_axis(grad_log, safe[:, None], main[:, None], 1)
        if coefficients is not None:
            grad_log -= coefficients * (scale * valid)[:, None]
        return grad_log

    def _softmax_minus_hit(
        self, grad_y: Array, log_p: Array, rows: Array, target: Array, total: int
    ) -> Array:
        """Gradient of the usual classifier's cross-entropy for its logits."""
        scale = grad_y / total
        grad_x = np.empty_like(log_p)
        step = max(1, _BLOCK // max(1, log_p.shape[1]))
        for start in range(0, len(log_p), step):  # both passes over one block while it is in cache
            part = np.exp(log_p[start : start + step], out=grad_x[start : start + step])
            part *= scale
        grad_x[rows, target] -= scale
        return grad_x
