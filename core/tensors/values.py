"""Arrays from what users write down: numbers, nested lists, arrays, tensors."""

from __future__ import annotations

from typing import Any

import numpy as np

from .. import devices, dtypes
from ..backend.arrays import as_array, on_device
from ..errors import ShapeError
from .graph import TensorBase
from .shaping import sizes_of
from .size import Size


def dtype_or_default(dtype: Any) -> np.dtype[Any]:
    """The NumPy dtype of `dtype`, or the default floating one."""
    return dtypes.get_default_dtype().numpy if dtype is None else dtypes.to_numpy(dtype)


def shape_of(name: str, args: tuple[Any, ...], size: Any = None) -> tuple[int, ...]:
    """Sizes given as arguments, as one sequence, or by the keyword `size`.

    Raises:
        ShapeError: a negative size.
        TypeError: sizes that are not integers.
    """
    try:
        sizes = sizes_of(args if size is None else (size,))
    except TypeError as err:
        raise TypeError(f"{name}: expected integers as sizes, came {args or size!r}") from err
    if min(sizes, default=0) < 0:
        raise ShapeError(f"{name}: expected sizes of 0 or more, came {sizes}")
    return sizes


def array_of(data: Any, dtype: Any = None) -> np.ndarray:
    """The array of what `allgrad.tensor` takes; the memory of tensors and arrays is shared.

    Raises:
        ValueError: lists of unequal lengths.
        TypeError: elements that are not numbers.
    """
    if isinstance(data, TensorBase):
        array = data._array
    elif isinstance(data, np.ndarray | np.generic) or on_device(data):
        array = as_array(data)
    elif hasattr(data, "__cuda_array_interface__"):
        array = devices.array_there("tensor", data)
    else:
        array = _from_nested(data, rounded=dtype is None)
    return array if dtype is None else array.astype(dtypes.to_numpy(dtype), copy=False)


def _from_nested(data: Any, rounded: bool) -> np.ndarray:
    """The array of numbers or nested lists; `rounded` gives Python floats the default dtype."""
    if isinstance(data, list | tuple):
        if data and all(isinstance(e, TensorBase | np.ndarray) for e in data):
            return np.stack([array_of(e) for e in data])
        data = _without_tensors(data)
    try:
        array = np.asarray(data)
    except ValueError as err:
        raise ValueError(f"tensor: expected nested lists of equal lengths ({err})") from err
    if array.dtype == object or array.dtype.kind in "US":
        raise TypeError(f"tensor: expected numbers, came {type(data).__name__} of {array.dtype}")
    if array.size == 0 and isinstance(data, list | tuple):
        return array.astype(dtypes.get_default_dtype().numpy)
    kind = array.dtype.kind
    if not rounded:  # a dtype was asked for: round once, to that one
        return array
    if kind in dtypes.FLOATING and not _holds_numpy(data):
        return array.astype(dtypes.get_default_dtype().numpy)
    if kind == "c" and not _holds_numpy(data):
        return array.astype(dtypes.scalar_dtype(1j))
    return array


def _without_tensors(data: Any) -> Any:
    """Nested lists with the values of tensors in place of the tensors."""
    if isinstance(data, TensorBase):
        return data._array.tolist()
    if isinstance(data, list | tuple) and any(
        isinstance(e, TensorBase | list | tuple) for e in data
    ):
        return [_without_tensors(e) for e in data]
    return data


def _holds_numpy(data: Any) -> bool:
    while isinstance(data, list | tuple) and data:
        data = data[0]
    return isinstance(data, np.generic)


def legacy_array(args: tuple[Any, ...], to: np.dtype[Any] | None = None) -> np.ndarray:
    """The array of PyTorch's first constructors: of one sequence, or of the given sizes.

    Args:
        to: its dtype; the default floating one if None.

    Raises:
        TypeError: a number that is no size.
    """
    to = dtypes.get_default_dtype().numpy if to is None else to
    if len(args) == 1 and not isinstance(args[0], int | np.integer | Size):
        if isinstance(args[0], float | np.floating | str):
            raise TypeError(f"Tensor: expected a sequence or sizes, came {args[0]!r}")
        array = array_of(args[0], to)
        return array.copy() if on_device(array) else np.array(array)
    return np.empty(shape_of("Tensor", args or (0,)), to)
