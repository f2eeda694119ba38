"""`at` of NumPy's ufuncs on arrays of any device: CuPy's takes some types. Others: `ops.scan`.

May import: NumPy, `arrays`.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from .arrays import is_array

# The types that `at` of CuPy takes: NumPy's letters.
_WIDE = frozenset("ilILqQfd")
_TAKEN: dict[Any, frozenset[str] | set[str]] = {
    np.add: _WIDE | {"e"},
    np.maximum: _WIDE,
    np.minimum: _WIDE,
}


def at(ufunc: np.ufunc, array: Any, key: Any, values: Any) -> None:
    """``ufunc.at``: combine the elements that `key` names with values, each as often as named.

    On a GPU the order of additions is not fixed, as in PyTorch.

    Args:
        ufunc: `np.add`, `np.maximum` or `np.minimum`.
        array: is changed.
        key: index arrays, beside `array`.
        values: an array beside it, broadcast, or a number.
    """
    dtype = array.dtype
    if type(array) is np.ndarray or dtype.char in _TAKEN[ufunc]:
        ufunc.at(array, key, values)
    elif dtype.kind == "c":
        real, imaginary = np.real(values), np.imag(values)
        at(ufunc, array.real, key, real)
        at(ufunc, array.imag, key, imaginary)
    else:  # small numbers
        wide = array.astype(np.int32 if dtype.kind in "biu" else np.float32)
        at(ufunc, wide, key, values.astype(wide.dtype) if is_array(values) else values)
        array[...] = wide.astype(dtype)
