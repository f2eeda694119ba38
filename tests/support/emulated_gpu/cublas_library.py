"""The stand-in for libcublas: products of column-major matrices in device memory."""

from __future__ import annotations

import ctypes
import itertools
from ctypes import c_int, c_longlong, c_size_t, c_void_p
from typing import Any

import numpy as np
from support.emulated_gpu import device, streams
from support.emulated_gpu.numbers import BFLOAT16, extent_bytes, read, tf32, write

SUCCESS, INVALID_VALUE, NOT_SUPPORTED = 0, 7, 15
_DTYPES = {0: np.float32, 1: np.float64, 2: np.float16, 14: BFLOAT16}
_COMPUTE = {(0, 68), (0, 77), (1, 70), (2, 68), (14, 68)}  # (type of the matrices, compute type)
_numbers = itertools.count(0xCB1A5_0000, 0x1000)
handles: dict[int, dict[str, Any]] = {}


def _create(target: int) -> int:
    device.no_capture("cublasCreate")
    number = next(_numbers)
    handles[number] = {"stream": 0, "workspace": None, "math": 0}
    ctypes.c_void_p.from_address(target).value = number
    return SUCCESS


def _set_stream(handle: int, stream: int | None) -> int:
    handles[handle].update(stream=stream or 0, workspace=None)  # which the documentation says
    return SUCCESS


def _set_workspace(handle: int, address: int, size: int) -> int:
    if address % 256:
        return INVALID_VALUE
    handles[handle]["workspace"] = (address, size)
    return SUCCESS


def _set_math_mode(handle: int, mode: int) -> int:
    handles[handle]["math"] = mode
    return SUCCESS


def _number(address: int, dtype: Any) -> float:
    kind = ctypes.c_double if dtype is np.float64 else ctypes.c_float
    return float(kind.from_address(address).value)


def _gemm(
    handle: int, op_a: int, op_b: int, m: int, n: int, k: int, alpha: int, a: int, type_a: int,
    lda: int, b: int, type_b: int, ldb: int, beta: int, c: int, type_c: int, ldc: int,
    compute: int, algo: int,
) -> int:  # fmt: skip
    return _batched(
        handle, op_a, op_b, m, n, k, alpha, a, type_a, lda, 0, b, type_b, ldb, 0, beta, c, type_c,
        ldc, 0, 1, compute, algo,
    )  # fmt: skip


def _batched(
    handle: int, op_a: int, op_b: int, m: int, n: int, k: int, alpha: int, a: int, type_a: int,
    lda: int, step_a: int, b: int, type_b: int, ldb: int, step_b: int, beta: int, c: int,
    type_c: int, ldc: int, step_c: int, batch: int, compute: int, algo: int,
) -> int:  # fmt: skip
    rows_a, rows_b = (k if op_a else m), (n if op_b else k)
    if min(m, n, k, batch) < 0 or lda < max(1, rows_a) or ldb < max(1, rows_b) or ldc < max(1, m):
        return INVALID_VALUE
    if (type_c, compute) not in _COMPUTE or {type_a, type_b, type_c} != {type_c} or algo != -1:
        return NOT_SUPPORTED
    state, dtype = handles[handle], np.dtype(_DTYPES[type_c])
    stream = streams.by_pointer(state["stream"])
    if stream.capture is not None and state["workspace"] is None:
        raise AssertionError("cuBLAS would allocate inside of a capture: set a workspace")
    # As it lies in memory: (batch, columns, rows).
    dims_a = (batch, m if op_a else k, rows_a)
    dims_b = (batch, k if op_b else n, rows_b)
    dims_c = (batch, n, m)
    strides = ((step_a, lda, 1), (step_b, ldb, 1), (step_c, ldc, 1))
    factor, kept = (_number(v, _DTYPES[type_c]) for v in (alpha, beta))

    def compute_it() -> None:
        x, y = read(a, dims_a, dtype, strides[0]), read(b, dims_b, dtype, strides[1])
        if compute == 77:
            x, y = tf32(x), tf32(y)
        left = x if op_a else x.swapaxes(1, 2)  # (batch, m, k)
        right = y if op_b else y.swapaxes(1, 2)
        total = factor * np.matmul(left, right).swapaxes(1, 2)
        if kept:
            total = total + kept * read(c, dims_c, dtype, strides[2])
        write(c, total, dtype, strides[2])

    dims = zip((dims_a, dims_b, dims_c), strides, strict=True)
    sizes = [extent_bytes(d, s, dtype.itemsize) for d, s in dims]
    used = [] if state["workspace"] is None else [state["workspace"]]
    device.launch(
        "cuBLAS gemm", compute_it, [(a, sizes[0]), (b, sizes[1])], [(c, sizes[2]), *used], stream
    )
    return SUCCESS


_GEMM = (
    c_void_p, c_int, c_int, c_int, c_int, c_int, c_void_p, c_void_p, c_int, c_int, c_void_p,
    c_int, c_int, c_void_p, c_void_p, c_int, c_int, c_int, c_int,
)  # fmt: skip
_BATCHED = (
    c_void_p, c_int, c_int, c_int, c_int, c_int, c_void_p, c_void_p, c_int, c_int, c_longlong,
    c_void_p, c_int, c_int, c_longlong, c_void_p, c_void_p, c_int, c_int, c_longlong, c_int, c_int,
    c_int,
)  # fmt: skip
# As cublas_api.h declares them.
FUNCTIONS: dict[str, Any] = {
    "cublasCreate_v2": ((c_void_p,), _create),
    "cublasSetStream_v2": ((c_void_p, c_void_p), _set_stream),
    "cublasSetWorkspace_v2": ((c_void_p, c_void_p, c_size_t), _set_workspace),
    "cublasSetMathMode": ((c_void_p, c_int), _set_math_mode),
    "cublasGemmEx": (_GEMM, _gemm),
    "cublasGemmStridedBatchedEx": (_BATCHED, _batched),
}
