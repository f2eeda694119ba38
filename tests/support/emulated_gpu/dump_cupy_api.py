"""Write `cupy_api.json`: names, parameters and methods of the installed CuPy. Needs no GPU.

python tests/support/emulated_gpu/dump_cupy_api.py
"""

from __future__ import annotations

import inspect
import json
from pathlib import Path
from typing import Any

WANTED = Path(__file__).with_name("cupy_api.json")


def parameters(function: Any) -> list[str] | None:
    """Names of its parameters; None where it does not tell."""
    try:
        return list(inspect.signature(function).parameters)
    except (TypeError, ValueError):
        return None


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


def api() -> dict[str, Any]:
    """What `cupy_api.json` holds."""
    import cupy

    return {
        "version": cupy.__version__,
        "ndarray": sorted(dir(cupy.ndarray)),
        "ufunc": sorted(n for n in dir(cupy.add) if not n.startswith("_")),
        "functions": public(cupy),
        "linalg": public(cupy.linalg),
        "fft": public(cupy.fft),
        "constants": sorted(
            n for n, v in vars(cupy).items() if isinstance(v, float) or v is None or n == "newaxis"
        ),
    }


if __name__ == "__main__":
    WANTED.write_text(json.dumps(api(), indent=1, sort_keys=True) + "\n")
