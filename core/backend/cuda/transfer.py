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
from ..arrays import contiguous
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
        order, back = _orders(array)
        source = contiguous(array.transpose(order))
        out = cupy.empty(source.shape, source.dtype)
        out.set(source, stream=device.stream())
        if non_blocking and is_pinned(array):
            _keep(array)
        elif is_pinned(array):
            device.stream().synchronize()
        return out.transpose(back)


def to_host(array: Any) -> np.ndarray:
    """A copy in main memory with the same strides where they are dense; waits for the values."""
    with device.At(int(array.device.id)):
        if device.capturing():
            raise DeviceError(
                "cuda.capture: a value of the GPU was read (item(), float(), print, numpy(), an if "
                "on a tensor ...) inside of the captured step, which does not compute it yet. Read "
                "it after the step"
            )
        order, back = _orders(array)
        source = contiguous(array.transpose(order))
        return source.get(stream=device.stream()).transpose(back)


def shared(data: Any) -> Any:
    """The array on the GPU memory of another library's array, from DLPack or CUDA's interface."""
    if isinstance(data, cupy.ndarray):
        return data
    device.current()  # its stream waits for what the other library does to the memory
    return cupy.from_dlpack(data) if hasattr(data, "__dlpack__") else cupy.asarray(data)


def to_other_device(array: Any, index: int) -> Any:
    """A copy on another device.

    CuPy's own copy between devices puts nothing in order with what the streams of the two do.
    """
    with device.At(int(array.device.id)):
        source = cupy.array(array, order="K")  # dense, and nobody else's
        there = device.stream()
        written = there.record()
    order, back = _orders(source)
    with device.At(index):
        out = cupy.empty([source.shape[i] for i in order], source.dtype)
        here = device.stream()
        here.wait_event(written)
        out.data.copy_from_device_async(source.data, source.nbytes, here)
        read = here.record()
    there.wait_event(read)  # before the memory of `source` is used again
    return out.transpose(back)


def pinned(array: np.ndarray) -> np.ndarray:
    """A copy in pinned memory; an empty array as it is."""
    if not array.size:
        return array
    order, back = _orders(array)
    source = array.transpose(order)
    memory = cupy.cuda.alloc_pinned_memory(max(source.nbytes, 1))
    out = np.frombuffer(memory, np.uint8, source.nbytes).view(source.dtype).reshape(source.shape)
    out[...] = source
    return out.transpose(back)


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


def _orders(array: Any) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Axes in the order of memory, from the longest step to the shortest, and the way back.

    Arrays whose elements do not fill a block of memory are copied in C order.
    """
    axes = tuple(range(array.ndim))
    if array.flags.c_contiguous or not _is_dense(array):
        return axes, axes
    order = tuple(sorted(axes, key=lambda i: -array.strides[i]))
    return order, tuple(order.index(i) for i in axes)


def _is_dense(array: Any) -> bool:
    """Whether its elements fill a block of memory, in any order of the axes."""
    expected = array.itemsize
    for step, n in sorted(zip(array.strides, array.shape, strict=True)):
        if n == 1:
            continue
        if step != expected:
            return False
        expected *= n
    return True
