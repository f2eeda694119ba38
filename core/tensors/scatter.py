"""Reading and writing along a dimension at given indices: gather, scatter, take, index_add, ...

Every function that writes has an in-place method of the same name with an underscore.
May import: graph, indexing, inplace, shaping.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np

from ..errors import BoundsError, DtypeError, OptionError, ShapeError
from ..ops import index as ops
from .graph import TensorBase, apply
from .indexing import integer_index, within
from .inplace import changed
from .promote import cast
from .reductions import axis_of
from .shaping import broadcast_to, clone, expand, flatten, reshape

__all__ = [
    "gather",
    "index_add",
    "index_copy",
    "index_fill",
    "index_reduce",
    "index_select",
    "put",
    "scatter",
    "scatter_add",
    "scatter_reduce",
    "take",
    "take_along_dim",
]

Prepared = tuple[Any, tuple[Any, ...]]


def gather(input: Any, dim: int, index: Any, *, sparse_grad: bool = False) -> Any:
    """``out[i][j] = input[index[i][j]][j]`` for dim 0, and so on.

    Args:
        input: any shape.
        index: integers, as many dimensions as `input`, no larger outside of `dim`.
        sparse_grad: must be False; gradients are dense.

    Raises:
        RuntimeError: an index that is no integer tensor, out of range, or of a wrong shape.

    >>> import allgrad as ag
    >>> gather(ag.tensor([[1, 2], [3, 4]]), 1, ag.tensor([[1], [0]]))
    tensor([[2],
            [3]])
    """
    if sparse_grad:
        raise OptionError("gather: sparse_grad=True is not supported, gradients are dense")
    axis = _checked(input, dim, index, "gather")
    if not input.ndim:
        return reshape(apply(ops.Gather(0), reshape(input, 1), reshape(index, -1)), index.shape)
    return apply(ops.Gather(axis), input, index)


def _checked(input: Any, dim: int, index: Any, name: str, narrower: bool = True) -> int:
    """The axis of `dim`, if `index` fits."""
    axis = axis_of(dim, input.ndim, name)
    shape, own = index.shape if isinstance(index, TensorBase) else (), input._array.shape
    within(integer_index(index, name), own[axis] if own else 1, name)
    fits = (len(shape) or 1) == (len(own) or 1) and all(
        i == axis or not narrower or n <= m
        for i, (n, m) in enumerate(zip(shape, own, strict=False))
    )
    if not fits and index._array.size:
        raise ShapeError(
            f"{name}: expected an index of {input.ndim} dimensions no larger than {own} outside "
            f"dimension {axis}, came {tuple(shape)}"
        )
    return axis


def _forms(name: str) -> Callable[[Callable[..., Prepared]], tuple[Any, Any]]:
    """From a function that gives (op, its other inputs): the function and its in-place method."""

    def build(prepare: Callable[..., Prepared]) -> tuple[Any, Any]:
        @functools.wraps(prepare)
        def function(input: Any, *args: Any, **kwargs: Any) -> Any:
            op, rest = prepare(input, *args, **kwargs)
            return _run(op, name, input, rest, False)

        @functools.wraps(prepare)
        def method(self: Any, *args: Any, **kwargs: Any) -> Any:
            op, rest = prepare(self, *args, **kwargs)
            return _run(op, f"{name}_", self, rest, True)

        function.__name__ = function.__qualname__ = name
        method.__name__ = method.__qualname__ = f"{name}_"
        method.__doc__ = f"`{name}` in place; returns self."
        return function, method

    return build


def _run(op: Any, name: str, input: Any, rest: tuple[Any, ...], in_place: bool) -> Any:
    try:
        return changed(op, name, input, rest, in_place)
    except ValueError as err:
        shapes = [tuple(r.shape) for r in (input, *rest) if isinstance(r, TensorBase)]
        raise ShapeError(f"{name}: shapes {shapes} do not fit ({err})") from err


@_forms("scatter")
def _scatter(
    input: Any,
    dim: int,
    index: Any,
    src: Any = None,
    *,
    value: Any = None,
    reduce: str | None = None,
) -> Prepared:
    """A copy of input with ``out[index[i][j]][j] = src[i][j]`` for dim 0, and so on.

    Args:
        index: integers, as many dimensions as `input`.
        src: a tensor of input's dtype at least as large as `index`, or a number.
        value: a number, instead of `src`.
        reduce: "add" or "multiply" with what is there instead of replacing it.

    Raises:
        RuntimeError: an index out of range, other shapes or dtypes, an unknown `reduce`.
    """
    if (src is None) == (value is None):
        raise TypeError("scatter: expected either src or value")
    if reduce not in (None, "add", "multiply"):
        raise ShapeError(f"scatter: expected reduce to be 'add' or 'multiply', came {reduce!r}")
    src = value if src is None else src
    axis = _checked_src(input, dim, index, src, "scatter")
    if not isinstance(src, TensorBase):
        src = input._array.dtype.type(src)
    if reduce == "multiply":
        return ops.ScatterReduce(axis, "prod", True), (index, src)
    return ops.Scatter(axis, reduce == "add"), (index, src)


def _checked_src(input: Any, dim: int, index: Any, src: Any, name: str) -> int:
    """The axis of `dim`, if `index` and `src` fit."""
    axis = _checked(input, dim, index, name)
    if isinstance(src, TensorBase):
        if src._array.dtype != input._array.dtype:
            raise DtypeError(f"{name}: expected src of {input.dtype}, came {src.dtype}")
        shape, own = index._array.shape, src._array.shape
        if len(shape) != len(own) or any(n > m for n, m in zip(shape, own, strict=True)):
            raise ShapeError(f"{name}: index of shape {shape} is larger than src {own}")
    return axis


@_forms("scatter_add")
def _scatter_add(input: Any, dim: int, index: Any, src: Any) -> Prepared:
    """A copy of input with ``out[index[i][j]][j] += src[i][j]`` for dim 0, and so on."""
    return ops.Scatter(_checked_src(input, dim, index, src, "scatter_add"), add=True), (index, src)


@_forms("scatter_reduce")
def _scatter_reduce(
    input: Any, dim: int, index: Any, src: Any, reduce: str, *, include_self: bool = True
) -> Prepared:
    """A copy of input, each element reduced with all of `src` that `index` sends to it.

    Args:
        reduce: "sum", "prod", "mean", "amax" or "amin".
        include_self: whether the element of `input` takes part.

    Raises:
        RuntimeError: an index out of range, other shapes or dtypes, an unknown `reduce`.
    """
    if reduce not in ops.ScatterReduce.start:
        known = ", ".join(ops.ScatterReduce.start)
        raise ShapeError(f"scatter_reduce: unknown reduce {reduce!r}; known: {known}")
    axis = _checked_src(input, dim, index, src, "scatter_reduce")
    return ops.ScatterReduce(axis, reduce, include_self), (index, src)


def _slices(input: Any, dim: int, index: Any, name: str, negative: bool = False) -> Any:
    """(axis, index as a vector of int64) of functions that address whole slices."""
    axis = axis_of(dim, input.ndim, name)
    array = integer_index(index, name)._array
    if array.ndim > 1:
        raise ShapeError(f"{name}: expected a vector of indices, came shape {array.shape}")
    within(index, input._array.shape[axis] if input.ndim else 1, name, negative)
    return axis, array.reshape(-1)


def index_select(input: Any, dim: int, index: Any) -> Any:
    """The slices of `input` at `index` along `dim`.

    Raises:
        IndexError: an index out of range, or not a vector.
        RuntimeError: not integers.
    """
    if isinstance(index, TensorBase) and index._array.ndim > 1:
        raise IndexError(f"index_select: expected a vector, came shape {tuple(index.shape)}")
    axis, places = _slices(input, dim, index, "index_select")
    if not input.ndim:
        return reshape(apply(ops.Take((places,)), reshape(input, 1)), ())
    return apply(ops.Take(_key(axis, places)), input)


def _key(axis: int, places: np.ndarray) -> tuple[Any, ...]:
    return (slice(None),) * axis + (places,)


def _source(input: Any, axis: int, places: np.ndarray, source: Any, name: str) -> None:
    """Raise unless `source` has one slice of input's shape and dtype for each index."""
    own = input._array.shape
    expected = (*own[:axis], places.size, *own[axis + 1 :]) if own else (1,)
    if source._array.dtype != input._array.dtype:
        raise DtypeError(f"{name}: expected a source of {input.dtype}, came {source.dtype}")
    if source._array.shape != expected and not (places.size == 1 and not source.ndim):
        raise ShapeError(
            f"{name}: expected a source of shape {expected} for a tensor of shape {own} and "
            f"{places.size} indices, came {tuple(source.shape)}"
        )


