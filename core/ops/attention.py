"""Scaled dot-product attention as one op.

Source: Vaswani et al. 2017, "Attention is all you need".
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

from .. import backend
from ..backend import Array, Dims
from ..backend.arrays import constant, contiguous, on_device
from .base import Op
from .dropout import factors
from .elementwise import Grads

Heads = tuple[Array, Array, Array]  # queries, keys, values


class Attention(Op):
    """softmax(scale * q @ k.T + mask) @ v: (q, k, v, mask) -> (..., L, V).

    The mask is boolean (True: may attend), floating (added), or None.

    Args:
        scale: factor of the products.
        causal: a query attends to no later key.
        dropout: probability of dropping a weight.
    """

    fresh_grads = True

    def __init__(self, scale: float, causal: bool = False, dropout: float = 0.0) -> None:
        self.scale, self.causal, self.dropout = scale, causal, dropout

    def forward(self, q: Array, k: Array, v: Array, mask: Array | None) -> Array:
        lead = np.broadcast_shapes(q.shape[:-2], k.shape[:-2], v.shape[:-2])
        y = np.empty((*lead, q.shape[-2], v.shape[-1]), q.dtype, like=q)
        heads = _spread(q, k, v, lead)
        y, probabilities, keep = self._attend(heads, mask, y)
        if any(self.needs):
            self.saved = (q, k, v, probabilities, keep, lead)
        return y

    def backward(self, grad: Array) -> Grads:
        q, k, v, probabilities, keep, lead = self.saved
        heads = _spread(q, k, v, lead)
        a, b, c = (np.empty(part.shape, _wide(part.dtype), like=part) for part in heads)
        out = a, b, c
        q, k, v = heads
        kernels = backend.of(grad)
        scores = kernels.attention_backward(grad, q, k, v, probabilities, self.scale, keep, out)
        return (*out, scores if self.needs[3] else None)

    def _attend(
        self, heads: Heads, mask: Array | None, y: Array
    ) -> tuple[Array, Array, Array | None]:
        """Fill y; returns it, the weights, and the factors of their dropout."""
        q, k, v = heads
        kernels = backend.of(q)
        bias = additive(mask, self.causal, (q.shape[-2], k.shape[-2]), q)
        keep = None
        if self.dropout:
            shape = (*q.shape[:-1], k.shape[-2])
            if on_device(q):  # which draws by itself
                ones = np.ones_like(q, shape=shape, order="C")
                keep = kernels.dropout_forward(ones, self.dropout, False, False)[0]
            else:
                keep = factors(shape, self.dropout, q.dtype)
        return *kernels.attention_forward(q, k, v, bias, self.scale, keep, y), keep


class HeadsAttention(Attention):
    """Attention of `heads` heads, each a part of the features: (qkv, mask) -> (N, L, D).

    `qkv` is the projection (N, L, 3 * D) to queries, keys and values side by side. Its parts are
    read, and its gradient is written, where they lie.

    Args:
        heads: number of heads.
        steps_first: `qkv` is (L, N, 3 * D), and the result (L, N, D).
    """

    def __init__(
        self, heads: int, scale: float, causal: bool, dropout: float, steps_first: bool
    ) -> None:
        super().__init__(scale, causal, dropout)
        self.heads, self.steps_first = heads, steps_first

    def forward(self, qkv: Array, mask: Array | None) -> Array:  # type: ignore[override]
        y = np.empty((*qkv.shape[:2], qkv.shape[2] // 3), qkv.dtype, like=qkv)
        qkv = contiguous(qkv)
        out = self._parts(y, 1)[0]
        _, probabilities, keep = self._attend(self._heads(qkv), mask, out)
        if self.needs[0]:
            self.saved = (qkv, probabilities, keep)
        return y

    def backward(self, grad: Array) -> Grads:
        qkv, probabilities, keep = self.saved
        grad_qkv = np.empty(qkv.shape, _wide(qkv.dtype), like=qkv)
        grad = self._parts(contiguous(grad), 1)[0]
        q, k, v = self._heads(qkv)
        kernels, out = backend.of(grad), self._heads(grad_qkv)
        kernels.attention_backward(grad, q, k, v, probabilities, self.scale, keep, out)
        return grad_qkv, None

    def _heads(self, qkv: Array) -> Heads:
        q, k, v = self._parts(qkv, 3)
        return q, k, v

    def _parts(self, x: Array, count: int) -> list[Array]:
        """Views (N, heads, L, E) of the `count` parts of the last axis."""
        a, b, features = x.shape
        split = x.reshape(a, b, count, self.heads, features // (count * self.heads))
        order = (2, 1, 3, 0, 4) if self.steps_first else (2, 0, 3, 1, 4)
        return list(split.transpose(order))


def _spread(q: Array, k: Array, v: Array, lead: Dims) -> Heads:
    """All three with the leading axes `lead`."""
    a, b, c = (np.broadcast_to(part, (*lead, *part.shape[-2:])) for part in (q, k, v))
    return a, b, c


def _wide(dtype: Any) -> Any:
    """The dtype, or float32 for half types, in which kernels do not write gradients."""
    return np.result_type(dtype, np.float32)


def additive(mask: Array | None, causal: bool, size: Dims, like: Array) -> Array | None:
    """What is added to the scores, in the dtype of `like`, for a mask and for causality."""
    dtype = like.dtype
    bias = None
    if mask is not None:
        bias = mask if mask.dtype != bool else np.where(mask, dtype.type(0), dtype.type(-np.inf))
    if not causal:
        return bias
    later = constant(causal_bias(*size, dtype.str), like)
    return later if bias is None else bias + later


@functools.lru_cache(32)
def causal_bias(queries: int, keys: int, dtype: str) -> Array:
    """-inf where a key is later than the query, else 0; (queries, keys), read-only."""
    bias = np.triu(np.full((queries, keys), -np.inf, dtype), 1)
    bias.setflags(write=False)
    return bias
