"""How many threads the libraries beneath the kernels use: fixed, because sums depend on it.

Stage: below the kernels. Imports: `onednn`, ctypes. oneDNN and NumPy's BLAS cut large sums among
their threads, and another cut gives other bits. `pin_threads` sets both, once the number matters.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
from collections.abc import Callable
from typing import Any

from ..errors import Unsupported
from . import cpu_base, get, onednn, use

# Setters of OpenBLAS as NumPy's wheels rename it, of plain OpenBLAS, and of Intel's library.
_SETTERS = (
    "scipy_openblas_set_num_threads64_",
    "scipy_openblas_set_num_threads",
    "openblas_set_num_threads64_",
    "openblas_set_num_threads",
    "MKL_Set_Num_Threads",
)


def pin_threads(count: int) -> None:
    """Let the kernels that this thread calls run on `count` threads, whatever the environment says.

    oneDNN's number belongs to the calling thread, that of NumPy's BLAS to the whole process.
    Primitives that were prepared for another number are prepared anew.

    Raises:
        ValueError: count < 1.
    """
    if count < 1:
        raise ValueError(f"pin_threads: expected a count >= 1, came {count}")
    backend = get()
    if isinstance(backend, cpu_base.CpuBase) and backend.threads() != count:
        use(backend.name)  # its plans were made for another number of threads
    with contextlib.suppress(Unsupported):  # without OpenMP the kernels have one thread
        onednn.set_num_threads(count)
    for setter in _blas_setters():
        setter(count)


@functools.cache
def _blas_setters() -> tuple[Callable[[int], Any], ...]:
    """The functions that set the threads of the BLAS libraries which NumPy has loaded."""
    setters = []
    for path in _loaded_libraries():
        if "blas" not in path.lower() and "mkl_rt" not in path:
            continue
        library = ctypes.CDLL(path)
        for name in _SETTERS:
            if hasattr(library, name):
                setter = getattr(library, name)
                setter.argtypes, setter.restype = (ctypes.c_int,), None
                setters.append(setter)
                break
    return tuple(setters)


def _loaded_libraries() -> list[str]:
    try:
        with open("/proc/self/maps", encoding="utf-8", errors="replace") as maps:
            paths = {line.split(maxsplit=5)[-1].strip() for line in maps if ".so" in line}
    except OSError:  # not Linux
        return []
    return sorted(paths)