@_forms("index_add")
def _index_add(input: Any, dim: int, index: Any, source: Any, *, alpha: Any = 1) -> Prepared:
    """A copy of input with ``alpha * source[i]`` added to slice ``index[i]`` of `dim`.

    Raises:
        RuntimeError: an index out of range, or a source of another shape or dtype.
    """
    axis, places = _slices(input, dim, index, "index_add")
    _source(input, axis, places, source, "index_add")
    return ops.Assign(_key(axis, places), add=True), (source if alpha == 1 else source * alpha,)


@_forms("index_copy")
def _index_copy(input: Any, dim: int, index: Any, source: Any) -> Prepared:
    """A copy of input with slice ``index[i]`` of `dim` replaced by ``source[i]``.

    Raises:
        IndexError: an index out of range.
        RuntimeError: a source of another shape or dtype.
    """
    axis, places = _slices(input, dim, index, "index_copy")
    _source(input, axis, places, source, "index_copy")
    return ops.Assign(_key(axis, places)), (source,)


@_forms("index_fill")
def _index_fill(input: Any, dim: int, index: Any, value: Any) -> Prepared:
    """A copy of input with the slices `index` of `dim` set to `value` (a number or a scalar).

    Raises:
        IndexError: an index out of range.
        RuntimeError: a value with dimensions.
    """
    axis, places = _slices(input, dim, index, "index_fill", negative=True)
    if isinstance(value, TensorBase):
        if value._array.ndim:
            raise ShapeError(f"index_fill: expected one value, came shape {tuple(value.shape)}")
        value = cast(value, input._array.dtype)
    return ops.Assign(_key(axis, places)), (value,)


