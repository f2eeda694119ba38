"""What all CUDA kernels share. How they fall back: `..fallback`."""

from __future__ import annotations

from typing import Any

import cupy
import numpy as np

from ...errors import Unsupported
from ..fallback import LibraryBackend
from ..fallback import fast as fast
from . import device

F32 = np.dtype(np.float32)
F16 = np.dtype(np.float16)


class CudaBase(LibraryBackend):
    """State of one thread's CUDA backend on one device.

    Attributes:
        index: the number of the device.
    """

    name = "cuda"

    def __init__(self) -> None:
        super().__init__(cupy)
        self.index = device.current()


def is_bfloat16(dtype: np.dtype[Any]) -> bool:
    """Whether it is bfloat16, of the package ml_dtypes."""
    return dtype.kind == "V" and dtype.name == "bfloat16"


def element_type(*arrays: Any) -> str:
    """How kernels call the one type that all arrays (except None) have: "f4", "f2" or "b2".

    Raises:
        Unsupported: another type, or several.
    """
    found = {a.dtype for a in arrays if a is not None}
    if len(found) != 1:
        raise Unsupported(f"dtypes {' and '.join(sorted(map(str, found)))}")
    (dtype,) = found
    if dtype == F32:
        return "f4"
    if dtype == F16:
        return "f2"
    if is_bfloat16(dtype):
        return "b2"
    raise Unsupported(f"dtype {dtype}")


def require_there(*arrays: Any) -> None:
    """Raise unless all arrays (except None) lie on a GPU, where CuPy would copy them silently.

    Raises:
        TypeError: one lies in main memory.
    """
    for array in arrays:
        if array is not None and not isinstance(array, cupy.ndarray):
            raise TypeError(f"expected an array of a GPU, came {type(array).__name__}")


def require_elements(*arrays: Any) -> None:
    """Raise Unsupported if an array is empty."""
    for array in arrays:
        if array.size == 0:
            raise Unsupported("empty array")
