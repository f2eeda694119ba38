"""Histograms, integrals of samples, limits on norms, and places in sorted samples."""

from __future__ import annotations

from collections import namedtuple
from typing import Any

import numpy as np

from ..backend.arrays import as_array
from ..errors import ArgumentError, DtypeError, ShapeError
from .arithmetic import mul, where
from .graph import TensorBase
from .inplace import assign, check_in_place
from .promote import not_a_tensor
from .reductions import axis_of, norm
from .scans import cumsum

__all__ = [
    "bucketize",
    "cumulative_trapezoid",
    "histogram",
    "renorm",
    "searchsorted",
    "trapezoid",
    "trapz",
]

Histogram = namedtuple("Histogram", ["hist", "bin_edges"])


# -- integrals -------------------------------------------------------------------------------------
def _areas(name: str, y: Any, x: Any, dx: Any, dim: int) -> Any:
    """Areas of the trapezoids between neighbours along the last dimension, to which `dim` goes."""
    axis = axis_of(dim, y.ndim, name)
    y = y.movedim(axis, -1)
    heights = y[..., 1:] + y[..., :-1]
    if x is None:
        return heights * (dx / 2)
    if x.ndim > 1:
        x = x.movedim(axis_of(dim, x.ndim, name), -1)
    if x.shape[-1] != y.shape[-1]:
        raise ShapeError(
            f"{name}: expected as many places as values along dimension {dim}, came "
            f"{x.shape[-1]} and {y.shape[-1]}"
        )
    return heights * (x[..., 1:] - x[..., :-1]) / 2


def trapezoid(y: Any, x: Any = None, *, dx: Any = 1, dim: int = -1) -> Any:
    """Integral of samples by the trapezoidal rule.

    Args:
        y: the values.
        x: the places, one dimension or as y; None means equal distances `dx`.
        dx: the distance.
        dim: the dimension of y along which to integrate.

    Raises:
        RuntimeError: as many places as values are needed.

    >>> import allgrad as ag
    >>> ag.trapezoid(ag.tensor([1.0, 2.0, 4.0]))
    tensor(4.5000)
    """
    return _areas("trapezoid", y, x, dx, dim).sum(-1)


trapz = trapezoid


def cumulative_trapezoid(y: Any, x: Any = None, *, dx: Any = 1, dim: int = -1) -> Any:
    """`trapezoid` up to each sample but the first."""
    areas = cumsum(_areas("cumulative_trapezoid", y, x, dx, dim), -1)
    return areas.movedim(-1, axis_of(dim, y.ndim, "cumulative_trapezoid"))


def renorm(input: Any, p: float, dim: int, maxnorm: float) -> Any:
    """input with every slice along `dim` scaled down to the norm `maxnorm` if it exceeds it.

    Args:
        input: at least two dimensions, floating or complex.
        p: order of the norm, positive.
        dim: the dimension whose slices are looked at.
        maxnorm: the largest norm allowed.

    Raises:
        RuntimeError: fewer dimensions, or `p` or `maxnorm` not positive.
    """
    if input.ndim < 2:
        raise ShapeError(f"renorm: expected two dimensions or more, came {tuple(input.shape)}")
    if p <= 0 or maxnorm < 0:
        raise ShapeError(f"renorm: expected p > 0 and maxnorm >= 0, came {p} and {maxnorm}")
    axis = axis_of(dim, input.ndim, "renorm")
    size = norm(input, p, [i for i in range(input.ndim) if i != axis], keepdim=True)
    return mul(input, where(size > maxnorm, maxnorm / (size + 1e-7), 1.0))