@_forms("index_reduce")
def _index_reduce(
    input: Any, dim: int, index: Any, source: Any, reduce: str, *, include_self: bool = True
) -> Prepared:
    """`scatter_reduce` of whole slices: ``source[i]`` goes to slice ``index[i]`` of `dim`."""
    if reduce not in ("prod", "mean", "amax", "amin"):
        raise ShapeError(f"index_reduce: unknown reduce {reduce!r}; known: prod, mean, amax, amin")
    axis, places = _slices(input, dim, index, "index_reduce")
    _source(input, axis, places, source, "index_reduce")
    line = (1,) * axis + (-1,) + (1,) * (source.ndim - axis - 1)
    wide = expand(reshape(index, line), source.shape)
    return ops.ScatterReduce(axis, reduce, include_self), (wide, source)


scatter, scatter_ = _scatter
scatter_add, scatter_add_ = _scatter_add
scatter_reduce, scatter_reduce_ = _scatter_reduce
index_add, index_add_ = _index_add
index_copy, index_copy_ = _index_copy
index_fill, index_fill_ = _index_fill
index_reduce, index_reduce_ = _index_reduce


def take(input: Any, index: Any) -> Any:
    """The elements of the flattened tensor at `index`, in the shape of `index`.

    Raises:
        IndexError: an index out of range.
        RuntimeError: not integers.
    """
    within(integer_index(index, "take"), input._array.size, "take", negative=True)
    return apply(ops.Take((index._array,)), flatten(input))


def take_along_dim(input: Any, indices: Any, dim: int | None = None) -> Any:
    """`gather` whose index and input broadcast outside of `dim` (None: flattened first)."""
    if dim is None:
        return gather(flatten(input), 0, flatten(indices))
    integer_index(indices, "take_along_dim")
    axis = axis_of(dim, input.ndim, "take_along_dim")
    if input.ndim != indices.ndim:
        raise ShapeError(
            "take_along_dim: expected indices with as many dimensions as the tensor, came "
            f"{tuple(indices.shape)} and {tuple(input.shape)}"
        )
    own, other = list(input._array.shape), list(indices._array.shape)
    length, count = own[axis], other[axis]
    own[axis] = other[axis] = 1
    try:
        common = list(np.broadcast_shapes(tuple(own), tuple(other)))
    except ValueError as err:
        raise ShapeError(
            f"take_along_dim: shapes {tuple(input.shape)} and {tuple(indices.shape)} do not "
            f"broadcast outside of dimension {dim}"
        ) from err
    wide = broadcast_to(input, [*common[:axis], length, *common[axis + 1 :]])
    return gather(wide, axis, broadcast_to(indices, [*common[:axis], count, *common[axis + 1 :]]))


def put(input: Any, index: Any, source: Any, accumulate: bool = False) -> Any:
    """A copy of input whose flattened elements at `index` are those of `source`.

    Args:
        accumulate: add instead of replacing.

    Raises:
        IndexError: an index out of range, or not as many elements as indices.
        RuntimeError: another dtype.
    """
    return put_(clone(input), index, source, accumulate)


def put_(input: Any, index: Any, source: Any, accumulate: bool = False) -> Any:
    """`put` in place; returns self."""
    within(integer_index(index, "put_"), input._array.size, "put_", negative=True)
    if source._array.dtype != input._array.dtype:
        raise DtypeError(f"put_: expected a source of {input.dtype}, came {source.dtype}")
    if source._array.size != index._array.size:
        raise BoundsError(
            f"put_: expected as many elements as indices, came {tuple(source.shape)} for "
            f"{tuple(index.shape)}"
        )
    if not input.ndim:
        key: Any = (np.zeros(source._array.size, np.int64),)
        changed(ops.Assign(key, accumulate), "put_", reshape(input, 1), (flatten(source),), True)
        return input
    places = index._array.reshape(-1) % max(input._array.size, 1)
    key = np.unravel_index(places, input._array.shape)
    return changed(ops.Assign(key, accumulate), "put_", input, (flatten(source),), True)


class ScatterMethods(TensorBase):
    """Methods of Tensor that read and write at indices."""

    gather, index_select, take, take_along_dim = gather, index_select, take, take_along_dim
    scatter, scatter_add, scatter_reduce = scatter, scatter_add, scatter_reduce
    scatter_, scatter_add_, scatter_reduce_ = scatter_, scatter_add_, scatter_reduce_
    index_add, index_copy, index_fill = index_add, index_copy, index_fill
    index_add_, index_copy_, index_fill_ = index_add_, index_copy_, index_fill_
    index_reduce, index_reduce_, put, put_ = index_reduce, index_reduce_, put, put_
