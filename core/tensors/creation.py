"""Functions that make tensors: from data, or filled with one value.

Ranges and triangles: `ranges.py`. Random numbers: `draws.py`, `sampling.py`.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from .. import devices, dtypes
from ..backend.arrays import is_array, may_share_memory, on_device, owned
from ..errors import DtypeError, ShapeError
from .tensor import Tensor
from .values import array_of, dtype_or_default, shape_of

__all__ = [
    "as_tensor",
    "asarray",
    "empty",
    "empty_like",
    "empty_strided",
    "from_numpy",
    "frombuffer",
    "full",
    "full_like",
    "ones",
    "ones_like",
    "scalar_tensor",
    "tensor",
    "zeros",
    "zeros_like",
]


def tensor(
    data: Any,
    *,
    dtype: Any = None,
    device: Any = None,
    requires_grad: bool = False,
    pin_memory: bool = False,
) -> Tensor:
    """A tensor with a copy of `data`: numbers, nested lists, NumPy arrays or tensors.

    Args:
        data: Python floats give the default dtype, integers int64, bools bool; arrays keep
            their dtype.
        dtype: type of the elements instead.
        requires_grad: whether `backward` computes its gradient.
        pin_memory: in memory that a GPU reads by itself; no difference where no GPU can be used.

    Raises:
        ValueError: lists of unequal lengths.
        TypeError: elements that are not numbers.

    >>> tensor([[1, 2], [3, 4]]).dtype
    allgrad.int64
    """
    array = owned(array_of(data, dtype))
    dtypes.from_numpy(array.dtype)
    array = placed(array, data, device)
    return Tensor(devices.pinned(array) if pin_memory else array, requires_grad)


def scalar_tensor(
    s: Any, *, dtype: Any = None, device: Any = None, requires_grad: bool = False
) -> Tensor:
    """A tensor without dimensions, of the default floating type unless told otherwise."""
    with devices.at(device) as xp:
        return Tensor(xp.full((), s, dtype_or_default(dtype)), requires_grad)


def as_tensor(data: Any, dtype: Any = None, device: Any = None) -> Tensor:
    """Like `tensor`, but without a copy where memory can be shared."""
    if isinstance(data, Tensor):
        data = data if dtype is None else data.to(dtype)
        return data if device is None else data.to(device)
    if isinstance(data, np.ndarray):
        out = from_numpy(data) if dtype is None else from_numpy(array_of(data, dtype))
        return out.to(devices.require(device))
    if hasattr(data, "__cuda_array_interface__"):
        out = Tensor(array_of(data, dtype))
        return out if device is None else out.to(device)
    return tensor(data, dtype=dtype, device=device)


def asarray(
    obj: Any,
    *,
    dtype: Any = None,
    device: Any = None,
    copy: bool | None = None,
    requires_grad: bool = False,
) -> Tensor:
    """`as_tensor`, with a say in whether memory is shared.

    Args:
        copy: True always copies, None only where it must, False raises where it would have to.

    Raises:
        ValueError: `copy` is False, and the memory cannot be shared.
    """
    out = tensor(obj, dtype=dtype, device=device) if copy else as_tensor(obj, dtype, device)
    source = obj._array if isinstance(obj, Tensor) else obj
    if hasattr(source, "__cuda_array_interface__"):
        source = devices.array_there("asarray", source)
    if copy is False and not (is_array(source) and _shared(out, source)):
        raise ValueError("asarray: the memory cannot be shared, and copy=False forbids a copy")
    out = out.detach() if isinstance(obj, Tensor) else out
    return out.requires_grad_() if requires_grad else out


def _shared(out: Tensor, source: Any) -> bool:
    return not source.size or may_share_memory(out._array, source)


def placed(array: Any, data: Any, device: Any) -> Any:
    """`array`, made of `data`, on `device`; without one, a tensor's values stay where they are."""
    if device is None and (isinstance(data, Tensor) or on_device(array)):
        return array
    return devices.moved(array, device)


def from_numpy(ndarray: np.ndarray) -> Tensor:
    """A tensor that shares the memory of a NumPy array.

    Raises:
        TypeError: not an array.
        DtypeError: a dtype that tensors do not have.
    """
    if not isinstance(ndarray, np.ndarray):
        raise TypeError(f"from_numpy: expected a numpy.ndarray, came {type(ndarray).__name__}")
    if not ndarray.dtype.isnative:
        raise DtypeError(f"from_numpy: expected native byte order, came {ndarray.dtype!r}")
    dtypes.from_numpy(ndarray.dtype)
    out = Tensor(ndarray)
    out._exposed = True
    return out


def frombuffer(
    buffer: Any, *, dtype: Any, count: int = -1, offset: int = 0, requires_grad: bool = False
) -> Tensor:
    """A vector that shares the memory of bytes or another buffer.

    Args:
        dtype: how the bytes are read.
        count: number of elements; -1 takes all.
        offset: bytes to leave out in front.

    Raises:
        ValueError: the buffer is too short, or does not hold whole elements.
    """
    array = np.frombuffer(buffer, dtypes.to_numpy(dtype), count, offset)
    return from_numpy(array).requires_grad_(requires_grad)


