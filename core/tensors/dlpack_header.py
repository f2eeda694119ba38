"""What a DLPack capsule says of its memory: NumPy makes it, but cannot say bfloat16.

A capsule's header is read, and its type corrected, by the structures of the standard.

Imports: errors. Imported when a capsule is looked into.

Source: https://dmlc.github.io/dlpack/latest, structures DLTensor and DLManagedTensorVersioned.
"""

from __future__ import annotations

import ctypes
from typing import Any

from ..errors import DtypeError

BFLOAT, UINT = 4, 1  # type codes


class _Header(ctypes.Structure):
    """DLTensor up to its type."""

    _fields_ = (
        ("data", ctypes.c_void_p),
        ("device_type", ctypes.c_int32),
        ("device_id", ctypes.c_int32),
        ("ndim", ctypes.c_int32),
        ("code", ctypes.c_uint8),
        ("bits", ctypes.c_uint8),
        ("lanes", ctypes.c_uint16),
    )


class _Versioned(ctypes.Structure):
    """DLManagedTensorVersioned up to the type of its tensor."""

    _fields_ = (
        ("major", ctypes.c_uint32),
        ("minor", ctypes.c_uint32),
        ("manager", ctypes.c_void_p),
        ("deleter", ctypes.c_void_p),
        ("flags", ctypes.c_uint64),
        ("tensor", _Header),
    )


_NAME = ctypes.pythonapi.PyCapsule_GetName
_NAME.restype, _NAME.argtypes = ctypes.c_char_p, [ctypes.py_object]
_POINTER = ctypes.pythonapi.PyCapsule_GetPointer
_POINTER.restype, _POINTER.argtypes = ctypes.c_void_p, [ctypes.py_object, ctypes.c_char_p]


def header(capsule: Any) -> tuple[_Header, bool]:
    """The description of the memory in a capsule that nobody has taken yet.

    Returns:
        The header, which may be changed, and whether it is of the time before DLPack 1.0.

    Raises:
        RuntimeError: not such a capsule.
    """
    name = _NAME(capsule) if type(capsule).__name__ == "PyCapsule" else None
    if name not in (b"dltensor", b"dltensor_versioned"):
        raise DtypeError(
            "from_dlpack: expected a tensor with __dlpack__, or a capsule that was not used "
            f"before, came {type(capsule).__name__}" + (f" {name.decode()!r}" if name else "")
        )
    address = _POINTER(capsule, name)
    if name == b"dltensor":
        return _Header.from_address(address), True
    return _Versioned.from_address(address).tensor, False
