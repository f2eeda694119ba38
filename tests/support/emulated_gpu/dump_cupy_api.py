"""Write `cupy_api.json`: what the installed CuPy has, and what it refuses. Needs no GPU.

python -P tests/support/emulated_gpu/dump_cupy_api.py

Arrays are made on main memory: CuPy looks at types before it asks for a driver.
"""

from __future__ import annotations

import ctypes
import inspect
import json
import re
from pathlib import Path
from typing import Any

import numpy as np

WANTED = Path(__file__).with_name("cupy_api.json")
_TYPES = ("?", "i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8", "f2", "f4", "f8", "c8", "c16")


def parameters(function: Any) -> list[str] | None:
    """Names of its parameters, with the stars of ``*args``; None where it does not tell."""
    try:
        found = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return _documented(function)
    stars = {inspect.Parameter.VAR_POSITIONAL: "*", inspect.Parameter.VAR_KEYWORD: "**"}
    names = [f"{stars.get(p.kind, '')}{p.name}" for p in found]
    if names == ["self", "*args", "**kwargs"]:
        return _documented(function)
    return names


def _documented(function: Any) -> list[str] | None:
    """The parameters that Cython writes into the first line of a function's documentation."""
    first = (getattr(function, "__doc__", None) or "").split("\n", 1)[0]
    match = re.match(r"[\w.]+\((.*)\)", first)
    if match is None:
        return None
    each = re.split(r",\s*(?![^(\[]*[)\]])", match[1])
    return [re.sub(r"=.*", "", p).split()[-1] for p in each if p.strip()]


def public(module: Any) -> dict[str, Any]:
    """Functions of a module (name -> parameters) and ufuncs (name -> types)."""
    found: dict[str, Any] = {}
    for name in sorted(dir(module)):
        value = getattr(module, name)
        if name.startswith("_") or inspect.ismodule(value) or not callable(value):
            continue
        if type(value).__name__ == "ufunc":
            found[name] = {"types": list(value.types)}
        else:
            found[name] = {"parameters": parameters(value)}
    return found


def at_types(cupy: Any) -> dict[str, list[str]]:
    """Types for which ``ufunc.at`` is there, by ufunc."""
    import ml_dtypes

    kept = []

    def array(size: int, dtype: Any) -> Any:
        bytes_ = ctypes.create_string_buffer(16 * size)
        kept.append(bytes_)
        memory = cupy.cuda.UnownedMemory(ctypes.addressof(bytes_), 16 * size, bytes_, 0)
        return cupy.ndarray((size,), dtype, cupy.cuda.MemoryPointer(memory, 0))

    found: dict[str, list[str]] = {}
    for name in sorted(dir(cupy)):
        ufunc = getattr(cupy, name)
        if type(ufunc).__name__ != "ufunc" or not ufunc._scatter_op:
            continue
        found[name] = []
        for dtype in (*map(np.dtype, _TYPES), np.dtype(ml_dtypes.bfloat16)):
            try:
                ufunc.at(array(5, dtype), array(3, np.int64), array(3, dtype))
            except TypeError:
                continue
            except cupy.cuda.runtime.CUDARuntimeError:
                found[name].append(dtype.name)  # types were fine: it has come to the driver
    return found


def api() -> dict[str, Any]:
    """What `cupy_api.json` holds."""
    import cupy

    methods = {
        name: parameters(getattr(cupy.ndarray, name))
        for name in sorted(dir(cupy.ndarray))
        if callable(getattr(cupy.ndarray, name)) and not name.startswith("_")
    }
    return {
        "version": cupy.__version__,
        "ndarray": sorted(dir(cupy.ndarray)),
        "methods": methods,
        "ufunc": sorted(n for n in dir(cupy.add) if not n.startswith("_")),
        "at": at_types(cupy),
        "functions": public(cupy),
        "linalg": public(cupy.linalg),
        "fft": public(cupy.fft),
        "constants": sorted(
            n for n, v in vars(cupy).items() if isinstance(v, float) or v is None or n == "newaxis"
        ),
    }


if __name__ == "__main__":
    WANTED.write_text(json.dumps(api(), indent=1, sort_keys=True) + "\n")
