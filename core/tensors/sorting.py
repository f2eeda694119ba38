"""Order: sorting, the k-th of the elements, quantiles, and distinct elements."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np

from ..backend.arrays import as_array, on, on_device
from ..dtypes import FLOATING
from ..errors import BoundsError, DtypeError, ShapeError
from ..ops import reduce
from ..ops.index import Gather
from ..ops.scan import accumulated
from .autocasting import widens
from .graph import TensorBase, apply
from .pairs import lerp
from .promote import not_a_tensor, refuse_complex
from .reductions import ValuesAndIndices, axis_of

__all__ = [
    "argsort",
    "kthvalue",
    "median",
    "mode",
    "msort",
    "nanmedian",
    "nanquantile",
    "quantile",
    "sort",
    "topk",
]


def _scalar_too(function: Callable[..., Any]) -> Callable[..., Any]:
    """Let a function along a dimension serve tensors without dimensions."""

    @functools.wraps(function)
    def wrapper(input: Any, *args: Any, **kwargs: Any) -> Any:
        if not hasattr(input, "_array"):
            raise not_a_tensor(function.__name__.lstrip("_"), input)
        refuse_complex(function.__name__.lstrip("_"), input)
        if input.ndim:
            return function(input, *args, **kwargs)
        found = function(input.reshape(1), *args, **kwargs)
        if not isinstance(found, tuple):
            return found.reshape(())
        return type(found)(*(part.reshape(()) for part in found))

    return wrapper


def _order(array: np.ndarray, axis: int, descending: bool = False) -> np.ndarray:
    """Indices that sort; equal elements keep their order, nan is the largest."""
    if descending:  # stable in the reversed order too
        order = np.argsort(np.flip(array, axis), axis=axis, kind="stable")
        return np.flip(array.shape[axis] - 1 - order, axis).copy()
    return np.argsort(array, axis=axis, kind="stable")


@_scalar_too
def argsort(input: Any, dim: int = -1, descending: bool = False, stable: bool = False) -> Any:
    """Indices that sort along `dim`; equal elements keep their order."""
    return input._new(_order(input._array, axis_of(dim, input.ndim, "argsort"), descending))


def sort(input: Any, dim: int = -1, descending: bool = False, stable: bool = False) -> Any:
    """(values, indices) sorted along `dim`; equal elements keep their order, nan is the largest.

    >>> import allgrad as ag
    >>> ag.sort(ag.tensor([3, 1, 2])).indices
    tensor([1, 2, 0])
    """
    return _sort(input, dim, descending)


@_scalar_too
def _sort(input: Any, dim: int, descending: bool) -> Any:
    axis = axis_of(dim, input.ndim, "sort")
    indices = input._new(_order(input._array, axis, descending))
    return ValuesAndIndices(apply(reduce.Pick(axis), input, indices), indices)


def msort(input: Any) -> Any:
    """Values sorted along the first dimension."""
    return sort(input, 0).values


@_scalar_too
def topk(input: Any, k: int, dim: int = -1, largest: bool = True, sorted: bool = True) -> Any:
    """(values, indices) of the k largest (or smallest) along `dim`, in order.

    Raises:
        RuntimeError: fewer than k elements.
    """
    axis = axis_of(dim, input.ndim, "topk")
    if not 0 <= k <= input._array.shape[axis]:
        raise ShapeError(
            f"topk: expected k within 0..{input._array.shape[axis]} for dimension {dim}, came {k}"
        )
    order = _order(input._array, axis, descending=largest)
    indices = input._new(np.take(order, np.arange(k, like=order), axis=axis))
    return ValuesAndIndices(apply(reduce.Pick(axis), input, indices), indices)


def _picked(input: Any, axis: int, indices: np.ndarray, keepdim: bool) -> Any:
    """(values, indices) of one element per line along `axis`."""
    index = input._new(indices)
    values = apply(reduce.Pick(axis), input, index)
    if keepdim:
        return ValuesAndIndices(values, index)
    return ValuesAndIndices(values.squeeze(axis), index.squeeze(axis))


def _line(input: Any, dim: int, name: str) -> int:
    """The axis of `dim`, along which there must be elements."""
    axis = axis_of(dim, input.ndim, name)
    if not input._array.shape[axis]:
        raise BoundsError(
            f"{name}: expected at least one element along dimension {dim}, came shape "
            f"{tuple(input.shape)}"
        )
    return axis


@_scalar_too
def kthvalue(input: Any, k: int, dim: int = -1, keepdim: bool = False) -> Any:
    """(values, indices) of the k-th smallest along `dim`, k counted from 1.

    Raises:
        RuntimeError: fewer than k elements, or k < 1.

    >>> import allgrad as ag
    >>> ag.kthvalue(ag.tensor([5.0, 1.0, 3.0]), 2).values
    tensor(3.)
    """
    axis = axis_of(dim, input.ndim, "kthvalue")
    n = input._array.shape[axis]
    if not 1 <= k <= n:
        raise ShapeError(f"kthvalue: expected k within 1..{n} for dimension {dim}, came {k}")
    order = _order(input._array, axis)
    return _picked(input, axis, np.take(order, [k - 1], axis=axis), keepdim)


def _nan(array: np.ndarray) -> np.ndarray:
    floating = array.dtype.kind in FLOATING
    return np.isnan(array) if floating else np.zeros(array.shape, bool)


def _middle(array: np.ndarray, axis: int, skip_nan: bool) -> np.ndarray:
    """Index of the lower median along `axis`, kept with size 1."""
    order, nan = _order(array, axis), _nan(array)
    found = nan.sum(axis=axis, keepdims=True)
    n = array.shape[axis]
    last = np.maximum(n - found, 1) if skip_nan else np.where(found > 0, n - found + 1, n)
    place = (last - 1) // 2 if skip_nan else np.where(found > 0, last - 1, (n - 1) // 2)
    return np.take_along_axis(order, place, axis=axis)


def _median(name: str, skip_nan: bool) -> Callable[..., Any]:
    def of_all(array: np.ndarray, axis: None, keepdims: bool) -> np.ndarray:
        flat = array.reshape(-1)
        return flat[_middle(flat, 0, skip_nan)[0]]

    @_scalar_too
    def along(input: Any, dim: int, keepdim: bool) -> Any:
        axis = _line(input, dim, name)
        return _picked(input, axis, _middle(input._array, axis, skip_nan), keepdim)

    def median(input: Any, dim: int | None = None, keepdim: bool = False) -> Any:
        if dim is not None:
            return along(input, dim, keepdim)
        refuse_complex(name, input)
        if not input._array.size:
            if input._array.dtype.kind in FLOATING:
                return input._new(as_array(np.nan, input._array.dtype))
            raise BoundsError(f"{name}: expected at least one element, came {tuple(input.shape)}")
        return apply(reduce.Extreme(of_all, None, False), input)

    median.__name__ = median.__qualname__ = name
    rule = "nan does not count" if skip_nan else "nan if there is one"
    median.__doc__ = (
        f"The lower median of all elements, or (values, indices) of it along `dim`; {rule}."
    )
    return median


median = _median("median", skip_nan=False)
nanmedian = _median("nanmedian", skip_nan=True)


@_scalar_too
def mode(input: Any, dim: int = -1, keepdim: bool = False) -> Any:
    """(values, indices) of the most frequent element along `dim`, the smallest of several.

    >>> import allgrad as ag
    >>> ag.mode(ag.tensor([2, 1, 2, 3])).values
    tensor(2)
    """
    axis = _line(input, dim, "mode")
    order = _order(input._array, axis)
    line = np.moveaxis(np.take_along_axis(input._array, order, axis=axis), axis, -1)
    place = np.broadcast_to(np.arange(line.shape[-1], like=line), line.shape)
    starts = np.ones_like(line, bool, order="C")
    starts[..., 1:] = line[..., 1:] != line[..., :-1]
    length = place - accumulated(np.maximum, np.where(starts, place, 0), -1)
    best = np.expand_dims(length.argmax(axis=-1), axis)  # the end of the first longest run
    return _picked(input, axis, np.take_along_axis(order, best, axis=axis), keepdim)


@widens
def quantile(
    input: Any,
    q: Any,
    dim: int | None = None,
    keepdim: bool = False,
    *,
    interpolation: str = "linear",
) -> Any:
    """The value below which the fraction `q` of the elements lies; nan if one is nan.

    Args:
        input: floating point numbers.
        q: a number within 0..1, or a vector of them (input's dtype), which becomes the first
            dimension of the result.
        dim: the dimension to reduce; None: all.
        keepdim: keep the reduced dimension with size 1.
        interpolation: between two elements: "linear", "lower", "higher", "nearest", "midpoint".

    Raises:
        RuntimeError: wrong dtype, q outside 0..1, no elements, unknown interpolation.

    >>> import allgrad as ag
    >>> ag.quantile(ag.tensor([1.0, 2.0, 4.0]), 0.75)
    tensor(3.)
    """
    return _quantile("quantile", input, q, dim, keepdim, interpolation)


@widens
def nanquantile(
    input: Any,
    q: Any,
    dim: int | None = None,
    keepdim: bool = False,
    *,
    interpolation: str = "linear",
) -> Any:
    """`quantile` of the elements that are not nan."""
    return _quantile("nanquantile", input, q, dim, keepdim, interpolation)


_BETWEEN = ("linear", "lower", "higher", "nearest", "midpoint")


def _fractions(name: str, input: Any, q: Any) -> np.ndarray:
    """Check the arguments of a quantile; `q` as an array of float64."""
    if input._array.dtype not in (np.float32, np.float64):
        raise DtypeError(f"{name}: expected float32 or float64, came {input.dtype}")
    if isinstance(q, TensorBase):
        if q._array.dtype != input._array.dtype or q._array.ndim > 1:
            raise DtypeError(
                f"{name}: expected q of {input.dtype} with at most one dimension, came {q.dtype} "
                f"of shape {tuple(q.shape)}"
            )
        array = q._array.astype(np.float64)
    else:
        array = np.asarray(q, np.float64)
    if not on_device(array) and not ((array >= 0) & (array <= 1)).all():
        raise DtypeError(f"{name}: expected q within 0..1, came {array.tolist()}")
    if not input._array.size:
        raise ShapeError(f"{name}: expected at least one element, came {tuple(input.shape)}")
    return on(array, input._array)


def _quantile(
    name: str, input: Any, q: Any, dim: int | None, keepdim: bool, interpolation: str
) -> Any:
    if interpolation not in _BETWEEN:
        known = ", ".join(map(repr, _BETWEEN))
        raise ShapeError(f"{name}: unknown interpolation {interpolation!r}; known: {known}")
    fractions = _fractions(name, input, q)
    ndim = input.ndim
    axis = None if dim is None else axis_of(dim, ndim, name)
    line = input.reshape(-1) if axis is None or not ndim else input.transpose(axis, -1)
    ordered = sort(line, -1).values
    array = ordered._array
    count = array.shape[-1] - np.isnan(array).sum(axis=-1, keepdims=True)
    if name == "quantile":  # nan, sorted last, is the result
        rank = np.where(count < array.shape[-1], array.shape[-1] - 1, fractions * (count - 1))
    else:
        rank = fractions * np.maximum(count - 1, 0)
    found = _between(ordered, rank.reshape(*array.shape[:-1], -1), interpolation)
    if axis is not None and ndim:
        found = found.transpose(axis, -1) if ndim > 1 else found
        found = found.unsqueeze(0).transpose(0, axis + 1)  # (q, ..., 1, ...)
        shape = list(found.shape)
    else:
        shape = [fractions.size, *([1] * ndim)]
    if not keepdim:
        shape = [shape[0]] if axis is None or not ndim else shape[: axis + 1] + shape[axis + 2 :]
    return found.reshape(shape if fractions.ndim else shape[1:])


def _between(ordered: Any, rank: np.ndarray, interpolation: str) -> Any:
    """The elements at fractional places `rank` along the last axis."""
    special: dict[str, Any] = {"higher": np.ceil, "nearest": np.round}
    rounding = special.get(interpolation, np.floor)
    places = ordered._new(rounding(rank).astype(np.int64))
    low = apply(Gather(ordered.ndim - 1), ordered, places)
    if interpolation in ("lower", "higher", "nearest"):
        return low
    above = ordered._new(np.ceil(rank).astype(np.int64))
    high = apply(Gather(ordered.ndim - 1), ordered, above)
    weight = rank - np.floor(rank) if interpolation == "linear" else np.full_like(rank, 0.5)
    return lerp(low, high, ordered._new(weight.astype(ordered._array.dtype)))


class SortingMethods:
    """Methods of Tensor that concern the order of its elements."""

    sort, argsort, msort, topk, kthvalue = sort, argsort, msort, topk, kthvalue
    median, nanmedian, mode = median, nanmedian, mode
    quantile, nanquantile = quantile, nanquantile
