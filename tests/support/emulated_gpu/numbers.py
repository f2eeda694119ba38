"""What the stand-ins for NVIDIA's libraries share: types, and arrays by address."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import ml_dtypes
import numpy as np
from support.emulated_gpu import device

BFLOAT16 = np.dtype(ml_dtypes.bfloat16)


def extent_bytes(dims: Sequence[int], strides: Sequence[int], itemsize: int) -> int:
    """Bytes from the first element to behind the last one; strides in elements."""
    return (1 + sum((n - 1) * s for n, s in zip(dims, strides, strict=True))) * itemsize


def read(ptr: int, dims: Sequence[int], dtype: Any, strides: Sequence[int]) -> np.ndarray:
    """The values at an address in float32 (float64 stays); strides in elements."""
    dtype = np.dtype(dtype)
    found = device.at(ptr, dims, dtype, [s * dtype.itemsize for s in strides])
    return found.astype(np.float64 if dtype == np.float64 else np.float32)


def write(ptr: int, values: np.ndarray, dtype: Any, strides: Sequence[int]) -> None:
    """Round and store values at an address; strides in elements."""
    dtype = np.dtype(dtype)
    target = device.at(ptr, values.shape, dtype, [s * dtype.itemsize for s in strides])
    target[...] = values.astype(dtype)


def tf32(values: np.ndarray) -> np.ndarray:
    """float32 rounded to 10 bits of mantissa."""
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
    rounded = (bits + 0xFFF + ((bits >> 13) & 1)) & np.uint32(0xFFFFE000)
    return np.where(np.isfinite(values), rounded.view(np.float32), values).astype(np.float32)
