"""cuBLAS on one device for one thread, by ctypes: matrix products that CUDA graphs can capture.

CuPy refuses to call cuBLAS while a stream captures, so this calls the same library by itself, with
workspace of our own: cuBLAS's own would become part of the graph. Sums are float32's for halves.

Source: cuBLAS's documentation of cublasGemmEx, cublasGemmStridedBatchedEx, cublasSetWorkspace.
"""

from __future__ import annotations

import ctypes
import importlib
from ctypes import byref, c_double, c_float, c_int, c_longlong, c_size_t, c_void_p
from typing import Any, NamedTuple

import cupy

from ...backends import cuda as settings
from ...errors import DeviceError, Unsupported
from .availability import INSTALL
from .cudnn import Workspace

WORKSPACE = 32 << 20  # bytes: what NVIDIA advises for Hopper

_R_32F, _R_64F, _R_16F, _R_16BF = 0, 1, 2, 14  # cudaDataType
_COMPUTE_32F, _COMPUTE_64F, _COMPUTE_32F_FAST_TF32 = 68, 70, 77
_DISALLOW_REDUCED_PRECISION_REDUCTION = 16  # halves are not summed as halves
_DEFAULT_ALGORITHM = -1
_TYPES = {"f4": _R_32F, "f8": _R_64F, "f2": _R_16F, "b2": _R_16BF}
_OPERATIONS = (0, 1)  # as it is, transposed
_STATUS = {
    1: "NOT_INITIALIZED", 3: "ALLOC_FAILED", 7: "INVALID_VALUE", 8: "ARCH_MISMATCH",
    11: "MAPPING_ERROR", 13: "EXECUTION_FAILED", 14: "INTERNAL_ERROR", 15: "NOT_SUPPORTED",
}  # fmt: skip

_GEMM = (
    c_void_p, c_int, c_int, c_int, c_int, c_int, c_void_p, c_void_p, c_int, c_int, c_void_p,
    c_int, c_int, c_void_p, c_void_p, c_int, c_int, c_int, c_int,
)  # fmt: skip
_BATCHED = (
    c_void_p, c_int, c_int, c_int, c_int, c_int, c_void_p, c_void_p, c_int, c_int, c_longlong,
    c_void_p, c_int, c_int, c_longlong, c_void_p, c_void_p, c_int, c_int, c_longlong, c_int, c_int,
    c_int,
)  # fmt: skip
_PROTOTYPES = {
    "cublasCreate_v2": (c_void_p,),
    "cublasSetStream_v2": (c_void_p, c_void_p),
    "cublasSetWorkspace_v2": (c_void_p, c_void_p, c_size_t),
    "cublasSetMathMode": (c_void_p, c_int),
    "cublasGemmEx": _GEMM,
    "cublasGemmStridedBatchedEx": _BATCHED,
}

_loaded: list[Any] = []


class Operand(NamedTuple):
    """A matrix, or a batch of them, as cuBLAS is told of it; rows one after another in memory.

    Attributes:
        address: of the first element.
        leading: elements from one row to the next (of the transposed matrix if `turned`).
        turned: whether columns lie one after another instead.
        step: elements from one matrix to the next; 0 for the same one.
    """

    address: int
    leading: int
    turned: bool
    step: int = 0


def library() -> Any:
    """The C library, the one that CuPy uses.

    Raises:
        Unsupported: it is not there.
    """
    if not _loaded:
        _loaded.append(_open())
    return _loaded[0]


def forget() -> None:
    """Open it anew at the next question (another one was installed in this process)."""
    _loaded.clear()


def _open() -> Any:
    major = cupy.cuda.runtime.runtimeGetVersion() // 1000
    name = f"libcublas.so.{major}"
    try:
        found = ctypes.CDLL(_path("cublas") or name)
    except OSError as error:
        raise Unsupported(f"cuBLAS cannot be loaded ({error}); {INSTALL}") from error
    for function, arguments in _PROTOTYPES.items():
        getattr(found, function).argtypes = arguments
        getattr(found, function).restype = c_int
    return found


