"""Reductions, sorting and softmax of tensors, as functions and methods."""

from __future__ import annotations

import functools
from collections import namedtuple
from collections.abc import Callable
from typing import Any

import numpy as np

from .. import dtypes
from ..backend.arrays import as_array
from ..errors import BoundsError, DtypeError, OptionError, ShapeError
from ..ops import reduce
from ..ops.elementwise import Flat
from ..ops.softmax import LogSoftmax, Softmax
from .arithmetic import div, sub, where
from .autocasting import widens
from .graph import TensorBase, apply
from .promote import cast, check_broadcast, need_tensors, not_a_tensor, refuse_complex

ValuesAndIndices = namedtuple("ValuesAndIndices", ["values", "indices"])
MinAndMax = namedtuple("MinAndMax", ["min", "max"])

__all__ = [
    "all",
    "amax",
    "amin",
    "aminmax",
    "any",
    "argmax",
    "argmin",
    "count_nonzero",
    "dist",
    "log_softmax",
    "logsumexp",
    "max",
    "mean",
    "min",
    "nanmean",
    "nansum",
    "norm",
    "prod",
    "softmax",
    "std",
    "std_mean",
    "sum",
    "var",
    "var_mean",
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


def numpy_names(function: Callable[..., Any]) -> Callable[..., Any]:
    """Let `function` take NumPy's ``axis`` and ``keepdims`` for ``dim`` and ``keepdim`` too."""

    @functools.wraps(function)
    def renamed(*args: Any, **kwargs: Any) -> Any:
        if not isinstance(args[0] if args else kwargs.get("input"), TensorBase):
            raise not_a_tensor(function.__name__, args[0] if args else kwargs.get("input"))
        if kwargs:
            for theirs, ours in (("axis", "dim"), ("keepdims", "keepdim")):
                if theirs in kwargs and ours not in kwargs:
                    kwargs[ours] = kwargs.pop(theirs)
        return function(*args, **kwargs)

    return renamed


@numpy_names
def sum(input: Any, dim: Any = None, keepdim: bool = False, *, dtype: Any = None) -> Any:
    """Sum over `dim` (None: all). Integers and bools are summed as int64."""
    if dtype is None and input._array.dtype.kind in "iub":
        dtype = dtypes.int64
    input = _in_dtype(input, dtype)
    return apply(reduce.Sum(axes_of(dim, input.ndim, "sum"), keepdim), input)


@numpy_names
def mean(input: Any, dim: Any = None, keepdim: bool = False, *, dtype: Any = None) -> Any:
    """Mean over `dim` (None: all)."""
    input = _in_dtype(input, dtype)
    _need_floating(input, "mean")
    return apply(reduce.Mean(axes_of(dim, input.ndim, "mean"), keepdim), input)


@numpy_names
@widens
def prod(input: Any, dim: int | None = None, keepdim: bool = False, *, dtype: Any = None) -> Any:
    """Product over `dim` (None: all)."""
    if dtype is None and input._array.dtype.kind in "iub":
        dtype = dtypes.int64
    input = _in_dtype(input, dtype)
    axis = None if dim is None or input.ndim == 0 else axis_of(dim, input.ndim, "prod")
    return apply(reduce.Prod(axis, keepdim), input)


@numpy_names
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


@numpy_names
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


@numpy_names
def var_mean(
    input: Any,
    dim: Any = None,
    unbiased: bool | None = None,
    keepdim: bool = False,
    *,
    correction: float | None = None,
) -> tuple[Any, Any]:
    """(`var`, `mean`) over `dim`."""
    if isinstance(dim, bool):
        dim, unbiased = None, dim
    spread = var(input, dim, unbiased, keepdim, correction=correction)
    return spread, mean(input, dim, keepdim)


@numpy_names
def std_mean(
    input: Any,
    dim: Any = None,
    unbiased: bool | None = None,
    keepdim: bool = False,
    *,
    correction: float | None = None,
) -> tuple[Any, Any]:
    """(`std`, `mean`) over `dim`."""
    if isinstance(dim, bool):
        dim, unbiased = None, dim
    spread = std(input, dim, unbiased, keepdim, correction=correction)
    return spread, mean(input, dim, keepdim)


@numpy_names
def nansum(input: Any, dim: Any = None, keepdim: bool = False, *, dtype: Any = None) -> Any:
    """Sum over `dim` (None: all) of what is not nan.

    >>> import allgrad as ag
    >>> ag.nansum(ag.tensor([1.0, float("nan"), 2.0]))
    tensor(3.)
    """
    refuse_complex("nansum", input)
    if input._array.dtype.kind in dtypes.FLOATING:
        input = where(input._new(np.isnan(input._array)), 0.0, _in_dtype(input, dtype))
    return sum(input, dim, keepdim, dtype=dtype)


@numpy_names
def nanmean(input: Any, dim: Any = None, keepdim: bool = False, *, dtype: Any = None) -> Any:
    """Mean over `dim` (None: all) of what is not nan; nan where all are."""
    if input._array.dtype.kind not in dtypes.FLOATING:
        raise DtypeError(f"nanmean: expected a floating point tensor, came {input.dtype}")
    axes = axes_of(dim, input.ndim, "nanmean")
    count = (~np.isnan(input._array)).sum(axis=axes, keepdims=keepdim)
    return div(nansum(input, dim, keepdim, dtype=dtype), input._new(as_array(count)))


def count_nonzero(input: Any, dim: Any = None) -> Any:
    """How many elements (along `dim`) are not zero, int64."""
    axes = axes_of(dim, input.ndim, "count_nonzero")
    return input._new(as_array(np.count_nonzero(input._array, axis=axes), np.int64))


def _not_empty(input: Any, name: str, axes: tuple[int, ...] | None) -> None:
    """Raise if an extreme over `axes` (None: all) would be one of no elements."""
    shape = input._array.shape
    if 0 in (shape if axes is None else [shape[i] for i in axes]):
        raise BoundsError(f"{name}: expected at least one element, came shape {tuple(shape)}")


def _extreme(function: Any, arg: Any, name: str) -> Callable[..., Any]:
    def extreme(
        input: Any, dim: int | None = None, keepdim: bool = False, *, other: Any = None
    ) -> Any:
        if other is not None or not isinstance(dim, int | None):  # max(a, b): elementwise
            return getattr(input, f"{name}imum")(dim if other is None else other)
        refuse_complex(name, input)
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
    return numpy_names(extreme)


max = _extreme(np.max, np.argmax, "max")
min = _extreme(np.min, np.argmin, "min")


@numpy_names
def amax(input: Any, dim: Any = None, keepdim: bool = False) -> Any:
    """Maximum over `dim`; the gradient is shared among equal ones."""
    refuse_complex("amax", input)
    axes = axes_of(dim, input.ndim, "amax")
    _not_empty(input, "amax", axes)
    return apply(reduce.Extreme(np.max, axes, keepdim), input)


@numpy_names
def amin(input: Any, dim: Any = None, keepdim: bool = False) -> Any:
    """Minimum over `dim`; the gradient is shared among equal ones."""
    refuse_complex("amin", input)
    axes = axes_of(dim, input.ndim, "amin")
    _not_empty(input, "amin", axes)
    return apply(reduce.Extreme(np.min, axes, keepdim), input)


def aminmax(input: Any, *, dim: int | None = None, keepdim: bool = False) -> Any:
    """(min, max) of all elements, or along `dim`; the gradient is shared among equal ones."""
    return MinAndMax(amin(input, dim, keepdim), amax(input, dim, keepdim))


@numpy_names
def argmax(input: Any, dim: int | None = None, keepdim: bool = False) -> Any:
    """Index of the (first) maximum, of all elements or along `dim`."""
    axis = None if dim is None or not input.ndim else axis_of(dim, input.ndim, "argmax")
    refuse_complex("argmax", input)
    _not_empty(input, "argmax", None if axis is None else (axis,))
    return input._new(np.argmax(input._canonical(), axis=axis, keepdims=keepdim))


@numpy_names
def argmin(input: Any, dim: int | None = None, keepdim: bool = False) -> Any:
    """Index of the (first) minimum, of all elements or along `dim`."""
    axis = None if dim is None or not input.ndim else axis_of(dim, input.ndim, "argmin")
    refuse_complex("argmin", input)
    _not_empty(input, "argmin", None if axis is None else (axis,))
    return input._new(np.argmin(input._canonical(), axis=axis, keepdims=keepdim))


@numpy_names
def logsumexp(input: Any, dim: Any, keepdim: bool = False) -> Any:
    """log(sum(exp(input))) over `dim`."""
    if input._array.dtype.kind in "iub":
        input = cast(input, dtypes.get_default_dtype().numpy)
    return apply(reduce.LogSumExp(axes_of(dim, input.ndim, "logsumexp"), keepdim), input)


@numpy_names
def norm(
    input: Any, p: Any = "fro", dim: Any = None, keepdim: bool = False, dtype: Any = None
) -> Any:
    """Vector norm over `dim` (None: all), (sum |x|**p)**(1/p).

    Args:
        input: a floating or complex tensor.
        p: any number, inf and -inf included; 0 counts what is not zero; "fro" is 2.
        dim: one dimension or several, over which together the norm is taken.
        keepdim: keep reduced dimensions with size 1.
        dtype: cast to it first.

    Raises:
        RuntimeError: integers.
        ValueError: `p` is another word ("nuc" is `linalg.matrix_norm`).

    >>> import allgrad as ag
    >>> ag.norm(ag.tensor([3.0, -4.0])), ag.norm(ag.tensor([3.0, -4.0]), 1)
    (tensor(5.), tensor(7.))
    """
    input = _in_dtype(input, dtype)
    _need_floating(input, "norm")
    if isinstance(p, str) and p != "fro":
        raise OptionError.unknown("order p of norm", p, ("fro", "a number"))
    p = 2 if p is None or p == "fro" else p
    if p == float("inf"):
        return amax(input.abs(), dim, keepdim)
    if p == -float("inf"):
        return amin(input.abs(), dim, keepdim)
    if p == 0:
        return sum(apply(Flat(_is_something), input), dim, keepdim)
    return apply(reduce.Norm(p, axes_of(dim, input.ndim, "norm"), keepdim), input)


def _is_something(x: np.ndarray) -> np.ndarray:
    """1.0 where x is not 0, else 0.0."""
    return (x != 0).astype(x.real.dtype)


def dist(input: Any, other: Any, p: Any = 2) -> Any:
    """`norm` of input - other, broadcast."""
    need_tensors("dist", input, other)
    check_broadcast("dist", input, other)
    return norm(sub(input, other), p)


def _truth(function: Any, name: str) -> Callable[..., Any]:
    def truth(input: Any, dim: Any = None, keepdim: bool = False) -> Any:
        axes = axes_of(dim, input.ndim, name)
        y = as_array(function(input._array, axis=axes, keepdims=keepdim))
        # PyTorch keeps uint8, which was its bool once.
        return input._new(y.astype(np.uint8) if input._array.dtype == np.uint8 else y)

    truth.__name__ = truth.__qualname__ = name
    truth.__doc__ = f"Bool: whether {name} of the elements (along `dim`) are true."
    return numpy_names(truth)


all = _truth(np.all, "all")
any = _truth(np.any, "any")


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
    nansum, nanmean, aminmax, logsumexp = nansum, nanmean, aminmax, logsumexp
    count_nonzero, dist = count_nonzero, dist
    all, any, softmax, log_softmax = all, any, softmax, log_softmax
