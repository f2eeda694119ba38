"""Sums over the rows or columns of matrices on a GPU, in an order that depends on shapes alone."""

from __future__ import annotations

from typing import Any

import cupy
import numpy as np

from ..arrays import address_of
from ..layout import memory_order
from ..protocol import Array
from .base import F32, CudaBase, element_type, fast, require_elements
from .kernels import blocks, launch

_BLOCK = 256  # threads
_BLOCKS = 512  # of a grid: about four for each multiprocessor of the larger GPUs


class CudaSums(CudaBase):
    """Kernel `sum_to_channels`."""

    @fast
    def sum_to_channels(self, grad_y: Array) -> Array:
        element_type(grad_y)
        require_elements(grad_y)
        channels = grad_y.shape[1]
        order = memory_order(grad_y.shape, grad_y.strides, grad_y.itemsize)
        if order is not None and (order[-1] == 1 or channels == 1):
            return sum_of_rows(grad_y, grad_y.size // channels, channels)
        if not grad_y.flags.c_contiguous:
            grad_y = grad_y.copy(order="C")
        planes = grad_y.shape[0] * channels
        cols = grad_y.size // planes
        sums = cupy.empty((grad_y.shape[0], channels), F32)
        threads = team(planes, cols)
        args = (grad_y, sums, np.int64(planes), np.int64(cols), np.int32(threads))
        launch("sum_rows", grad_y.dtype, blocks(planes * threads, _BLOCK), (_BLOCK,), args)
        return finished(sums, 1, grad_y.shape[0], channels, grad_y.dtype)


def team(rows: int, cols: int) -> int:
    """How many threads share a row: a warp, or a block where rows are long or few."""
    return 256 if cols > 1024 or (cols >= 256 and rows < 2048) else 32


class Columns:
    """How a (rows, cols) matrix, or several on top of each other, is cut for sums of its columns.

    Args:
        matrices: the number of matrices.
        arrays: what is read; whether their addresses allow 16 bytes at a time.

    Attributes:
        vector: whether a thread takes 16 bytes at a time.
        block: (lanes over columns, groups of threads over rows).
        tiles, chunks: how many parts of the columns and of the rows there are.
        chunk: rows of a part.
    """

    __slots__ = ("block", "chunk", "chunks", "tiles", "vector")

    def __init__(self, rows: int, cols: int, *arrays: Array, matrices: int = 1) -> None:
        width = 16 // arrays[0].itemsize
        self.vector = cols % width == 0 and all(address_of(a) % 16 == 0 for a in arrays)
        across = -(-cols // width) if self.vector else cols
        lanes = min(32, 1 << (across - 1).bit_length())
        groups = _BLOCK // lanes
        self.block = (lanes, groups)
        self.tiles = -(-across // lanes)
        # Enough blocks to fill the device, each with at least eight rows for a thread.
        most = min(-(-rows // (8 * groups)), max(_BLOCKS // (self.tiles * matrices), 1))
        self.chunk = -(-rows // max(most, 1))
        self.chunks = -(-rows // self.chunk)


def sum_of_rows(x: Array, rows: int, cols: int) -> Array:
    """Sums (cols,) of the columns of dense x, seen as (rows, cols) in memory, in x's type."""
    cut = Columns(rows, cols, x)
    partial = cupy.empty((cut.chunks, cols), F32)
    args = (x, partial, np.int64(rows), np.int64(cols), np.int64(cut.chunk), np.int32(cut.vector))
    launch("sum_columns", x.dtype, (cut.tiles, cut.chunks), cut.block, args)
    return finished(partial, 1, cut.chunks, cols, x.dtype)


def finished(partial: Array, matrices: int, chunks: int, cols: int, dtype: np.dtype[Any]) -> Array:
    """Sums over the chunks of `partial` (matrices, chunks, cols), flat (matrices * cols,)."""
    if chunks == 1 and dtype == F32:
        return partial.reshape(-1)
    out = cupy.empty(matrices * cols, dtype)
    args = (partial, out, np.int64(chunks), np.int64(cols))
    launch("finish_columns", dtype, (-(-cols // 32), matrices), (32, 8), args)
    return out
