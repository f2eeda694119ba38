"""Matrix products on GPUs through cuBLAS: the linear layer, `matmul`, and both inside of captures.

Matrices whose rows or columns lie densely are used as they are, whatever the batch's strides;
others are copied first.
"""

from __future__ import annotations

import math

import cupy
import numpy as np

from ...errors import ShapeError, Unsupported
from ..protocol import Array, Dims
from .base import CudaBase, element_type, fast, require_elements
from .cublas import Cublas, Operand
from .cudnn import address
from .kernels import blocks, launch

_THREADS = 256
_FEW = 4  # up to so many calls are made for a batch that is not evenly spaced
_LARGEST = (1 << 31) - 1  # cuBLAS counts in 32 bits
F64 = np.dtype(np.float64)


class CudaLinear(CudaBase):
    """Kernels `linear_forward` and `matmul` of the backend protocol."""

    _cublas: Cublas | None = None

    @property
    def cublas(self) -> Cublas:
        """This thread's cuBLAS on this device."""
        if self._cublas is None:
            self._cublas = Cublas()
        return self._cublas

    @fast
    def linear_forward(
        self, x: Array, weight: Array, bias: Array | None, activation: str | None = None
    ) -> Array:
        kind = _kind(x, weight, bias)
        require_elements(x, weight)
        (m, k), n = x.shape, weight.shape[0]
        if weight.shape[1] != k:
            raise ShapeError(f"linear: inner sizes differ: {x.shape} @ {weight.shape}.T")
        a, b = _operand(x), _operand(weight.T)
        y = cupy.empty((m, n), x.dtype)
        self.cublas.gemm(kind, _counts(m, n, k), a[1], b[1], Operand(address(y), n, False))
        if bias is not None and kind == "f8":
            y += bias
        elif bias is not None:
            held = bias if bias.flags.c_contiguous else bias.copy(order="C")
            sizes = (np.int64(y.size), np.int64(n), np.int32(activation == "relu"))
            launch("add_bias", x.dtype, blocks(y.size, _THREADS), (_THREADS,), (y, held, *sizes))
            return y
        if activation == "relu":
            return cupy.maximum(y, 0, out=y) if kind == "f8" else self.relu_forward(y)
        return y

    @fast
    def matmul(self, a: Array, b: Array, out: Array | None = None) -> Array:
        kind = _kind(a, b, out)
        if a.shape[-1] != b.shape[-2]:
            raise ShapeError(f"matmul: inner sizes differ: {a.shape} @ {b.shape}")
        require_elements(a, b)
        batch = np.broadcast_shapes(a.shape[:-2], b.shape[:-2])
        shape = (*batch, a.shape[-2], b.shape[-1])
        if out is not None and out.shape != shape:
            raise ShapeError(f"matmul: out has shape {out.shape}, the product {shape}")
        y = out if out is not None and out.flags.c_contiguous else cupy.empty(shape, a.dtype)
        self._multiply(kind, a, b, y, batch)
        if out is not None and y is not out:
            out[...] = y
            return out
        return y

    def _multiply(self, kind: str, a: Array, b: Array, y: Array, batch: Dims) -> None:
        """y = a @ b, y C-contiguous."""
        m, k, n = a.shape[-2], a.shape[-1], b.shape[-1]
        sizes = _counts(m, n, k)
        a, b = (_spread(_operand(x)[0], batch) for x in (a, b))
        steps = [_even_step(x, batch) for x in (a, b)]
        if None not in steps:
            first, second = (
                _operand(x)[1]._replace(step=step or 0)
                for x, step in zip((a, b), steps, strict=True)
            )
            target = Operand(address(y), n, False, m * n)
            self.cublas.gemm(kind, sizes, first, second, target, math.prod(batch))
        elif batch[0] <= _FEW and len(batch) > 1:
            for i in range(batch[0]):
                self._multiply(kind, a[i], b[i], y[i], batch[1:])
        else:
            a, b = (
                x if step is not None else x.copy(order="C")
                for x, step in zip((a, b), steps, strict=True)
            )
            self._multiply(kind, a, b, y, batch)


def _kind(*arrays: Array | None) -> str:
    """The type that all arrays (except None) have: "f4", "f2", "b2" or "f8".

    Raises:
        Unsupported: another type, or several.
    """
    given = [a for a in arrays if a is not None]
    return "f8" if all(a.dtype == F64 for a in given) else element_type(*given)


def _counts(m: int, n: int, k: int) -> tuple[int, int, int]:
    if max(m, n, k) > _LARGEST:
        raise Unsupported("more than 2**31 - 1 rows or columns")
    return m, n, k


def _operand(x: Array) -> tuple[Array, Operand]:
    """A matrix, or a batch, for cuBLAS: the array itself if it can take it, else a copy."""
    rows, columns = x.shape[-2:]
    step_row, step_column = (s // x.itemsize for s in x.strides[-2:])
    start = address(x)
    if (step_column == 1 or columns == 1) and (step_row >= columns or rows == 1):
        return x, Operand(start, step_row if rows > 1 else columns, False)
    if (step_row == 1 or rows == 1) and (step_column >= rows or columns == 1):
        return x, Operand(start, step_column if columns > 1 else rows, True)
    return _operand(x.copy(order="C"))


def _spread(x: Array, batch: Dims) -> Array:
    """`x` with the batch's leading axes, of which the missing ones have step 0."""
    shape = (*batch, *x.shape[-2:])
    return x if x.shape == shape else cupy.broadcast_to(x, shape)


def _even_step(x: Array, batch: Dims) -> int | None:
    """Elements from one matrix of the batch to the next; None if they differ."""
    step: int | None = None
    reach = 0
    for n, stride in zip(reversed(batch), reversed(x.strides[:-2]), strict=True):
        if n == 1:
            continue
        if step is None:
            step = stride
        elif stride != reach:
            return None
        reach = stride * n
    return (step or 0) // x.itemsize