# -- histograms and places -------------------------------------------------------------------------
def histogram(
    input: Any, bins: Any, *, range: Any = None, weight: Any = None, density: bool = False
) -> Any:
    """(hist, bin_edges): how many elements, or which weight of them, lie in each interval.

    Args:
        input: float32 or float64.
        bins: how many equal intervals, or a tensor of their edges in order.
        range: (low, high) of equal intervals; the range of the elements if left out.
        weight: what each element counts, of input's shape.
        density: divide by the total and by the widths, so that the integral is 1.

    Raises:
        RuntimeError: wrong dtypes or shapes, or a range out of order.

    >>> import allgrad as ag
    >>> ag.histogram(ag.tensor([1.0, 2.0, 1.0]), bins=2, range=(0.0, 3.0)).hist
    tensor([2., 1.])
    """
    array = input._array
    to = array.dtype
    if to not in (np.float32, np.float64):
        raise DtypeError(f"histogram: expected float32 or float64, came {input.dtype}")
    if weight is not None and weight._array.shape != array.shape:
        raise ShapeError(
            f"histogram: expected a weight of shape {array.shape}, came {weight._array.shape}"
        )
    edges: Any = bins
    if isinstance(bins, TensorBase):
        if bins._array.dtype != to or bins._array.ndim != 1:
            raise DtypeError(
                f"histogram: expected a vector of edges of {input.dtype}, came {bins.dtype} of "
                f"shape {tuple(bins.shape)}"
            )
        edges, range = bins._array, None
    elif bins <= 0:
        raise ShapeError(f"histogram: expected at least one bin, came {bins}")
    if range is not None and not range[0] <= range[1]:
        raise ShapeError(f"histogram: expected a range in order, came {tuple(range)}")
    counts = None if weight is None else weight._array.reshape(-1)
    found, edges = np.histogram(array.reshape(-1), edges, range, density, counts)
    return Histogram(input._new(found.astype(to)), input._new(edges.astype(to, copy=False)))


def searchsorted(
    sorted_sequence: Any,
    input: Any,
    *,
    out_int32: bool = False,
    right: bool = False,
    side: str | None = None,
    sorter: Any = None,
) -> Any:
    """Where each element would have to be inserted so that the sequence stays sorted.

    Args:
        sorted_sequence: (n,), or (..., n) with one sequence for each row of input.
        input: a number, or a tensor; with several sequences (..., m).
        out_int32: give int32 instead of int64.
        right: among equal elements behind the last, instead of before the first.
        side: "left" or "right", the same in words.
        sorter: indices that sort the sequence, if it is not.

    Raises:
        RuntimeError: shapes that do not fit, or `side` contradicts `right`.

    >>> import allgrad as ag
    >>> ag.searchsorted(ag.tensor([1, 3, 5]), ag.tensor([3, 6]))
    tensor([1, 3])
    """
    if not isinstance(sorted_sequence, TensorBase):
        raise not_a_tensor("searchsorted", sorted_sequence)
    if side not in (None, "left", "right") or (right and side == "left"):
        raise ArgumentError(f"searchsorted: side {side!r} does not fit right={right}")
    sequence = sorted_sequence._array
    if sorter is not None:
        sequence = np.take_along_axis(sequence, sorter._array, axis=-1)
    values = input._array if isinstance(input, TensorBase) else as_array(input)
    if sequence.ndim > 1 and sequence.shape[:-1] != values.shape[:-1]:
        raise ShapeError(
            f"searchsorted: expected sequences and values of the same leading dimensions, came "
            f"{sequence.shape} and {values.shape}"
        )
    where_to = "right" if right or side == "right" else "left"
    if sequence.ndim <= 1:
        found = np.searchsorted(sequence, values, where_to)  # type: ignore[call-overload]
    else:
        lines, parts = (
            sequence.reshape(-1, sequence.shape[-1]),
            values.reshape(-1, values.shape[-1]),
        )
        found = np.empty(parts.shape, np.int64)
        for i, (line, part) in enumerate(zip(lines, parts, strict=True)):
            found[i] = np.searchsorted(line, part, where_to)  # type: ignore[call-overload]
        found = found.reshape(values.shape)
    return sorted_sequence._new(as_array(found, np.int32 if out_int32 else np.int64))


def bucketize(input: Any, boundaries: Any, *, out_int32: bool = False, right: bool = False) -> Any:
    """The interval between `boundaries` (sorted, one dimension) in which each element lies.

    Args:
        input: a number or a tensor.
        boundaries: (n,) sorted.
        out_int32: give int32 instead of int64.
        right: an element that equals a boundary belongs to the interval above it.

    Raises:
        RuntimeError: boundaries of several dimensions.
    """
    if boundaries.ndim != 1:
        raise ShapeError(f"bucketize: expected (n,) boundaries, came {tuple(boundaries.shape)}")
    return searchsorted(boundaries, input, out_int32=out_int32, right=right)


class StatisticsMethods:
    """Statistical methods of Tensor."""

    histogram, renorm = histogram, renorm

    def renorm_(self: Any, p: float, dim: int, maxnorm: float) -> Any:
        """`renorm` in place; returns self."""
        check_in_place(self, "renorm_")
        return assign(self, renorm(self.clone(), p, dim, maxnorm), "renorm_")
