"""Reading and writing elements by index: ``t[...]``, gather, scatter, masks."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..errors import BoundsError, DtypeError, ShapeError
from ..ops import index as ops
from ..ops.elementwise import Where
from ..ops.shape import Slice
from . import graph
from .graph import TensorBase, apply, view
from .inplace import assign, check_in_place, check_overlap
from .promote import cast
from .reductions import axis_of

__all__ = [
    "gather",
    "index_select",
    "masked_fill",
    "masked_select",
    "nonzero",
    "one_hot",
    "scatter",
    "scatter_add",
]


def _part(k: Any) -> Any:
    """One element of a key as NumPy understands it."""
    if isinstance(k, TensorBase):
        array = k._array
        if array.dtype.kind not in "iub":
            raise IndexError(f"index: expected integer or bool tensors, came {array.dtype}")
        return array.item() if array.ndim == 0 and array.dtype.kind != "b" else array
    if isinstance(k, list):
        return np.asarray([_part(e) for e in k], dtype=None if k else np.int64)
    if isinstance(k, slice):
        if k.step is not None and int(k.step) <= 0:
            raise ValueError("index: the step of a slice must be positive; use flip()")
        ends = (None if e is None else int(e) for e in (k.start, k.stop, k.step))
        return slice(*ends)
    if isinstance(k, np.ndarray) and k.ndim == 0:
        return k.item()
    if k is None or k is Ellipsis or isinstance(k, bool | int | np.integer | np.ndarray):
        return k
    raise IndexError(
        "index: expected integers, slices, None, ..., or integer or bool tensors, came "
        f"{type(k).__name__}"
    )


def normal_key(key: Any, ndim: int) -> tuple[tuple[Any, ...], bool]:
    """(key for NumPy with "..." spelled out, whether it is basic and so gives a view)."""
    parts = [_part(k) for k in key] if isinstance(key, tuple) else [_part(key)]
    basic = not any(isinstance(p, np.ndarray | bool) for p in parts)
    used = sum(
        (p.ndim if isinstance(p, np.ndarray) and p.dtype == bool else 1)
        for p in parts
        if p is not None and p is not Ellipsis and not isinstance(p, bool)
    )
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
        if isinstance(p, np.ndarray):
            first.extend([slice(None)] * (p.ndim if p.dtype == bool else 1))
            rest.append(p)
        elif isinstance(p, bool):
            rest.append(p)
        else:
            first.append(p)
            if p is None or isinstance(p, slice):
                rest.append(slice(None))
    return view(Slice(tuple(first)), input), tuple(rest)


def getitem(input: Any, key: Any) -> Any:
    """``input[key]``: a view for integers and slices, a copy for tensors in the key.

    Raises:
        IndexError: out of range, too many indices, or an index of a wrong type.
    """
    if type(key) is int:  # one sample, one row: worth a short way
        return view(Slice((key,)), input)
    key, basic = normal_key(key, input._array.ndim)
    if basic:
        return view(Slice(key), input)
    input, key = _integers_first(input, key)
    return apply(ops.Take(key), input)


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
    elif _is_place(value, input, key):
        return  # the second half of ``x[key] += y``, which has changed the view already
    array = input._canonical()
    if not isinstance(value, bool | int | float | complex):
        check_overlap(array[(*key, ...)] if basic else array, "setitem")
    if isinstance(value, TensorBase):
        value = cast(value, array.dtype)
        if value._array.ndim == 0 and not value._requires_grad:
            value = value._array.item()
    source = value._array if isinstance(value, TensorBase) else value
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
    except ValueError as err:
        raise ShapeError(
            f"setitem: value of shape {np.shape(source)} does not fit the place: {err}"
        ) from err
    except OverflowError as err:
        raise DtypeError(f"setitem: {err}") from err


def _fitted(value: Any, part: Any) -> Any:
    """`value` as a tensor with no more dimensions than `part`."""
    if not isinstance(value, TensorBase):
        return part._new(np.asarray(value, part._array.dtype))
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
        and place.__array_interface__["data"] == array.__array_interface__["data"]
    )


def _index(index: Any, name: str) -> Any:
    if index._array.dtype.kind not in "iu":
        raise DtypeError(f"{name}: expected an integer index, came {index.dtype}")
    return index


def _within(index: Any, size: int, name: str) -> None:
    array = index._array
    if array.size and (array.min() < 0 or array.max() >= size):
        raise BoundsError(
            f"{name}: expected indices within 0..{size - 1}, came {array.min()}..{array.max()}"
        )


def index_select(input: Any, dim: int, index: Any) -> Any:
    """The slices of `input` at `index` along `dim`."""
    axis = axis_of(dim, input.ndim, "index_select")
    _within(_index(index, "index_select"), input._array.shape[axis], "index_select")
    return apply(ops.Take((slice(None),) * axis + (index._array.reshape(-1),)), input)


def gather(input: Any, dim: int, index: Any) -> Any:
    """``out[i][j] = input[index[i][j]][j]`` for dim 0, and so on."""
    axis = axis_of(dim, input.ndim, "gather")
    _check_index_shape(input, index, axis, "gather")
    return apply(ops.Gather(axis), input, index)


def _check_index_shape(input: Any, index: Any, axis: int, name: str) -> None:
    _within(_index(index, name), input._array.shape[axis], name)
    fits = index.ndim == input.ndim and all(
        i == axis or n <= m
        for i, (n, m) in enumerate(zip(index._array.shape, input._array.shape, strict=False))
    )
    if not fits:
        raise ShapeError(
            f"{name}: expected an index of {input.ndim} dimensions no larger than "
            f"{tuple(input.shape)} outside dimension {axis}, came {tuple(index.shape)}"
        )


def scatter(input: Any, dim: int, index: Any, src: Any) -> Any:
    """A copy of input with ``out[index[i][j]][j] = src[i][j]`` for dim 0, and so on."""
    return _scatter(input, dim, index, src, add=False)


def scatter_add(input: Any, dim: int, index: Any, src: Any) -> Any:
    """A copy of input with ``out[index[i][j]][j] += src[i][j]`` for dim 0, and so on."""
    return _scatter(input, dim, index, src, add=True)


def _scatter(input: Any, dim: int, index: Any, src: Any, add: bool) -> Any:
    name = "scatter_add" if add else "scatter"
    axis = axis_of(dim, input.ndim, name)
    _check_index_shape(input, index, axis, name)
    if isinstance(src, TensorBase):
        if src._array.dtype != input._array.dtype:
            raise DtypeError(f"{name}: expected src of {input.dtype}, came {src.dtype}")
        if any(n > m for n, m in zip(index._array.shape, src._array.shape, strict=True)):
            raise ShapeError(
                f"{name}: index of shape {index._array.shape} is larger than src {src._array.shape}"
            )
    return apply(ops.Scatter(axis, add), input, index, src)


def masked_fill(input: Any, mask: Any, value: Any) -> Any:
    """A copy of input with `value` wherever `mask` (bool, broadcast) holds."""
    if mask._array.dtype.kind != "b":
        raise DtypeError(f"masked_fill: expected a bool mask, came {mask.dtype}")
    if isinstance(value, TensorBase):
        value = cast(value, input._array.dtype)
    else:
        value = input._array.dtype.type(value)
    return apply(Where(), mask, value, input)


def masked_select(input: Any, mask: Any) -> Any:
    """The elements where `mask` holds, as a vector."""
    return getitem(input, mask)


def nonzero(input: Any) -> Any:
    """Indices of the elements that are not zero, one row each, int64."""
    return input._new(np.argwhere(input._array).astype(np.int64, copy=False))


class IndexingMethods(TensorBase):
    """Indexing methods of Tensor."""

    __getitem__ = getitem
    __setitem__ = setitem
    index_select, gather, scatter, scatter_add = index_select, gather, scatter, scatter_add
    masked_fill, masked_select, nonzero = masked_fill, masked_select, nonzero

    def masked_fill_(self, mask: Any, value: Any) -> Any:
        """`masked_fill` in place; returns self."""
        check_in_place(self, "masked_fill_")
        return assign(self, masked_fill(self, mask, value), "masked_fill_")

    def scatter_(self, dim: int, index: Any, src: Any) -> Any:
        """`scatter` in place; returns self."""
        check_in_place(self, "scatter_")
        return assign(self, scatter(self, dim, index, src), "scatter_")

    def scatter_add_(self, dim: int, index: Any, src: Any) -> Any:
        """`scatter_add` in place; returns self."""
        check_in_place(self, "scatter_add_")
        return assign(self, scatter_add(self, dim, index, src), "scatter_add_")


def one_hot(indices: Any, num_classes: int = -1) -> Any:
    """int64 tensor with 1 at each index along a new last dimension, 0 elsewhere."""
    array = _index(indices, "one_hot")._array
    if num_classes == -1:
        num_classes = int(array.max()) + 1 if array.size else 0
    _within(indices, num_classes, "one_hot")
    out = np.zeros((*array.shape, num_classes), np.int64)
    np.put_along_axis(out, array[..., None], 1, axis=-1)
    return indices._new(out)