def _path(name: str) -> str | None:
    """Where pip or CUDA's toolkit put a library, as CuPy finds it; None to ask the loader."""
    try:
        pathfinder: Any = importlib.import_module("cuda.pathfinder")
        found: str = pathfinder.load_nvidia_dynamic_lib(name).abs_path
    except Exception:  # noqa: BLE001 - the loader's message is the better one
        return None
    return found


def check(status: int, call: str) -> None:
    """Raise DeviceError unless a call returned success."""
    if status:
        raise DeviceError(f"{call}: CUBLAS_STATUS_{_STATUS.get(status, status)}")


class Cublas:
    """The library for this thread on its device.

    Raises:
        Unsupported: it cannot be used; the message says why.
    """

    def __init__(self) -> None:
        self._library = library()
        handle = c_void_p()
        check(self._library.cublasCreate_v2(byref(handle)), "cublasCreate")
        self._handle = handle.value
        check(
            self._library.cublasSetMathMode(handle, _DISALLOW_REDUCED_PRECISION_REDUCTION),
            "cublasSetMathMode",
        )
        self._workspace = Workspace()
        self._stream = -1
        self._numbers = {
            (kind, value): kept(value)
            for kind, kept in (("f8", c_double), ("f4", c_float))
            for value in (0.0, 1.0)
        }

    def _bind(self) -> None:
        """Work on CuPy's current stream from now on."""
        stream: int = cupy.cuda.get_current_stream().ptr
        address = self._workspace.at_least(WORKSPACE, stream)
        if stream != self._stream:
            # In this order: setting the stream takes the workspace away.
            check(self._library.cublasSetStream_v2(self._handle, stream), "cublasSetStream")
            check(
                self._library.cublasSetWorkspace_v2(self._handle, address, WORKSPACE),
                "cublasSetWorkspace",
            )
            self._stream = stream

    def gemm(
        self,
        kind: str,
        sizes: tuple[int, int, int],
        a: Operand,
        b: Operand,
        c: Operand,
        batch: int = 1,
        add: bool = False,
    ) -> None:
        """c = a @ b, or c += a @ b, for `batch` matrices.

        Args:
            kind: type of all elements: "f4", "f8", "f2" or "b2".
            sizes: (m, n, k) of c (m, n), a (m, k), b (k, n).
            c: not `turned`.

        Raises:
            DeviceError: cuBLAS refuses; the message has its status.
        """
        self._bind()
        m, n, k = sizes
        dtype, compute = _TYPES[kind], _COMPUTE_32F
        if kind == "f8":
            compute = _COMPUTE_64F
        elif kind == "f4" and settings.matmul.allow_tf32:
            compute = _COMPUTE_32F_FAST_TF32
        numbers = "f8" if kind == "f8" else "f4"
        alpha = byref(self._numbers[numbers, 1.0])
        beta = byref(self._numbers[numbers, 1.0 if add else 0.0])
        # cuBLAS counts by columns, and so sees every matrix of ours transposed: c.T = b.T @ a.T.
        head = (self._handle, _OPERATIONS[b.turned], _OPERATIONS[a.turned], n, m, k, alpha)
        if batch == 1:
            status = self._library.cublasGemmEx(
                *head, b.address, dtype, b.leading, a.address, dtype, a.leading, beta, c.address,
                dtype, c.leading, compute, _DEFAULT_ALGORITHM,
            )  # fmt: skip
            check(status, "cublasGemmEx")
            return
        status = self._library.cublasGemmStridedBatchedEx(
            *head, b.address, dtype, b.leading, b.step, a.address, dtype, a.leading, a.step, beta,
            c.address, dtype, c.leading, c.step, batch, compute, _DEFAULT_ALGORITHM,
        )  # fmt: skip
        check(status, "cublasGemmStridedBatchedEx")
