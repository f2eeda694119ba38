"""Copies between main memory and devices, and main memory that a GPU can read by itself.

Copies keep the order of memory: channels-last activations stay so. A copy from pinned memory may
still run when this returns (`non_blocking`); the memory is then kept until it has been read.
"""

from __future__ import annotations

from collections import deque
from typing import Any

import cupy
import numpy as np

from ...errors import DeviceError
from . import device

_under_way: deque[tuple[Any, np.ndarray]] = deque()  # (event behind the copy, what it reads)


def to_device(array: np.ndarray, index: int | None = None, non_blocking: bool = False) -> Any:
    """A copy on a device (default: the current one) with the same strides where they are dense."""
    with device.At(index):
        if device.capturing():
            raise DeviceError(
                "cuda.capture: a tensor of main memory was moved to the GPU inside of the captured "
                "step, which would copy the same values at every replay. Move it before, or copy "
                "into a tensor that is there"
            )
        source = _dense(array)
        out = cupy.ndarray(source.shape, source.dtype, strides=source.strides)
        flat, host = _flat(out, source), _flat(source, source)
        flat.set(host, stream=device.stream())
        if non_blocking and is_pinned(array):
            _keep(array)
        elif is_pinned(array):
            device.stream().synchronize()
    return out


def to_host(array: Any) -> np.ndarray:
    """A copy in main memory with the same strides where they are dense; waits for the values."""
    with device.At(int(array.device.id)):
        if device.capturing():
            raise DeviceError(
                "cuda.capture: a value of the GPU was read (item(), float(), print, numpy(), an if "
                "on a tensor ...) inside of the captured step, which does not compute it yet. Read "
                "it after the step"
            )
        source = array if _is_dense(array) else cupy.ascontiguousarray(array)
        out = np.ndarray(source.shape, source.dtype, strides=None)
        if _is_dense(source) and not source.flags.c_contiguous:
            order = _order(source.strides)
            out = np.empty([source.shape[i] for i in order], source.dtype)
            source.transpose(order).get(out=out, stream=device.stream())
            return out.transpose(np.argsort(order))
        source.get(out=out, stream=device.stream())
        return out


def to_other_device(array: Any, index: int) -> Any:
    """A copy on another device."""
    with device.At(index):
        return cupy.array(array, order="K")


def pinned(array: np.ndarray) -> np.ndarray:
    """A copy in pinned memory."""
    source = _dense(array)
    memory = cupy.cuda.alloc_pinned_memory(max(source.nbytes, 1))
    out = np.ndarray(source.shape, source.dtype, memory, 0, source.strides)
    out[...] = source
    return out


def is_pinned(array: np.ndarray) -> bool:
    """Whether `pinned` made its memory."""
    owner: Any = array
    while isinstance(owner, np.ndarray):
        owner = owner.base
    owner = owner.obj if isinstance(owner, memoryview) else owner
    return isinstance(owner, cupy.cuda.PinnedMemoryPointer)


def _keep(array: np.ndarray) -> None:
    event = cupy.cuda.Event(disable_timing=True)
    event.record(device.stream())
    while _under_way and _under_way[0][0].done:
        _under_way.popleft()
    _under_way.append((event, array))


def _order(strides: tuple[int, ...]) -> list[int]:
    """Axes from the longest step to the shortest."""
    return sorted(range(len(strides)), key=lambda i: -strides[i])


def _is_dense(array: Any) -> bool:
    """Whether its elements fill a block of memory, in any order of the axes."""
    expected = array.itemsize
    pairs = sorted(zip(array.strides, array.shape, strict=True))
    for step, n in pairs:
        if n == 1:
            continue
        if step != expected:
            return False
        expected *= n
    return True


def _dense(array: np.ndarray) -> np.ndarray:
    return array if _is_dense(array) else np.ascontiguousarray(array)


def _flat(array: Any, like: np.ndarray) -> Any:
    """The memory of a dense array as C-contiguous, axes from the longest step to the shortest."""
    return array.transpose(_order(like.strides))
