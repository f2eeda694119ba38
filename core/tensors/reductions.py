"""Reductions, sorting and softmax of tensors, as functions and methods."""

from __future__ import annotations

from collections import namedtuple
from collections.abc import Callable
from typing import Any

import numpy as np

from .. import dtypes
from ..errors import BoundsError, DtypeError, ShapeError
from ..ops import reduce
from ..ops.softmax import LogSoftmax, Softmax
from .graph import apply
from .promote import cast

ValuesAndIndices = namedtuple("ValuesAndIndices", ["values", "indices"])

__all__ = [
    "all",
    "amax",
    "amin",
    "any",
    "argmax",
    "argmin",
    "argsort",
    "cumsum",
    "log_softmax",
    "logsumexp",
    "max",
    "mean",
    "min",
    "norm",
    "prod",
    "softmax",
    "sort",
    "std",
    "sum",
    "topk",
    "var",
]


def axis_of(dim: int, ndim: int, name: str) -> int:
    """`dim` counted from the front.

    Raises:
        IndexError: out of range.
    """
    n = ndim or 1
    if not -n <= dim < n:
        raise IndexError(
            f"{name}: dimension out of range (expected to be in [{-n}, {n - 1}], but got {dim})"
        )
    return dim % n


def axes_of(dim: Any, ndim: int, name: str) -> tuple[int, ...] | None:
    """One or several dimensions counted from the front; None means all."""
    if dim is None or (isinstance(dim, tuple | list) and not dim):
        return None
    if ndim == 0:
        for d in dim if isinstance(dim, tuple | list) else (dim,):
            axis_of(d, 0, name)
        return None
    dims = dim if isinstance(dim, tuple | list) else (dim,)
    axes = tuple(axis_of(d, ndim, name) for d in dims)
    if len(set(axes)) != len(axes):
        raise ShapeError(f"{name}: a dimension appears twice in {tuple(dims)}")
    return axes


def _in_dtype(input: Any, dtype: Any) -> Any:
    return input if dtype is None else cast(input, dtypes.to_numpy(dtype))


def _need_floating(input: Any, name: str) -> None:
    if input._array.dtype.kind not in dtypes.DIFFERENTIABLE:
        raise DtypeError(f"{name}: expected a floating point tensor, came {input.dtype}")


def sum(input: Any, dim: Any = None, keepdim: bool = False, *, dtype: Any = None) -> Any:
    """Sum over `dim` (None: all). Integers and bools are summed as int64."""
    if dtype is None and input._array.dtype.kind in "iub":
        dtype = dtypes.int64
    input = _in_dtype(input, dtype)
    return apply(reduce.Sum(axes_of(dim, input.ndim, "sum"), keepdim), input)


def mean(input: Any, dim: Any = None, keepdim: bool = False, *, dtype: Any = None) -> Any:
    """Mean over `dim` (None: all)."""
    input = _in_dtype(input, dtype)
    _need_floating(input, "mean")
    return apply(reduce.Mean(axes_of(dim, input.ndim, "mean"), keepdim), input)


def prod(input: Any, dim: int | None = None, keepdim: bool = False, *, dtype: Any = None) -> Any:
    """Product over `dim` (None: all)."""
    if dtype is None and input._array.dtype.kind in "iub":
        dtype = dtypes.int64
    input = _in_dtype(input, dtype)
    axis = None if dim is None or input.ndim == 0 else axis_of(dim, input.ndim, "prod")
    return apply(reduce.Prod(axis, keepdim), input)


def var(
    input: Any,
    dim: Any = None,
    unbiased: bool | None = None,
    keepdim: bool = False,
    *,
    correction: float | None = None,
) -> Any:
    """Variance over `dim`, divided by count - correction (1 unless told otherwise)."""
    if isinstance(dim, bool):  # var(unbiased)
        dim, unbiased = None, dim
    if correction is None:
        correction = 1 if unbiased is None or unbiased else 0
    _need_floating(input, "var")
    return apply(reduce.Var(axes_of(dim, input.ndim, "var"), correction, keepdim), input)


