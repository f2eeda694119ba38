"""Data types under their PyTorch names, and the promotion rules between them.

Source of the rules: PyTorch manual, "Tensor Attributes", section "torch.dtype".
Imports NumPy only.
"""

from __future__ import annotations

import threading
from typing import Any

import numpy as np

from .errors import DtypeError

# Promotion category of a NumPy kind: bool < integer < floating < complex.
_CATEGORY = {"b": 0, "u": 1, "i": 1, "f": 2, "c": 3}


class dtype:  # noqa: N801 - PyTorch's spelling
    """A data type: ``allgrad.float32`` and its siblings.

    Attributes:
        name: its name without the package, e.g. ``"float32"``.
        numpy: the `numpy.dtype` that stores it.
        itemsize: bytes per element.
    """

    __slots__ = ("is_complex", "is_floating_point", "itemsize", "name", "numpy")

    def __init__(self, name: str) -> None:
        self.name = name
        self.numpy = np.dtype(name)
        self.itemsize = self.numpy.itemsize
        self.is_floating_point = self.numpy.kind == "f"
        self.is_complex = self.numpy.kind == "c"

    def __repr__(self) -> str:
        return f"allgrad.{self.name}"

    def __reduce__(self) -> str | tuple[Any, ...]:
        return (from_name, (self.name,))


float16 = dtype("float16")
float32 = dtype("float32")
float64 = dtype("float64")
complex64 = dtype("complex64")
complex128 = dtype("complex128")
uint8 = dtype("uint8")
int8 = dtype("int8")
int16 = dtype("int16")
int32 = dtype("int32")
int64 = dtype("int64")
bool_ = dtype("bool")

ALL = (float16, float32, float64, complex64, complex128, uint8, int8, int16, int32, int64, bool_)
_BY_NUMPY = {d.numpy: d for d in ALL}
_BY_NAME = {d.name: d for d in ALL}


class _Default(threading.local):
    dtype = float32


_default = _Default()


def get_default_dtype() -> dtype:
    """The floating type of tensors made from Python floats (per thread; float32 at start)."""
    return _default.dtype


def set_default_dtype(d: dtype) -> None:
    """Set the floating type of tensors made from Python floats.

    Raises:
        DtypeError: `d` is not a floating type.
    """
    if not isinstance(d, dtype) or not d.is_floating_point:
        raise DtypeError(f"set_default_dtype: expected a floating dtype, came {d!r}")
    _default.dtype = d


def from_numpy(numpy_dtype: Any) -> dtype:
    """The allgrad dtype stored as `numpy_dtype`.

    Raises:
        DtypeError: there is none (strings, objects, unsigned 16 bit and wider, ...).
    """
    try:
        return _BY_NUMPY[numpy_dtype]
    except KeyError:
        pass
    found = _BY_NUMPY.get(np.dtype(numpy_dtype))
    if found is None:
        known = ", ".join(_BY_NAME)
        raise DtypeError(f"no allgrad dtype for NumPy's {np.dtype(numpy_dtype)}; known: {known}")
    return found


def from_name(name: str) -> dtype:
    """The dtype called `name`, e.g. ``"float32"``."""
    if name not in _BY_NAME:
        raise DtypeError(f"no dtype is called {name!r}; known: {', '.join(_BY_NAME)}")
    return _BY_NAME[name]


def to_numpy(d: Any) -> np.dtype[Any]:
    """The NumPy dtype of an allgrad dtype, a NumPy dtype, or the Python types bool/int/float."""
    if isinstance(d, dtype):
        return d.numpy
    if d is float:
        return _default.dtype.numpy
    return from_numpy(np.dtype(d)).numpy


def scalar_dtype(value: Any) -> np.dtype[Any]:
    """NumPy dtype that a Python scalar has on its own: bool, int64, default float, complex."""
    if isinstance(value, bool):
        return bool_.numpy
    if isinstance(value, int):
        return int64.numpy
    if isinstance(value, float):
        return _default.dtype.numpy
    return complex128.numpy if _default.dtype is float64 else complex64.numpy


def category(d: np.dtype[Any]) -> int:
    """0 for bool, 1 for integers, 2 for floating, 3 for complex."""
    return _CATEGORY[d.kind]


def promote(a: np.dtype[Any], b: np.dtype[Any]) -> np.dtype[Any]:
    """The dtype of ``a op b`` for two tensors with dimensions.

    Unlike NumPy, an integer with a floating type gives that floating type
    (int64 with float32 is float32).
    """
    if a == b:
        return a
    ca, cb = _CATEGORY[a.kind], _CATEGORY[b.kind]
    if ca < 2 <= cb:
        return b
    if cb < 2 <= ca:
        return a
    return np.promote_types(a, b)


def promote_types(a: dtype, b: dtype) -> dtype:
    """The dtype of the result of an operation on tensors of dtypes `a` and `b`.

    >>> promote_types(int64, float32)
    allgrad.float32
    """
    return from_numpy(promote(a.numpy, b.numpy))
