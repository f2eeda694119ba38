"""What all CPU kernels share: engine, scratch and plans. How they fall back: `fallback.py`."""

from __future__ import annotations

import functools
import logging
import os
from typing import Any

import numpy as np

from ..errors import Unsupported
from . import memory, onednn
from .fallback import LibraryBackend
from .fallback import fast as fast
from .layout import Ints, element_strides, is_plain
from .onednn_plan import Plan, PlanCache, Scratch

F32 = np.dtype(np.float32)


class CpuBase(LibraryBackend):
    """State of one thread's CPU backend.

    Attributes:
        plans: prepared oneDNN primitives by kernel, shapes, strides and parameters.
        winograd: whether wide 3x3 convolutions may use it; ALLGRAD_WINOGRAD=0 says no.
        missing: why oneDNN is not available, or None.
        bfloat16: whether the CPU multiplies bfloat16; else its products are float32's, rounded.
    """

    name = "cpu"

    def __init__(self) -> None:
        super().__init__(np)
        memory.keep_large_allocations()
        self.winograd = os.environ.get("ALLGRAD_WINOGRAD", "1") != "0"
        self.scratch = Scratch()
        self.plans = PlanCache()
        self._many_ones = np.ones(0, F32)
        self._many_zeros = np.zeros(0, F32)
        self._block = np.empty(0, F32)  # temporary of the optimizer steps
        self.missing: str | None = None
        self.engine: onednn.Engine | None = None
        self.bfloat16 = False
        try:
            self.engine = onednn.Engine()
            self.bfloat16 = self.engine.library.bfloat16
        except Unsupported as refusal:
            self.missing = str(refusal)
            _warn_once(self.missing)

    def new_plan(self, dtype: np.dtype = F32) -> Plan:
        """An empty plan on this thread's engine for arrays of float32 or bfloat16.

        Raises:
            Unsupported: oneDNN is not available.
        """
        if self.engine is None:
            raise Unsupported(f"oneDNN is not available: {self.missing}")
        return Plan(self.engine, self.scratch, onednn.F32 if dtype == F32 else onednn.BF16)

    def element_type(self, *arrays: np.ndarray | None, product: bool = False) -> np.dtype:
        """The type that all arrays (except None) have: float32 or bfloat16.

        Args:
            product: the work is matrix products, which oneDNN emulates at a quarter of float32's
                speed where the CPU has no instructions for bfloat16.

        Raises:
            Unsupported: another type, or several, or one that is slow.
        """
        first: Any = arrays[0]
        dtype = first.dtype
        if dtype is not F32 and dtype != F32:
            if dtype.kind != "V":
                raise Unsupported(f"dtype {dtype}")
            if product and not self.bfloat16:
                raise Unsupported("this CPU has no instructions for bfloat16")
        for array in arrays:
            if array is not None and array.dtype is not dtype and array.dtype != dtype:
                raise Unsupported(f"dtypes {dtype} and {array.dtype}")
        return dtype

    def reordered(self, array: np.ndarray, strides: Ints) -> np.ndarray:
        """A dense copy of `array` with `strides`, by oneDNN (NumPy takes 5 times as long).

        Views that oneDNN cannot describe are copied by NumPy.
        """
        size = array.itemsize
        copy = np.ndarray(array.shape, array.dtype, None, 0, strides)
        if array.ndim > 6 or not is_plain(array.shape, array.strides, size):
            copy[...] = array
            return copy
        key = ("reorder", size, array.shape, array.strides, strides)
        plan = self.plans.get(key)
        if plan is None:
            plan = self.new_plan(array.dtype)
            given, wanted = (
                plan.strided(array.shape, element_strides(array.shape, s, size))
                for s in (array.strides, strides)
            )
            plan.reorder(given, plan.external(given), wanted, plan.external(wanted))
            self.plans.add(key, plan)
        plan.run(array, copy)
        return copy

    def threads(self) -> int:
        """How many threads oneDNN uses for work started by this thread."""
        return 1 if self.engine is None else self.engine.threads()

    def _ones(self, count: int) -> np.ndarray:
        """A read-only vector of `count` ones."""
        if count > self._many_ones.size:
            self._many_ones = np.ones(count, F32)
            self._many_ones.setflags(write=False)
        return self._many_ones[:count]

    def _zeros(self, count: int) -> np.ndarray:
        """A read-only vector of `count` zeros."""
        if count > self._many_zeros.size:
            self._many_zeros = np.zeros(count, F32)
            self._many_zeros.setflags(write=False)
        return self._many_zeros[:count]


def require_float32(*arrays: np.ndarray | None) -> None:
    """Raise Unsupported unless every array that is not None is native float32."""
    for array in arrays:
        if array is not None and array.dtype is not F32 and array.dtype != F32:
            raise Unsupported(f"dtype {array.dtype}")


def require_elements(*arrays: np.ndarray) -> None:
    """Raise Unsupported if an array is empty."""
    for array in arrays:
        if array.size == 0:
            raise Unsupported("empty array")


@functools.cache
def _warn_once(reason: str) -> None:
    logging.getLogger("allgrad").warning("slow reference kernels will be used: %s", reason)
