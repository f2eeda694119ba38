"""Kernels of the devices behind one protocol.

Imports: errors, dtypes, kernel_counts, NumPy, libraries by ctypes.

Each thread has its own instance, because library primitives hold scratch memory and ranks may
be threads.
"""

from __future__ import annotations

import threading

from ..errors import OptionError
from .protocol import Array, Backend, Dims

__all__ = ["Array", "Backend", "Dims", "get", "of", "use"]


class _Instances(threading.local):
    def __init__(self) -> None:
        self.current: Backend | None = None


_instances = _Instances()


def get() -> Backend:
    """This thread's CPU backend: oneDNN where it is installed, else the reference."""
    return _instances.current or use("cpu")


def of(array: Array) -> Backend:
    """The backend whose kernels serve `array`."""
    return _instances.current or use("cpu")


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
