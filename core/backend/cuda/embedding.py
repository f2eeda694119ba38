"""Embeddings on a GPU: rows by index, and their gradient without atomics."""

from __future__ import annotations

import cupy
import numpy as np

from ...errors import Unsupported
from ..protocol import Array
from . import device
from .base import CudaBase, element_type, fast, require_there
from .kernels import blocks, launch

_FEW = 8192  # positions up to which comparing all with all is quicker than a sort


class CudaEmbedding(CudaBase):
    """Kernels `embedding_*`."""

    @fast
    def embedding_forward(self, weight: Array, indices: Array) -> Array:
        element_type(weight)
        require_there(indices)
        if not (weight.size and indices.size):
            return cupy.empty((*indices.shape, *weight.shape[1:]), weight.dtype)
        table = weight if weight.flags.c_contiguous else weight.copy(order="C")
        where = _listed(indices)
        out = cupy.empty((*indices.shape, *weight.shape[1:]), weight.dtype)
        row_bytes = table.nbytes // len(table)
        grid = blocks(-(-out.nbytes // 16), 256)
        sizes = (np.int64(where.size), np.int64(row_bytes), np.int64(len(table)))
        launch("embedding_rows", None, grid, (256,), (table, where, out, *sizes))
        return out

    @fast
    def embedding_backward(
        self, grad_y: Array, indices: Array, rows: int, padding: int | None, by_frequency: bool
    ) -> Array:
        element_type(grad_y)
        out = cupy.zeros((rows, *grad_y.shape[indices.ndim :]), grad_y.dtype)
        where, n = _listed(indices), indices.size
        if not grad_y.size:
            return out
        if n > (1 << 31) - 1:
            raise Unsupported(f"{n} indices")
        grad = grad_y if grad_y.flags.c_contiguous else grad_y.copy(order="C")
        cols = grad.size // n
        following, first = cupy.empty(n, np.int64), cupy.empty(n, np.uint8)
        links = (np.int64(n), following, first)
        if n <= _FEW or device.capturing():  # CuPy's sort cannot be captured
            launch("embedding_links", None, (-(-n // 256),), (256,), (where, *links))
        else:
            order = cupy.argsort(where)  # stable, as all sorts of CuPy
            args = (where, order, *links)
            launch("embedding_links_sorted", None, blocks(n, 256), (256,), args)
        tail = (np.int64(cols), np.int64(rows), np.int64(-1 if padding is None else padding % rows))
        sums = (grad, where, following, first, out, *tail, np.int32(by_frequency))
        launch("embedding_sums", grad.dtype, (n,), (128,), sums)
        return out


def _listed(indices: Array) -> Array:
    """int64 in C order."""
    return cupy.ascontiguousarray(indices.reshape(-1).astype(np.int64, copy=False))