def std(
    input: Any,
    dim: Any = None,
    unbiased: bool | None = None,
    keepdim: bool = False,
    *,
    correction: float | None = None,
) -> Any:
    """Square root of `var`."""
    if isinstance(dim, bool):  # std(unbiased)
        dim, unbiased = None, dim
    if correction is None:
        correction = 1 if unbiased is None or unbiased else 0
    _need_floating(input, "std")
    return apply(reduce.Std(axes_of(dim, input.ndim, "std"), correction, keepdim), input)


def _not_empty(input: Any, name: str, axes: tuple[int, ...] | None) -> None:
    """Raise if an extreme over `axes` (None: all) would be one of no elements."""
    shape = input._array.shape
    if 0 in (shape if axes is None else [shape[i] for i in axes]):
        raise BoundsError(f"{name}: expected at least one element, came shape {tuple(shape)}")


def _extreme(function: Any, arg: Any, name: str) -> Callable[..., Any]:
    def extreme(input: Any, dim: int | None = None, keepdim: bool = False) -> Any:
        if not isinstance(dim, int | None):  # max(a, b): elementwise
            return getattr(input, f"{name}imum")(dim)
        if dim is None:
            _not_empty(input, name, None)
            return apply(reduce.Extreme(function, None, False), input)
        axis = axis_of(dim, input.ndim, name)
        _not_empty(input, name, (axis,) if input.ndim else None)
        array = input._array if input.ndim else input._array.reshape(1)
        indices = np.expand_dims(arg(array, axis=axis), axis)
        if input.ndim == 0:
            return ValuesAndIndices(input.clone(), input._new(indices.reshape(())))
        values = apply(reduce.Pick(axis), input, input._new(indices))
        found = input._new(indices)
        if not keepdim:
            return ValuesAndIndices(values.squeeze(axis), found.squeeze(axis))
        return ValuesAndIndices(values, found)

    extreme.__name__ = extreme.__qualname__ = name
    extreme.__doc__ = f"The {name}imum of all elements, or (values, indices) of it along `dim`."
    return extreme


max = _extreme(np.max, np.argmax, "max")
min = _extreme(np.min, np.argmin, "min")


def amax(input: Any, dim: Any = None, keepdim: bool = False) -> Any:
    """Maximum over `dim`; the gradient is shared among equal ones."""
    axes = axes_of(dim, input.ndim, "amax")
    _not_empty(input, "amax", axes)
    return apply(reduce.Extreme(np.max, axes, keepdim), input)


def amin(input: Any, dim: Any = None, keepdim: bool = False) -> Any:
    """Minimum over `dim`; the gradient is shared among equal ones."""
    axes = axes_of(dim, input.ndim, "amin")
    _not_empty(input, "amin", axes)
    return apply(reduce.Extreme(np.min, axes, keepdim), input)


def argmax(input: Any, dim: int | None = None, keepdim: bool = False) -> Any:
    """Index of the (first) maximum, of all elements or along `dim`."""
    axis = None if dim is None or not input.ndim else axis_of(dim, input.ndim, "argmax")
    _not_empty(input, "argmax", None if axis is None else (axis,))
    return input._new(np.argmax(input._canonical(), axis=axis, keepdims=keepdim))


def argmin(input: Any, dim: int | None = None, keepdim: bool = False) -> Any:
    """Index of the (first) minimum, of all elements or along `dim`."""
    axis = None if dim is None or not input.ndim else axis_of(dim, input.ndim, "argmin")
    _not_empty(input, "argmin", None if axis is None else (axis,))
    return input._new(np.argmin(input._canonical(), axis=axis, keepdims=keepdim))


