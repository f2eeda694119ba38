"""Attention in plain array code: the oracle and the fallback."""

from __future__ import annotations

from typing import Any

from ..protocol_recurrent import Array


class AttentionKernels:
    """Kernels `attention_*` of the backend protocol on the array module `xp`."""

    xp: Any

    def attention_forward(
        self,
        q: Array,
        k: Array,
        v: Array,
        bias: Array | None,
        scale: float,
        keep: Array | None,
        out: Array,
    ) -> tuple[Array, Array]:
        xp = self.xp
        scores = xp.matmul(q * q.dtype.type(scale), xp.swapaxes(k, -1, -2))
        if bias is not None:
            scores += bias
        if not scores.shape[-1]:  # nothing to attend to
            out[...] = 0
            return out, scores
        top = scores.max(axis=-1, keepdims=True)
        # A query that may attend to nothing gets zeros, not NaN.
        scores -= xp.where(xp.isneginf(top), 0, top).astype(scores.dtype, copy=False)
        probabilities: Array = xp.exp(scores, out=scores)
        total = probabilities.sum(axis=-1, keepdims=True)
        probabilities /= xp.where(total == 0, 1, total)
        xp.matmul(probabilities if keep is None else probabilities * keep, v, out=out)
        return out, probabilities

    def attention_backward(
        self,
        grad: Array,
        q: Array,
        k: Array,
        v: Array,
        probabilities: Array,
        scale: float,
        keep: Array | None,
        out: tuple[Array, Array, Array],
    ) -> Array:
        xp = self.xp
        used = probabilities if keep is None else probabilities * keep
        xp.matmul(xp.swapaxes(used, -1, -2), grad, out=out[2])
        scores = xp.matmul(grad, xp.swapaxes(v, -1, -2))
        if keep is not None:
            scores *= keep
        scores *= probabilities
        scores -= probabilities * scores.sum(axis=-1, keepdims=True)
        scaled = scores * scores.dtype.type(scale)
        xp.matmul(scaled, k, out=out[0])
        xp.matmul(xp.swapaxes(scaled, -1, -2), q, out=out[1])
        return scores
