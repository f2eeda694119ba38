"""DLPack: tensors on the memory of other libraries, without a copy; PyTorch's older names too.

The other way is `tensors/dlpack.py`.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from .. import devices, dtypes
from ..errors import DeviceError, DtypeError
from ..tensors import Tensor
from ..tensors.dlpack_header import BFLOAT, UINT, header

__all__ = ["from_dlpack", "to_dlpack"]

# Device types whose memory a CPU can read: main memory, and pinned memory of CUDA and ROCm.
_READABLE = (1, 3, 11)
_CUDA = 2


class _Capsule:
    """What `numpy.from_dlpack` wants: an object that gives the capsule."""

    def __init__(self, capsule: Any) -> None:
        self.capsule = capsule

    def __dlpack__(self, **options: Any) -> Any:
        return self.capsule

    def __dlpack_device__(self) -> tuple[int, int]:
        return (1, 0)


class _Writable:
    """The same memory, writable: an old capsule cannot say so, and NumPy then forbids it."""

    def __init__(self, array: np.ndarray) -> None:
        self.array = array
        about = array.__array_interface__
        self.__array_interface__ = {**about, "data": (about["data"][0], False)}


def from_dlpack(ext_tensor: Any, *, device: Any = None, copy: bool | None = None) -> Any:
    """A tensor that shares the memory of another library's tensor.

    Args:
        ext_tensor: anything with ``__dlpack__`` (of PyTorch, NumPy, CuPy, JAX, ...), or a capsule
            of main memory.
        device: where the tensor is to be, if not where the memory is: a copy.
        copy: True for memory of its own.

    Raises:
        RuntimeError: the memory is on another device, its dtype is unknown, or `ext_tensor` has
            no memory to share.
        BufferError: read-only memory, unless it is copied; or what the other library raises.

    >>> import numpy as np
    >>> import allgrad as ag
    >>> a = np.zeros(2)
    >>> t = ag.from_dlpack(a)
    >>> t += 1
    >>> a
    array([1., 1.])
    """
    out = _shared(ext_tensor, copy)
    return out if device is None else out.to(devices.require(device))


def _shared(ext_tensor: Any, copy: bool | None) -> Tensor:
    if hasattr(ext_tensor, "__dlpack__"):
        kind, number = map(int, ext_tensor.__dlpack_device__())
        if kind == _CUDA:
            array = devices.array_there(f"from_dlpack: device ({kind}, {number})", ext_tensor)
            return Tensor(array.copy() if copy else array)
    capsule = _capsule_of(ext_tensor)
    about, old = header(capsule)
    half = (about.code, about.bits) == (BFLOAT, 16)
    if half:
        about.code = UINT
    try:
        array = np.from_dlpack(_Capsule(capsule))  # takes the capsule
    except RuntimeError as err:
        raise DtypeError(
            f"from_dlpack: no allgrad dtype for DLPack's type code {about.code} of {about.bits} "
            "bits"
        ) from err
    if old and array.size:
        array = np.asarray(_Writable(array))
    if half:
        array = array.view(dtypes.bfloat16.numpy)
    dtypes.from_numpy(array.dtype)
    if copy:
        array = array.copy(order="C")
    elif not array.flags.writeable:
        raise BufferError(
            "from_dlpack: the memory is read-only, and a tensor could change it; pass copy=True"
        )
    out = Tensor(array)
    out._exposed = not copy
    return out


def _capsule_of(ext_tensor: Any) -> Any:
    if not hasattr(ext_tensor, "__dlpack__"):
        return ext_tensor
    kind, number = ext_tensor.__dlpack_device__()
    if int(kind) not in _READABLE:
        raise DeviceError(
            f"from_dlpack: the memory is on device ({int(kind)}, {number}) in DLPack's numbers, "
            "expected main memory (1, 0). Move the tensor there first, e.g. by .cpu()"
        )
    try:
        return ext_tensor.__dlpack__(max_version=(1, 0))
    except TypeError:  # a library of before DLPack 1.0
        return ext_tensor.__dlpack__()


def to_dlpack(tensor: Tensor) -> Any:
    """A capsule with the memory of `tensor`, which one consumer may take."""
    return tensor.__dlpack__()
