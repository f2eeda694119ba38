"""Running sums, products and extremes along a dimension, differences, and histograms."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from .. import dtypes
from ..errors import DtypeError, ShapeError
from ..ops import reduce, scan
from ..ops.base import Op
from ..ops.index import Gather
from .graph import TensorBase, apply
from .logic import logical_xor
from .mutating import in_place
from .promote import cast, not_a_tensor, refuse_complex
from .reductions import ValuesAndIndices, axis_of

__all__ = [
    "bincount",
    "cummax",
    "cummin",
    "cumprod",
    "cumsum",
    "diff",
    "histc",
    "logcumsumexp",
]


def _running(op: Callable[[int], Op], input: Any, dim: int, name: str) -> Any:
    """Apply `op` along `dim`; a tensor without dimensions counts as one of size 1."""
    axis = axis_of(dim, input.ndim, name)
    if not input.ndim:
        return apply(op(0), input.reshape(1)).reshape(())
    return apply(op(axis), input)


def _summable(name: str, input: Any, dtype: Any) -> Any:
    if not isinstance(input, TensorBase):
        raise not_a_tensor(name, input)
    if dtype is None and input._array.dtype.kind in "iub":
        dtype = dtypes.int64
    return input if dtype is None else cast(input, dtypes.to_numpy(dtype))


def cumsum(input: Any, dim: int, *, dtype: Any = None) -> Any:
    """Running sum along `dim`; integers and bools are summed as int64.

    >>> import allgrad as ag
    >>> ag.cumsum(ag.tensor([1, 2, 3]), 0)
    tensor([1, 3, 6])
    """
    return _running(reduce.CumSum, _summable("cumsum", input, dtype), dim, "cumsum")


def cumprod(input: Any, dim: int, *, dtype: Any = None) -> Any:
    """Running product along `dim`; integers and bools are multiplied as int64.

    >>> import allgrad as ag
    >>> ag.cumprod(ag.tensor([1, 2, 3]), 0)
    tensor([1, 2, 6])
    """
    return _running(scan.CumProd, _summable("cumprod", input, dtype), dim, "cumprod")


def logcumsumexp(input: Any, dim: int) -> Any:
    """log(cumsum(exp(input))) along `dim`, without overflow."""
    if input._array.dtype.kind not in dtypes.FLOATING:
        raise DtypeError(f"logcumsumexp: expected a floating point tensor, came {input.dtype}")
    return _running(scan.LogCumSumExp, input, dim, "logcumsumexp")


def _extreme_so_far(function: np.ufunc, name: str) -> Callable[..., Any]:
    def extreme(input: Any, dim: int) -> Any:
        refuse_complex(name, input)
        axis = axis_of(dim, input.ndim, name)
        x = input if input.ndim else input.reshape(1)
        array = x._array
        top = scan.accumulated(function, array, axis)
        shape = [1] * array.ndim
        shape[axis] = -1
        place = np.arange(array.shape[axis], like=array).reshape(shape)
        # Of equal ones the last; nan, once met, stays.
        hit = (array == top) | (np.isnan(array) if array.dtype.kind in dtypes.FLOATING else False)
        indices = scan.accumulated(np.maximum, np.where(hit, place, 0), axis)
        index = input._new(indices)
        values = apply(Gather(axis), x, index)
        if not input.ndim:
            return ValuesAndIndices(values.reshape(()), index.reshape(()))
        return ValuesAndIndices(values, index)

    extreme.__name__ = extreme.__qualname__ = name
    extreme.__doc__ = f"(values, indices) of the {name[3:]}imum so far along `dim`."
    return extreme


cummax = _extreme_so_far(np.maximum, "cummax")
cummin = _extreme_so_far(np.minimum, "cummin")


def diff(input: Any, n: int = 1, dim: int = -1, prepend: Any = None, append: Any = None) -> Any:
    """Differences of neighbours along `dim`, taken `n` times; of bools, whether they differ.

    Args:
        input: at least one dimension.
        n: how often.
        dim: the dimension.
        prepend, append: tensors to put before and after input first.

    Raises:
        RuntimeError: input has no dimension, or `n` is negative.

    >>> import allgrad as ag
    >>> ag.diff(ag.tensor([1, 4, 9, 16]))
    tensor([3, 5, 7])
    """
    if not input.ndim:
        raise ShapeError("diff: expected a tensor of at least one dimension, came shape ()")
    if n < 0:
        raise ShapeError(f"diff: expected n >= 0, came {n}")
    axis = axis_of(dim, input.ndim, "diff")
    parts = [t for t in (prepend, input, append) if t is not None]
    if len(parts) > 1:
        from .joining import cat  # noqa: PLC0415 - joining imports what imports this

        input = cat(parts, axis)
    before = (slice(None),) * axis
    for _ in range(n):
        later, earlier = input[(*before, slice(1, None))], input[(*before, slice(None, -1))]
        input = logical_xor(later, earlier) if input.dtype is dtypes.bool_ else later - earlier
    return input if n else input.clone()


def histc(input: Any, bins: int = 100, min: float = 0, max: float = 0) -> Any:
    """How many elements lie in each of `bins` equal intervals from `min` to `max`.

    Args:
        input: floating point numbers; those beyond the range are not counted.
        bins: how many intervals.
        min, max: the range; where both are equal, the range of the elements.

    Raises:
        RuntimeError: integers, no bins, `max` below `min`, or a range that is not finite.

    >>> import allgrad as ag
    >>> ag.histc(ag.tensor([1.0, 2.0, 1.0]), bins=4, min=0, max=3)
    tensor([0., 2., 1., 0.])
    """
    array = input._array
    if array.dtype.kind not in dtypes.FLOATING:
        raise DtypeError(f"histc: expected a floating point tensor, came {input.dtype}")
    if bins <= 0:
        raise ShapeError(f"histc: expected at least one bin, came {bins}")
    low, high = float(min), float(max)
    if low == high and array.size:
        low, high = float(array.min()), float(array.max())
    if low == high:
        low, high = low - 1, high + 1
    if not (np.isfinite(low) and np.isfinite(high)) or low > high:
        raise ShapeError(f"histc: expected a finite range with min <= max, came {low} to {high}")
    found, _ = np.histogram(array[(array >= low) & (array <= high)], bins, (low, high))
    return input._new(found.astype(array.dtype))


def bincount(input: Any, weights: Any = None, minlength: int = 0) -> Any:
    """How often each of 0, 1, 2, ... occurs in a vector of integers.

    Args:
        input: (N,) integers >= 0.
        weights: (N,) what each of them counts; 1 by default.
        minlength: at least so many results.

    Raises:
        RuntimeError: input is no such vector, or weights have another length.

    >>> import allgrad as ag
    >>> ag.bincount(ag.tensor([0, 2, 2]), minlength=4)
    tensor([1, 0, 2, 0])
    """
    array = input._array
    if array.dtype.kind not in "iu" or array.ndim != 1 or (array.size and array.min() < 0):
        raise DtypeError(
            f"bincount: expected a vector of integers >= 0, came {input.dtype} of shape "
            f"{tuple(input.shape)}"
        )
    if minlength < 0:
        raise ShapeError(f"bincount: expected minlength >= 0, came {minlength}")
    if weights is None:
        return input._new(np.bincount(array, minlength=minlength).astype(np.int64, copy=False))
    if weights._array.shape != array.shape:
        raise ShapeError(
            f"bincount: expected weights of shape {array.shape}, came {weights._array.shape}"
        )
    to = np.float32 if weights._array.dtype == np.float32 else np.float64
    return input._new(np.bincount(array, weights._array, minlength).astype(to, copy=False))


class ScanMethods(TensorBase):
    """Running and counting methods of Tensor."""

    cumsum, cumprod, logcumsumexp = cumsum, cumprod, logcumsumexp
    cummax, cummin, diff, histc, bincount = cummax, cummin, diff, histc, bincount
    cumsum_, cumprod_ = in_place(cumsum), in_place(cumprod)
