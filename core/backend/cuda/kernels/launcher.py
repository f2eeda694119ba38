"""How our kernels are compiled, once per file and device, and launched.

Imports CuPy when the first kernel is launched.
"""

from __future__ import annotations

import threading
from typing import Any

import numpy as np

from ....errors import DeviceError
from .registry import KERNELS, options, source, suffix

_MOST_BLOCKS = 1 << 16  # beyond, the grid-stride loops take several rounds

_lock = threading.Lock()
_modules: dict[tuple[str, tuple[str, ...]], Any] = {}
_functions: dict[tuple[str, Any], Any] = {}


def blocks(items: int, threads: int) -> tuple[int]:
    """A grid of one-dimensional blocks for `items` work items in a grid-stride loop.

    >>> blocks(1000, 256)
    (4,)
    """
    return (min(max(-(-items // threads), 1), _MOST_BLOCKS),)


def launch(
    name: str,
    dtype: np.dtype[Any] | None,
    grid: tuple[int, ...],
    block: tuple[int, ...],
    args: tuple[Any, ...],
    shared_mem: int = 0,
) -> None:
    """Start a kernel on CuPy's current stream of the current device.

    Args:
        name: a name of the table in `registry.py`.
        dtype: which of its element types; None for a kernel without types.
        grid, block: as CUDA wants them, one to three numbers each.
        args: device arrays, and NumPy scalars of exactly the types that the kernel declares (a
            Python int would be passed as 64 bits, a float as a double).
        shared_mem: bytes of dynamic shared memory.

    Raises:
        DeviceError: the kernel cannot be compiled here; the message has NVRTC's log.
    """
    function = _functions.get((name, dtype)) or _function(name, dtype)
    function(grid, block, args, shared_mem=shared_mem)


def _function(name: str, dtype: np.dtype[Any] | None) -> Any:
    kernel = KERNELS[name]
    symbol = name if dtype is None else f"{name}_{suffix(dtype)}"
    if symbol not in kernel.symbols():
        raise DeviceError(
            f"kernel {name!r} exists for the types {', '.join(kernel.types) or '(none)'}; "
            f"it was asked for {dtype}"
        )
    import cupy

    chosen = options(dtype)
    with _lock:
        module = _modules.get((kernel.file, chosen))
        if module is None:
            # One object for all devices: CuPy compiles and loads it on each that it is used on.
            module = _modules[kernel.file, chosen] = cupy.RawModule(
                code=source(kernel.file), options=chosen, backend="nvrtc"
            )
        found = _functions[name, dtype] = _compiled(module, kernel.file, symbol)
    return found


def _compiled(module: Any, file: str, symbol: str) -> Any:
    """A function of a module, compiled for the current device.

    Raises:
        DeviceError: NVRTC is missing, or refuses the source.
    """
    try:
        module.compile()
        return module.get_function(symbol)
    except Exception as error:
        if type(error).__name__ == "CompileException":
            raise DeviceError(f"{file}: NVRTC cannot compile it:\n{error}") from error
        if "nvrtc" in str(error).lower():
            raise DeviceError(
                f"{file}: kernels are compiled by NVRTC, which CuPy cannot load: {error}. Install "
                "it with `pip install nvidia-cuda-nvrtc nvidia-cuda-runtime` in the version of "
                "your CuPy's CUDA, or CUDA's toolkit."
            ) from error
        raise
