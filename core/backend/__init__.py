"""Kernels of the devices behind one protocol.

Imports: errors, dtypes, kernel_counts, NumPy, libraries by ctypes; CuPy when a GPU is asked for.

Each thread has its own instance, because library primitives hold scratch memory and ranks may
be threads.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import OptionError
from .protocol import Array, Backend, Dims

if TYPE_CHECKING:
    from .fallback import LibraryBackend

__all__ = ["Array", "Backend", "Dims", "get", "of", "use"]


class _Instances(threading.local):
    def __init__(self) -> None:
        self.current: Backend | None = None
        self.cuda: dict[int, LibraryBackend] = {}


_instances = _Instances()


def get() -> Backend:
    """This thread's CPU backend: oneDNN where it is installed, else the reference."""
    return _instances.current or use("cpu")


def of(array: Any) -> Backend:
    """The backend whose kernels serve `array`."""
    if type(array) is np.ndarray:
        return _instances.current or use("cpu")
    return _of_other(array)


def _of_other(array: Any) -> Backend:
    from . import arrays

    index = arrays.index_of(array)
    return get() if index is None else on_cuda(index)


def on_cuda(index: int) -> LibraryBackend:
    """This thread's backend of a GPU, which is the current one from now on."""
    from .cuda import device

    device.use(index)
    found = _instances.cuda.get(index)
    if found is None:
        from .cuda.backend import CudaBackend

        found = _instances.cuda[index] = CudaBackend()
    return found


def use(name: str) -> Backend:
    """Make `name` this thread's backend for CPU tensors and return it.

    Args:
        name: "cpu" (oneDNN) or "reference" (plain NumPy, for comparison).

    Raises:
        OptionError: any other name.
    """
    if name == "cpu":
        from .cpu import CpuBackend

        _instances.current = CpuBackend()
    elif name == "reference":
        from .reference import RoundingReference

        _instances.current = RoundingReference()
    else:
        raise OptionError.unknown("backend", name, ("cpu", "reference"))
    return _instances.current