def argsort(input: Any, dim: int = -1, descending: bool = False, stable: bool = False) -> Any:
    """Indices that sort along `dim`; equal elements keep their order."""
    axis = axis_of(dim, input.ndim, "argsort")
    array = input._array
    if descending:  # stable in the reversed order too
        flipped = np.flip(array, axis)
        order = np.argsort(flipped, axis=axis, kind="stable")
        return input._new(np.flip(array.shape[axis] - 1 - order, axis).copy())
    return input._new(np.argsort(array, axis=axis, kind="stable"))


def sort(input: Any, dim: int = -1, descending: bool = False, stable: bool = False) -> Any:
    """(values, indices) sorted along `dim`."""
    axis = axis_of(dim, input.ndim, "sort")
    indices = argsort(input, axis, descending, stable)
    return ValuesAndIndices(apply(reduce.Pick(axis), input, indices), indices)


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
    order = argsort(input, axis, descending=largest)._array
    indices = input._new(np.take(order, np.arange(k), axis=axis))
    return ValuesAndIndices(apply(reduce.Pick(axis), input, indices), indices)


def cumsum(input: Any, dim: int) -> Any:
    """Running sum along `dim`."""
    if input._array.dtype.kind in "iub":
        input = cast(input, dtypes.int64.numpy)
    return apply(reduce.CumSum(axis_of(dim, input.ndim, "cumsum")), input)


def logsumexp(input: Any, dim: Any, keepdim: bool = False) -> Any:
    """log(sum(exp(input))) over `dim`."""
    _need_floating(input, "logsumexp")
    return apply(reduce.LogSumExp(axes_of(dim, input.ndim, "logsumexp"), keepdim), input)


def norm(input: Any, p: Any = 2, dim: Any = None, keepdim: bool = False) -> Any:
    """Vector norm over `dim` (None: all): p a number, inf, or "fro" (2)."""
    _need_floating(input, "norm")
    p = 2 if p == "fro" else p
    if p == float("inf"):
        return amax(input.abs(), dim, keepdim)
    if p == -float("inf"):
        return amin(input.abs(), dim, keepdim)
    if p == 0:
        return sum(cast(input.ne(0), input._array.dtype), dim, keepdim)
    return apply(reduce.Norm(p, axes_of(dim, input.ndim, "norm"), keepdim), input)


def all(input: Any, dim: Any = None, keepdim: bool = False) -> Any:
    """Bool: whether all elements (along `dim`) are true."""
    axes = axes_of(dim, input.ndim, "all")
    return input._new(np.all(input._array, axis=axes, keepdims=keepdim))


def any(input: Any, dim: Any = None, keepdim: bool = False) -> Any:
    """Bool: whether any element (along `dim`) is true."""
    axes = axes_of(dim, input.ndim, "any")
    return input._new(np.any(input._array, axis=axes, keepdims=keepdim))


def softmax(input: Any, dim: int, dtype: Any = None) -> Any:
    """exp(x) / sum(exp(x)) along `dim`."""
    input = _in_dtype(input, dtype)
    _need_floating(input, "softmax")
    if input.ndim == 0:
        return input.reshape(1).softmax(dim).reshape(())
    return apply(Softmax(axis_of(dim, input.ndim, "softmax")), input)


def log_softmax(input: Any, dim: int, dtype: Any = None) -> Any:
    """log(softmax(x)) along `dim`."""
    input = _in_dtype(input, dtype)
    _need_floating(input, "log_softmax")
    if input.ndim == 0:
        return input.reshape(1).log_softmax(dim).reshape(())
    return apply(LogSoftmax(axis_of(dim, input.ndim, "log_softmax")), input)


class ReductionMethods:
    """Reducing methods of Tensor."""

    sum, mean, prod, var, std, norm = sum, mean, prod, var, std, norm
    max, min, amax, amin, argmax, argmin = max, min, amax, amin, argmax, argmin
    sort, argsort, topk, cumsum, logsumexp = sort, argsort, topk, cumsum, logsumexp
    all, any, softmax, log_softmax = all, any, softmax, log_softmax
