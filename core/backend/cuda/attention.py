"""Attention on a GPU: batched products by cuBLAS around our softmax kernels.

The scores are kept for backward, as in the reference: memory grows with the product of queries and
keys. Half types multiply with sums in float32 and keep scores and weights in the half type.
"""

from __future__ import annotations

import cupy

from ..protocol_recurrent import Array
from .base import element_type, fast, require_elements
from .linear import CudaLinear
from .softmax import CudaSoftmax


class CudaAttention(CudaLinear, CudaSoftmax):
    """Kernels `attention_*` of the backend protocol."""

    @fast
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
        element_type(q, k, v)
        require_elements(q, k, v)
        scores = self.matmul(q * q.dtype.type(scale), cupy.swapaxes(k, -1, -2))
        dead = None
        if bias is not None:
            scores += bias
            dead = cupy.isneginf(scores.max(axis=-1, keepdims=True))
        probabilities = self.softmax_forward(scores, scores.ndim - 1)
        if dead is not None:  # a query that may attend to nothing gets zeros, not NaN
            probabilities = cupy.where(dead, probabilities.dtype.type(0), probabilities)
        used = probabilities if keep is None else probabilities * keep
        self._into(out, used, v)
        return out, probabilities

    @fast
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
        element_type(grad, q, k, v, probabilities)
        require_elements(q, k, v)
        used = probabilities if keep is None else probabilities * keep
        self._into(out[2], cupy.swapaxes(used, -1, -2), grad)
        scores = self.matmul(grad, cupy.swapaxes(v, -1, -2))
        if keep is not None:
            scores *= keep
        scores = self.softmax_backward(scores, probabilities, scores.ndim - 1)
        scaled = scores * scores.dtype.type(scale)
        self._into(out[0], scaled, k)
        self._into(out[1], cupy.swapaxes(scaled, -1, -2), q)
        return scores

    def _into(self, out: Array, a: Array, b: Array) -> None:
        """out = a @ b, rounded to the type of `out`."""
        if out.dtype == a.dtype:
            self.matmul(a, b, out)
        else:
            out[...] = self.matmul(a, b)
