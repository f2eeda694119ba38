"""DLPack: tensors that lend their memory to other libraries, without a copy.

NumPy makes and reads the capsules. It knows no bfloat16, so such an array passes as uint16 and the
type in the capsule's header is corrected.

May import: graph, errors. The other way is `utils/dlpack.py`.

Source: https://dmlc.github.io/dlpack/latest, structures DLTensor and DLManagedTensorVersioned.
"""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np

from ..errors import DtypeError
from .graph import TensorBase

_CPU = 1
BFLOAT = 4


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


class DlpackMethods(TensorBase):
    """Methods of Tensor that other libraries call to share its memory."""

    def __dlpack__(
        self,
        *,
        stream: Any = None,
        max_version: tuple[int, int] | None = None,
        dl_device: tuple[int, int] | None = None,
        copy: bool | None = None,
    ) -> Any:
        """A capsule with this tensor's memory.

        Args:
            stream: None or -1: main memory has no streams.
            max_version: the newest DLPack version that the caller reads.
            dl_device: where the caller wants the memory; only main memory is served.
            copy: True for a copy, otherwise the memory is shared.

        Raises:
            BufferError: the tensor requires grad, has negative strides, or is wanted elsewhere.
        """
        if self._requires_grad:
            raise BufferError(
                "__dlpack__: this tensor requires grad, so changes by others would go unnoticed. "
                "Use tensor.detach()."
            )
        if stream not in (None, -1):
            raise AssertionError(f"__dlpack__: expected no stream on the CPU, came {stream!r}")
        if dl_device is not None and tuple(dl_device) != (_CPU, 0):
            raise BufferError(f"__dlpack__: the memory is on device (1, 0), not {dl_device}")
        array = self._array.copy(order="C") if copy else self.numpy()  # type: ignore[attr-defined]
        if any(step < 0 for step in array.strides):
            raise BufferError(
                f"__dlpack__: strides {array.strides} are negative, which other libraries do not "
                "take. Use tensor.contiguous()."
            )
        if array.dtype.kind != "V":
            return array.__dlpack__(max_version=max_version)
        capsule = array.view(np.uint16).__dlpack__(max_version=max_version)
        header(capsule)[0].code = BFLOAT
        return capsule

    def __dlpack_device__(self) -> tuple[int, int]:
        """Main memory, in DLPack's numbers."""
        return (_CPU, 0)