def zeros(
    *sizes: Any,
    size: Any = None,
    dtype: Any = None,
    device: Any = None,
    requires_grad: bool = False,
    pin_memory: bool = False,
) -> Tensor:
    """Zeros of a shape.

    Args:
        sizes: as arguments, as one sequence, or by the keyword `size`.
        dtype: by default the default floating type.
        pin_memory: in memory that a GPU reads by itself; no difference where no GPU can be used.

    Raises:
        RuntimeError: a negative size, or a device that this build cannot compute on.
    """
    shape = shape_of("zeros", sizes, size)
    with devices.at(device) as xp:
        array = xp.zeros(shape, dtype_or_default(dtype))
    return Tensor(devices.pinned(array) if pin_memory else array, requires_grad)


def zeros_like(
    input: Tensor, *, dtype: Any = None, device: Any = None, requires_grad: bool = False
) -> Tensor:
    """Zeros in the shape and dtype of `input`."""
    with devices.at(input.device if device is None else device) as xp:
        return Tensor(xp.zeros(input._array.shape, dtype_like(input, dtype)), requires_grad)


def ones(
    *sizes: Any,
    size: Any = None,
    dtype: Any = None,
    device: Any = None,
    requires_grad: bool = False,
    pin_memory: bool = False,
) -> Tensor:
    """Ones of a shape.

    Args:
        sizes: as arguments, as one sequence, or by the keyword `size`.
        dtype: by default the default floating type.
        pin_memory: in memory that a GPU reads by itself; no difference where no GPU can be used.

    Raises:
        RuntimeError: a negative size, or a device that this build cannot compute on.
    """
    shape = shape_of("ones", sizes, size)
    with devices.at(device) as xp:
        array = xp.ones(shape, dtype_or_default(dtype))
    return Tensor(devices.pinned(array) if pin_memory else array, requires_grad)


def ones_like(
    input: Tensor, *, dtype: Any = None, device: Any = None, requires_grad: bool = False
) -> Tensor:
    """Ones in the shape and dtype of `input`."""
    with devices.at(input.device if device is None else device) as xp:
        return Tensor(xp.ones(input._array.shape, dtype_like(input, dtype)), requires_grad)


def empty(
    *sizes: Any,
    size: Any = None,
    dtype: Any = None,
    device: Any = None,
    requires_grad: bool = False,
    pin_memory: bool = False,
) -> Tensor:
    """Memory with arbitrary contents of a shape.

    Args:
        sizes: as arguments, as one sequence, or by the keyword `size`.
        dtype: by default the default floating type.
        pin_memory: in memory that a GPU reads by itself; no difference where no GPU can be used.

    Raises:
        RuntimeError: a negative size, or a device that this build cannot compute on.
    """
    shape = shape_of("empty", sizes, size)
    with devices.at(device) as xp:
        array = xp.empty(shape, dtype_or_default(dtype))
    return Tensor(devices.pinned(array) if pin_memory else array, requires_grad)


def empty_like(
    input: Tensor, *, dtype: Any = None, device: Any = None, requires_grad: bool = False
) -> Tensor:
    """Memory with arbitrary contents, in the shape and dtype of `input`."""
    with devices.at(input.device if device is None else device) as xp:
        return Tensor(xp.empty(input._array.shape, dtype_like(input, dtype)), requires_grad)


def dtype_like(input: Tensor, dtype: Any) -> np.dtype[Any]:
    """The NumPy dtype of `dtype`, or that of `input`."""
    return input._array.dtype if dtype is None else dtypes.to_numpy(dtype)


def full(
    size: Any,
    fill_value: Any,
    *,
    dtype: Any = None,
    device: Any = None,
    requires_grad: bool = False,
) -> Tensor:
    """`fill_value` everywhere; its type gives the dtype unless told otherwise.

    Args:
        size: the shape, as a sequence.
        fill_value: a number, or a tensor of one element.
    """
    value = fill_value.item() if isinstance(fill_value, Tensor) else fill_value
    to = dtypes.scalar_dtype(value) if dtype is None else dtypes.to_numpy(dtype)
    with devices.at(device) as xp:
        return Tensor(xp.full(shape_of("full", (tuple(size),)), value, to), requires_grad)


def full_like(
    input: Tensor,
    fill_value: Any,
    *,
    dtype: Any = None,
    device: Any = None,
    requires_grad: bool = False,
) -> Tensor:
    """`fill_value` in the shape and dtype of `input`."""
    value = fill_value.item() if isinstance(fill_value, Tensor) else fill_value
    with devices.at(input.device if device is None else device) as xp:
        return Tensor(xp.full(input._array.shape, value, dtype_like(input, dtype)), requires_grad)


def empty_strided(
    size: Any,
    stride: Any,
    *,
    dtype: Any = None,
    device: Any = None,
    requires_grad: bool = False,
) -> Tensor:
    """Memory with arbitrary contents, laid out with the given strides (in elements).

    Raises:
        RuntimeError: not one stride of 0 or more for each size.
    """
    shape, steps = shape_of("empty_strided", (tuple(size),)), tuple(int(s) for s in stride)
    if len(shape) != len(steps) or min(steps, default=0) < 0:
        raise ShapeError(f"empty_strided: strides {steps} do not fit sizes {shape}")
    last = sum((n - 1) * step for n, step in zip(shape, steps, strict=True))
    with devices.at(device) as xp:
        memory = xp.empty(0 if 0 in shape else last + 1, dtype_or_default(dtype))
    out = Tensor(memory).as_strided(shape, steps)
    return out.requires_grad_(requires_grad)
