"""Data types under their PyTorch names, and the promotion rules between them.

Source of the rules: PyTorch manual, "Tensor Attributes", section "torch.dtype".
Imports NumPy; `ml_dtypes`, which gives NumPy the type bfloat16, when bfloat16 is first used.

Note [Half precision]
float16 and bfloat16 are *half* types: 2 bytes, computed in float32, and every result rounded once.
NumPy's kind of bfloat16 is "V", so code asks `kind in FLOATING`, never `kind == "f"`. `graph.apply`
gives an op float32 copies of its half inputs and rounds what it returns, unless the op says that it
takes halves itself (`Op.takes_half`: it only moves data, or its kernel handles them).
"""

from __future__ import annotations

import threading
from typing import Any

import numpy as np

from .errors import DtypeError

# Promotion category of a NumPy kind: bool < integer < floating < complex.
_CATEGORY = {"b": 0, "u": 1, "i": 1, "f": 2, "V": 2, "c": 3}

# NumPy's kinds of floating types, and of those that can have gradients. "V" is bfloat16.
FLOATING = "fV"
DIFFERENTIABLE = "fcV"


class dtype:  # noqa: N801 - PyTorch's spelling
    """A data type: ``allgrad.float32`` and its siblings.

    Attributes:
        name: its name without the package, e.g. ``"float32"``.
        numpy: the `numpy.dtype` that stores it.
        itemsize: bytes per element.
    """

    __slots__ = ("is_complex", "is_floating_point", "itemsize", "name", "numpy")

    numpy: np.dtype[Any]

    def __init__(self, name: str) -> None:
        self.name = name
        if name == "bfloat16":  # `numpy` is set by __getattr__, which imports ml_dtypes
            self.itemsize, self.is_floating_point, self.is_complex = 2, True, False
            return
        self.numpy = np.dtype(name)
        self.itemsize = self.numpy.itemsize
        self.is_floating_point = self.numpy.kind == "f"
        self.is_complex = self.numpy.kind == "c"

    def __getattr__(self, name: str) -> Any:
        if name != "numpy":
            raise AttributeError(f"dtype has no attribute {name!r}")
        import ml_dtypes  # noqa: PLC0415 - not before it is used

        self.numpy = np.dtype(ml_dtypes.bfloat16)
        _BY_NUMPY[self.numpy] = self
        return self.numpy

    @property
    def is_signed(self) -> bool:
        """Whether negative numbers exist."""
        return self.name not in ("uint8", "bool")

    def __repr__(self) -> str:
        return f"allgrad.{self.name}"

    def __reduce__(self) -> str | tuple[Any, ...]:
        return (from_name, (self.name,))


float16 = dtype("float16")
bfloat16 = dtype("bfloat16")
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

ALL = (
    float16, bfloat16, float32, float64, complex64, complex128, uint8, int8, int16, int32, int64,
    bool_,
)  # fmt: skip
_BY_NUMPY = {d.numpy: d for d in ALL if d is not bfloat16}
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
    given = np.dtype(numpy_dtype)
    found = _BY_NUMPY.get(given)
    if found is None and given.name == "bfloat16" and given == bfloat16.numpy:
        return bfloat16
    if found is None:
        known = ", ".join(_BY_NAME)
        raise DtypeError(f"no allgrad dtype for NumPy's {given}; known: {known}")
    return found


def from_name(name: str) -> dtype:
    """The dtype called `name`, e.g. ``"float32"``."""
    if name not in _BY_NAME:
        raise DtypeError(f"no dtype is called {name!r}; known: {', '.join(_BY_NAME)}")
    return _BY_NAME[name]


def to_numpy(d: Any) -> np.dtype[Any]:
    """The NumPy dtype of an allgrad dtype, a NumPy dtype, or of bool, int, float, complex."""
    if isinstance(d, dtype):
        return d.numpy
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
    if a.itemsize == b.itemsize == 2 and ca == 2 == cb:  # float16 with bfloat16
        return float32.numpy
    return np.promote_types(a, b)


def is_half(d: np.dtype[Any]) -> bool:
    """Whether `d` is float16 or bfloat16. See Note [Half precision]."""
    return d.itemsize == 2 and d.kind in FLOATING


def promote_types(type1: dtype, type2: dtype) -> dtype:
    """The dtype of the result of an operation on tensors of dtypes `type1` and `type2`.

    >>> promote_types(int64, float32)
    allgrad.float32
    """
    return from_numpy(promote(type1.numpy, type2.numpy))


class finfo:  # noqa: N801 - PyTorch's spelling
    """Limits of a floating type (default: the default type); of its parts if it is complex.

    Attributes:
        bits: bits per number.
        eps: distance from 1 to the next larger number.
        max, min: largest and lowest finite number.
        tiny, smallest_normal: smallest positive number of full precision.
        resolution: the decimal digits that are exact, as a number.
        dtype: the type's name.

    Raises:
        DtypeError: not a floating or complex type.

    >>> finfo(bfloat16).eps
    0.0078125
    """

    def __init__(self, type: dtype | None = None) -> None:
        d = _default.dtype if type is None else type
        if not isinstance(d, dtype) or not (d.is_floating_point or d.is_complex):
            raise DtypeError(f"finfo: expected a floating or complex dtype, came {d!r}; see iinfo")
        part: Any = d.numpy
        if d is bfloat16:
            import ml_dtypes  # noqa: PLC0415 - not before it is used

            limits: Any = ml_dtypes.finfo(part)
        else:
            limits = np.finfo(part)
        self.dtype = from_numpy(limits.dtype).name
        self.bits = int(limits.bits)
        self.eps, self.max, self.min = float(limits.eps), float(limits.max), float(limits.min)
        self.tiny = self.smallest_normal = float(limits.smallest_normal)
        self.resolution = 10.0 ** -int(limits.precision)

    def __repr__(self) -> str:
        return (
            f"finfo(resolution={self.resolution:g}, min={self.min:g}, max={self.max:g}, "
            f"eps={self.eps:g}, smallest_normal={self.tiny:g}, tiny={self.tiny:g}, "
            f"dtype={self.dtype})"
        )


class iinfo:  # noqa: N801 - PyTorch's spelling
    """Limits of an integer type.

    Attributes:
        bits: bits per number.
        max, min: largest and lowest number.
        dtype: the type's name.

    Raises:
        DtypeError: not an integer type.

    >>> iinfo(int8).max
    127
    """

    def __init__(self, type: dtype) -> None:
        if not isinstance(type, dtype) or type.numpy.kind not in "iu":
            raise DtypeError(f"iinfo: expected an integer dtype, came {type!r}; see finfo")
        limits = np.iinfo(type.numpy)
        self.dtype, self.bits = type.name, int(limits.bits)
        self.max, self.min = int(limits.max), int(limits.min)

    def __repr__(self) -> str:
        return f"iinfo(min={self.min:g}, max={self.max:g}, dtype={self.dtype})"
