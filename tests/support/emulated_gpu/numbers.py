"""What the stand-ins for NVIDIA's libraries share: types, and arrays by address."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Any

import ml_dtypes
import numpy as np

BFLOAT16 = np.dtype(ml_dtypes.bfloat16)


def extent_bytes(dims: Sequence[int], strides: Sequence[int], itemsize: int) -> int:
    """Bytes from the first element to behind the last one; strides in elements."""
    return (1 + sum((n - 1) * s for n, s in zip(dims, strides, strict=True))) * itemsize


def at(ptr: int, dims: Sequence[int], dtype: Any, strides: Sequence[int]) -> np.ndarray:
    """Memory at an address that `device.launch` was told of; strides in elements.

    A graph may be launched when the arrays of its capture are gone: nothing is looked up here.
    """
    dtype = np.dtype(dtype)
    buffer = (ctypes.c_uint8 * extent_bytes(dims, strides, dtype.itemsize)).from_address(ptr)
    return np.ndarray(tuple(dims), dtype, buffer, 0, [s * dtype.itemsize for s in strides])


def read(ptr: int, dims: Sequence[int], dtype: Any, strides: Sequence[int]) -> np.ndarray:
    """The values at an address in float32 (float64 stays); strides in elements."""
    dtype = np.dtype(dtype)
    wide = np.float64 if dtype == np.float64 else np.float32
    return at(ptr, dims, dtype, strides).astype(wide)


def write(ptr: int, values: np.ndarray, dtype: Any, strides: Sequence[int]) -> None:
    """Round and store values at an address; strides in elements."""
    at(ptr, values.shape, dtype, strides)[...] = values.astype(dtype)


def tf32(values: np.ndarray) -> np.ndarray:
    """float32 rounded to 10 bits of mantissa."""
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
    rounded = (bits + 0xFFF + ((bits >> 13) & 1)) & np.uint32(0xFFFFE000)
    return np.where(np.isfinite(values), rounded.view(np.float32), values).astype(np.float32)
