"""Reads pickles of plain data, and nothing else: no code of the file is ever run.

The Python version of CIFAR is a pickle written by Python 2; unpickling it without limits would
let a manipulated file do anything.
"""

from __future__ import annotations

import io
import pickle
from pathlib import Path
from typing import Any

import numpy as np
from numpy._core import multiarray  # where NumPy itself looks these names up

from ...errors import DatasetError

_ALLOWED = {
    "_reconstruct": multiarray._reconstruct,
    "ndarray": np.ndarray,
    "dtype": np.dtype,
    "encode": lambda text, encoding="latin1": text.encode(encoding),
}
_MODULES = {
    "numpy": ("ndarray", "dtype"),
    "numpy.core.multiarray": ("_reconstruct",),
    "numpy._core.multiarray": ("_reconstruct",),
    "_codecs": ("encode",),
}


class _PlainUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if name in _MODULES.get(module, ()):
            return _ALLOWED[name]
        raise pickle.UnpicklingError(f"it asks for {module}.{name}, which plain data does not need")


def read_pickle(path: Path) -> dict[bytes, Any]:
    """The dictionary in a pickle of NumPy arrays, bytes, numbers, lists and dictionaries.

    Raises:
        DatasetError: the file is cut off, damaged, or holds anything else.
    """
    raw = path.read_bytes()
    try:
        data = _PlainUnpickler(io.BytesIO(raw), encoding="bytes").load()
    except (pickle.UnpicklingError, EOFError, ValueError, TypeError, KeyError, IndexError,
            AttributeError, UnicodeError, MemoryError, OverflowError) as err:  # fmt: skip
        raise DatasetError(
            f"{path}: truncated or damaged pickle ({len(raw)} bytes): {err}; delete it and fetch "
            "it again"
        ) from err
    if not isinstance(data, dict):
        raise DatasetError(f"{path}: expected a dictionary, found {type(data).__name__}")
    return {k.encode() if isinstance(k, str) else k: v for k, v in data.items()}
