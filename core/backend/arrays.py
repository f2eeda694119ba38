"""Arrays of the devices: which one an array is on, and how it moves.

NumPy arrays lie in main memory; the CUDA backend's are CuPy's. CuPy is imported only when a GPU is
asked for, so its class is known here from then on.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import numpy as np

from .. import kernel_counts

# The class of device arrays; empty until the first one is asked for. Where a call is too much,
# look for a type in it.
device_classes: list[type] = []
_classes = device_classes


def register(array_class: type) -> None:
    """Arrays of this class lie on a device."""
    if array_class not in _classes:
        _classes.append(array_class)


def known() -> bool:
    """Whether a GPU has been used in this process."""
    return bool(_classes)


def module_of(array: Any) -> Any:
    """NumPy, or CuPy for an array of a device."""
    return sys.modules["cupy"] if type(array) in _classes else np


# Copies of host constants on devices: (id of the constant, device) -> (the constant, its copy).
_constants: dict[tuple[int, int], tuple[np.ndarray, Any]] = {}
_MOST_CONSTANTS = 1024


def constant(host: np.ndarray, like: Any) -> Any:
    """A host array that never changes, where `like` lies; copied to a device once.

    Meant for tables that a cache of the caller keeps (places and weights of an interpolation), so
    that a step copies nothing from the host.
    """
    if type(like) not in _classes:
        return host
    key = (id(host), int(like.device.id))
    found = _constants.get(key)
    if found is None:
        if len(_constants) >= _MOST_CONSTANTS:
            _constants.clear()
        found = _constants[key] = (host, module_of(like).asarray(host))
    return found[1]


def by_host(name: str, function: Callable[..., Any], *values: Any) -> Any:
    """``function(*values)`` in main memory, for what CuPy has no function for; counted.

    Args:
        name: in `kernel_counts.fallback_counts`.
        function: of NumPy arrays; gives an array.
        values: arrays, at least one of a device where it matters; others pass as they are.
    """
    devices = [v for v in values if type(v) in _classes]
    if not devices:
        return function(*values)
    kernel_counts.count_fallback(name, "computed in main memory: CuPy has no such function")
    return on(function(*(to_host(v) for v in values)), devices[0])


def on(host: Any, like: Any) -> Any:
    """A host array where `like` lies; see `constant` for those that come again."""
    return module_of(like).asarray(host) if type(like) in _classes else host


def may_share_memory(a: Any, b: Any) -> bool:
    """Whether the blocks of memory that two arrays lie in overlap."""
    if type(a) not in _classes and type(b) not in _classes:
        return np.may_share_memory(a, b)
    if type(a) is not type(b):
        return False
    return bool(sys.modules["cupy"].may_share_memory(a, b))


def is_array(value: Any) -> bool:
    """Whether it is an array, wherever it lies."""
    return isinstance(value, np.ndarray) or type(value) in _classes


def on_device(value: Any) -> bool:
    """Whether it is an array on a GPU."""
    return type(value) in _classes


def as_array(value: Any, dtype: Any = None) -> Any:
    """`value` itself where it is an array of a device; else as a NumPy array.

    Args:
        dtype: its type, another one is cast.
    """
    if dtype is None and type(value) is np.ndarray:
        return value
    if type(value) not in _classes:
        return np.asarray(value, dtype)
    return value if dtype is None else value.astype(dtype, copy=False)


def index_of(value: Any) -> int | None:
    """The number of the GPU that holds the array; None for main memory."""
    return int(value.device.id) if type(value) in _classes else None


def to_host(value: Any) -> np.ndarray:
    """The values in main memory: the array itself if it is there, else a copy."""
    if type(value) not in _classes:
        return value
    from .cuda import transfer

    return transfer.to_host(value)


def address_of(array: Any) -> int:
    """The address of the first element."""
    if type(array) in _classes:
        return int(array.data.ptr)
    return int(array.__array_interface__["data"][0])


def is_writable(array: Any) -> bool:
    """Whether the memory may be changed; a GPU's always may."""
    return type(array) in _classes or bool(array.flags.writeable)


def beside(value: Any, other: Any, dtype: Any) -> Any:
    """`value` in `dtype`; a number as an array where `other` lies."""
    if is_array(value):
        return value.astype(dtype, copy=False)
    return module_of(other).full((), value, dtype)


def strided(array: Any, shape: tuple[int, ...], strides: tuple[int, ...], dtype: Any = None) -> Any:
    """A view of the memory from the first element of `array` on; strides in bytes.

    Args:
        dtype: as which the memory is read; that of `array` if left out.
    """
    dtype = array.dtype if dtype is None else dtype
    if type(array) in _classes:
        return type(array)(shape, dtype, array.data, strides)
    if dtype != array.dtype:
        return np.ndarray(shape, dtype, array, 0, strides)
    return np.lib.stride_tricks.as_strided(array, shape, strides)


def writable_as(view: Any, array: Any) -> Any:
    """`view`, to be written to if `array` may; NumPy gives some views that may not."""
    if type(view) not in _classes:
        view.flags.writeable = is_writable(array)
    return view


def owned(array: Any) -> Any:
    """A copy in C order."""
    return array.copy(order="C") if type(array) in _classes else np.array(array, order="C")


def contiguous(array: Any) -> Any:
    """The values in C order; unlike `np.ascontiguousarray`, a number stays one."""
    return array if array.flags.c_contiguous else array.copy(order="C")
