"""Reading and writing elements by index: ``t[...]``. By name: `scatter.py`, `masking.py`."""

from __future__ import annotations

from typing import Any

import numpy as np

from .. import devices
from ..backend.arrays import address_of, as_array, is_array, on, on_device
from ..errors import BoundsError, DtypeError, ShapeError
from ..ops import index as ops
from ..ops.shape import Slice
from ..ops.transfer import Move
from . import graph
from .graph import TensorBase, apply, view
from .inplace import assign, changed, check_in_place, check_overlap
from .promote import cast
from .together import different

__all__ = ["argwhere", "index_put", "nonzero", "one_hot"]


def _part(k: Any) -> Any:
    """One element of a key as NumPy understands it."""
    if isinstance(k, TensorBase):
        array = k._array
        if array.dtype.kind not in "iub":
            raise IndexError(f"index: expected integer or bool tensors, came {array.dtype}")
        if array.dtype == np.uint8:  # a mask, from the time before bool tensors
            return array.astype(bool)
        return array.item() if array.ndim == 0 and array.dtype.kind != "b" else array
    if isinstance(k, range):
        k = list(k)
    if isinstance(k, list):
        return as_array([_part(e) for e in k], dtype=None if k else np.int64)
    if isinstance(k, slice):
        if k.step is not None and int(k.step) <= 0:
            raise ValueError("index: the step of a slice must be positive; use flip()")
        ends = (None if e is None else int(e) for e in (k.start, k.stop, k.step))
        return slice(*ends)
    if is_array(k) and k.ndim == 0:
        return k.item()
    if k is None or k is Ellipsis or isinstance(k, bool | int | np.integer) or is_array(k):
        return k
    if isinstance(k, str):
        raise TypeError(f"index: expected integers, slices or tensors, came the string {k!r}")
    raise IndexError(
        "index: expected integers, slices, None, ..., or integer or bool tensors, came "
        f"{type(k).__name__}"
    )


def normal_key(key: Any, ndim: int) -> tuple[tuple[Any, ...], bool]:
    """(key for NumPy with "..." spelled out, whether it is basic and so gives a view)."""
    parts = [_part(k) for k in key] if isinstance(key, tuple) else [_part(key)]
    basic, used = True, 0
    for p in parts:  # a loop that looks at types alone: it runs for every x[...]
        if type(p) is slice or type(p) is int:
            used += 1
        elif isinstance(p, bool):
            basic = False
        elif p is not None and p is not Ellipsis:
            listed = is_array(p)
            basic = basic and not listed
            used += p.ndim if listed and p.dtype == bool else 1
    if used > ndim:
        raise IndexError(f"index: too many indices for a tensor with {ndim} dimensions: {used}")
    full: list[Any] = []
    if sum(p is Ellipsis for p in parts) > 1:
        raise IndexError("index: an index can hold only one '...'")
    for p in parts:
        full.extend([slice(None)] * (ndim - used) if p is Ellipsis else [p])
    return tuple(full), basic


def _integers_first(input: Any, key: tuple[Any, ...]) -> tuple[Any, tuple[Any, ...]]:
    """(view with the integers and slices of `key` applied, key of the arrays that remain).

    PyTorch selects integers before it looks at arrays, NumPy treats them as arrays: their
    results differ in the order of dimensions.
    """
    if not any(isinstance(p, int | np.integer) and not isinstance(p, bool) for p in key):
        return input, key
    first: list[Any] = []
    rest: list[Any] = []
    for p in key:
        if is_array(p):
            first.extend([slice(None)] * (p.ndim if p.dtype == bool else 1))
            rest.append(p)
        elif isinstance(p, bool):
            rest.append(p)
        else:
            first.append(p)
            if p is None or isinstance(p, slice):
                rest.append(slice(None))
    return view(Slice(tuple(first)), input), tuple(rest)


def _beside(key: tuple[Any, ...], input: Any) -> tuple[Any, ...]:
    """`key` with its index arrays where `input` lies: those of main memory may index any tensor."""
    if input.is_cpu:
        return key
    return tuple(on(p, input._array) if isinstance(p, np.ndarray) else p for p in key)


def getitem(input: Any, key: Any) -> Any:
    """``input[key]``: a view for integers and slices, a copy for tensors in the key.

    Raises:
        IndexError: out of range, too many indices, or an index of a wrong type.
    """
    try:
        if type(key) is int:  # one sample, one row: worth a short way
            return view(Slice((key,)), input)
        key, basic = normal_key(key, input._array.ndim)
        if basic:
            return view(Slice(key), input)
        input, key = _integers_first(input, key)
        return apply(ops.Take(_beside(key, input)), input)
    except IndexError as err:
        if isinstance(err, BoundsError):
            raise
        raise BoundsError(f"{err} (in a tensor of shape {tuple(input.shape)})") from err


