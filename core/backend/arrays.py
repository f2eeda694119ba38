"""Arrays of the devices: which one an array is on, and how it moves.

NumPy arrays lie in main memory; the CUDA backend's are CuPy's. CuPy is imported only when a GPU is
asked for, so its class is known here from then on.
"""

from __future__ import annotations

from typing import Any

import numpy as np

# The class of device arrays; empty until the first one is asked for.
_classes: list[type] = []


def register(array_class: type) -> None:
    """Arrays of this class lie on a device."""
    if array_class not in _classes:
        _classes.append(array_class)


def known() -> bool:
    """Whether a GPU has been used in this process."""
    return bool(_classes)


def is_array(value: Any) -> bool:
    """Whether it is an array, wherever it lies."""
    return isinstance(value, np.ndarray) or type(value) in _classes


def on_device(value: Any) -> bool:
    """Whether it is an array on a GPU."""
    return type(value) in _classes


def as_array(value: Any) -> Any:
    """`value` itself where it is an array of a device; else as a NumPy array."""
    return value if type(value) in _classes else np.asarray(value)


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


def owned(array: Any) -> Any:
    """A copy in C order."""
    return array.copy(order="C") if type(array) in _classes else np.array(array, order="C")


def contiguous(array: Any) -> Any:
    """The values in C order; unlike `np.ascontiguousarray`, a number stays one."""
    return array if array.flags.c_contiguous else array.copy(order="C")