def setitem(input: Any, key: Any, value: Any) -> None:
    """``input[key] = value``, recorded where gradients flow.

    Raises:
        IndexError: as `getitem`.
        TypeError: value is neither a tensor, an array nor a number.
        ShapeError: value does not broadcast to the place.
        GradientError: input is a leaf that requires grad, or an expanded view.
    """
    if not isinstance(value, TensorBase | bool | int | float | complex | np.generic | np.ndarray):
        raise TypeError(f"setitem: expected a tensor or a number, came {type(value).__name__}")
    check_in_place(input, "setitem")
    key, basic = normal_key(key, input._array.ndim)
    if not basic:
        input, key = _integers_first(input, key)
        key = _beside(key, input)
    elif _is_place(value, input, key):
        return  # the second half of ``x[key] += y``, which has changed the view already
    array = input._canonical()
    if not isinstance(value, bool | int | float | complex):
        check_overlap(array[(*key, ...)] if basic else array, "setitem")
    if isinstance(value, TensorBase):
        value = cast(value, array.dtype)
        if type(value._array) is not type(array) and (basic or not value._array.ndim):
            value = apply(Move(devices.of(array)), value)
        if value._array.ndim == 0 and not value._requires_grad and value.is_cpu:
            value = value._array.item()
    source = value._array if isinstance(value, TensorBase) else value
    if type(value) is np.ndarray:
        source = on(value, array)
    tracked = graph.mode.enabled and (
        input._requires_grad or (isinstance(value, TensorBase) and value._requires_grad)
    )
    try:
        if tracked and basic:
            part = view(Slice(key), input)
            assign(part, _fitted(value, part), "setitem")
        elif tracked:
            assign(input, apply(ops.Assign(key), input, value), "setitem")
        else:
            array[key] = source
            input._version[0] += 1
    except TypeError:
        if isinstance(value, TensorBase) and type(value._array) is not type(array):
            raise different("setitem", input, value) from None
        raise
    except ValueError as err:
        raise ShapeError(
            f"setitem: value of shape {np.shape(source)} does not fit the place: {err}"
        ) from err
    except OverflowError as err:
        raise DtypeError(f"setitem: {err}") from err


def _fitted(value: Any, part: Any) -> Any:
    """`value` as a tensor with no more dimensions than `part`."""
    if not isinstance(value, TensorBase):
        return part._new(on(as_array(value, part._array.dtype), part._array))
    extra = value._array.ndim - part._array.ndim
    if extra <= 0 or any(n != 1 for n in value._array.shape[:extra]):
        return value
    return view(Slice((0,) * extra), value)


def _is_place(value: Any, input: Any, key: tuple[Any, ...]) -> bool:
    """Whether `value` is the very view ``input[key]``."""
    if not isinstance(value, TensorBase) or value._base_generation is None:
        return False
    if value._base is not graph.root_of_history(input):
        return False
    place, array = input._array[(*key, ...)], value._array
    return (
        place.shape == array.shape
        and place.strides == array.strides
        and address_of(place) == address_of(array)
    )


def index_put(input: Any, indices: Any, values: Any, accumulate: bool = False) -> Any:
    """A copy of input with ``out[indices] = values`` (or ``+=``).

    Args:
        indices: a tuple of integer or bool tensors, as in ``input[indices]``.
        accumulate: add; an element that is hit several times gets all of them.

    Raises:
        IndexError: as ``input[indices]``.
        RuntimeError: values of another dtype, or that do not broadcast to the place.
    """
    return _index_put(input, indices, values, accumulate, "index_put", False)


def _index_put(
    input: Any, indices: Any, values: Any, accumulate: bool, name: str, in_place: bool
) -> Any:
    key, _ = normal_key(tuple(indices), input._array.ndim)
    if values._array.dtype != input._array.dtype:
        raise DtypeError(f"{name}: expected values of {input.dtype}, came {values.dtype}")
    try:
        return changed(ops.Assign(key, accumulate), name, input, (values,), in_place)
    except ValueError as err:
        raise ShapeError(
            f"{name}: values of shape {tuple(values.shape)} do not fit the place: {err}"
        ) from err


def nonzero(input: Any, *, as_tuple: bool = False) -> Any:
    """Indices of the elements that are not zero, int64.

    Args:
        as_tuple: one vector for each dimension (as an index takes them) instead of one row for
            each element.
    """
    if as_tuple:
        return tuple(input._new(i) for i in np.atleast_1d(input._array).nonzero())
    return input._new(np.argwhere(input._array).astype(np.int64, copy=False))


def argwhere(input: Any) -> Any:
    """Indices of the elements that are not zero, one row each, int64."""
    return nonzero(input)


class IndexingMethods(TensorBase):
    """Indexing methods of Tensor."""

    __getitem__ = getitem
    __setitem__ = setitem
    nonzero, argwhere, index_put = nonzero, argwhere, index_put

    def index_put_(self, indices: Any, values: Any, accumulate: bool = False) -> Any:
        """`index_put` in place; returns self."""
        return _index_put(self, indices, values, accumulate, "index_put_", True)


def integer_index(index: Any, name: str) -> Any:
    """`index`, if it is an integer tensor.

    Raises:
        DtypeError: it is not.
    """
    if not isinstance(index, TensorBase):
        raise TypeError(f"{name}: expected a tensor of indices, came {type(index).__name__}")
    if index._array.dtype.kind not in "iu":
        raise DtypeError(f"{name}: expected an integer index, came {index.dtype}")
    return index


def within(index: Any, size: int, name: str, negative: bool = False) -> None:
    """Raise unless every index lies within a dimension of `size`.

    Indices on a GPU are not looked at, which would wait for the device: others select or change
    arbitrary elements (PyTorch's kernels stop the process).

    Args:
        negative: whether indices may count from the end.

    Raises:
        BoundsError: one does not.
    """
    array, least = index._array, -size if negative else 0
    if array.size and not on_device(array) and (array.min() < least or array.max() >= size):
        raise BoundsError(
            f"{name}: expected indices within {least}..{size - 1}, came "
            f"{array.min()}..{array.max()}"
        )


def one_hot(input: Any, num_classes: int = -1) -> Any:
    """int64 tensor with 1 at each index along a new last dimension, 0 elsewhere."""
    array = integer_index(input, "one_hot")._array
    if num_classes == -1:
        num_classes = int(array.max()) + 1 if array.size else 0
    within(input, num_classes, "one_hot")
    classes = np.arange(num_classes, like=array)
    return input._new((array[..., None] == classes).astype(np.int64))
