"""Reading and writing where a mask holds, and replacing a part of a tensor by another."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..backend.arrays import on_device
from ..errors import DtypeError, ShapeError
from ..ops.elementwise import Where
from ..ops.index import Assign, Take
from .graph import TensorBase, apply
from .indexing import getitem
from .inplace import assign, changed, check_in_place
from .moving import diagonal
from .promote import cast, mismatch
from .reductions import axis_of
from .shaping import broadcast_tensors, clone, flatten
from .splitting import select

__all__ = [
    "diagonal_scatter",
    "masked_fill",
    "masked_scatter",
    "masked_select",
    "select_scatter",
    "slice_scatter",
]


def _need_mask(mask: Any, name: str) -> None:
    if not isinstance(mask, TensorBase):
        raise TypeError(f"{name}: expected a bool mask, came {type(mask).__name__}")
    if mask._array.dtype.kind != "b":
        raise DtypeError(f"{name}: expected a bool mask, came {mask.dtype}")


def masked_fill(input: Any, mask: Any, value: Any) -> Any:
    """A copy of input with `value` wherever `mask` (bool, broadcast) holds.

    Args:
        value: a number, or a tensor without dimensions.

    Raises:
        RuntimeError: a mask that is not bool or does not broadcast, a value with dimensions, or
            one that input's dtype cannot hold.
    """
    _need_mask(mask, "masked_fill")
    if isinstance(value, TensorBase):
        if value._array.ndim:
            raise ShapeError(f"masked_fill: expected one value, came shape {tuple(value.shape)}")
        value = cast(value, input._array.dtype)
    else:
        try:
            value = input._array.dtype.type(value)
        except (OverflowError, ValueError) as err:
            raise DtypeError(f"masked_fill: {value} does not fit into {input.dtype}") from err
    try:
        return apply(Where(), mask, value, input)
    except ValueError as err:
        raise mismatch("masked_fill", err, mask, input) from err


def masked_select(input: Any, mask: Any) -> Any:
    """The elements where `mask` (bool, broadcast) holds, as a vector."""
    _need_mask(mask, "masked_select")
    if input.shape != mask.shape:
        input, mask = broadcast_tensors(input, mask)
    return getitem(input, mask)


def masked_scatter(input: Any, mask: Any, source: Any) -> Any:
    """A copy of input whose elements where `mask` holds are the first ones of `source`.

    Raises:
        RuntimeError: a mask that is not bool or does not broadcast, another dtype, or fewer
            elements than the mask asks for (on a GPU, where nobody counts, the last one serves
            for all that are missing).
    """
    _need_mask(mask, "masked_scatter")
    input, mask = broadcast_tensors(input, mask)
    return _masked_scatter(input, mask, source, "masked_scatter", False)


def _masked_scatter(input: Any, mask: Any, source: Any, name: str, in_place: bool) -> Any:
    if source._array.dtype != input._array.dtype:
        raise DtypeError(f"{name}: expected a source of {input.dtype}, came {source.dtype}")
    if on_device(mask._array):
        return _scattered_there(input, mask, source, name, in_place)
    count = int(np.count_nonzero(mask._array))
    if source._array.size < count:
        raise ShapeError(
            f"{name}: the mask asks for {count} elements, source {tuple(source.shape)} has "
            f"{source._array.size}"
        )
    values = getitem(flatten(source), slice(0, count))
    return changed(Assign((mask._array,)), name, input, (values,), in_place)


def _scattered_there(input: Any, mask: Any, source: Any, name: str, in_place: bool) -> Any:
    """`_masked_scatter` on a GPU, without asking it how many elements the mask holds."""
    if not source._array.size:
        return input if in_place else clone(input)
    places = np.cumsum(mask._array).reshape(mask._array.shape) - 1
    places = np.clip(places, 0, source._array.size - 1)
    out = apply(Where(), mask, apply(Take((places,)), flatten(source)), input)
    if not in_place:
        return out
    check_in_place(input, name)
    return assign(input, out, name)


def _replaced(input: Any, part_of: Any, src: Any, name: str) -> Any:
    out = clone(input)
    part = part_of(out)
    if part._array.shape != src._array.shape:
        raise ShapeError(
            f"{name}: expected a src of shape {tuple(part.shape)} as the part of "
            f"{tuple(input.shape)} that it replaces, came {tuple(src.shape)}"
        )
    part.copy_(src)
    return out


def select_scatter(input: Any, src: Any, dim: int, index: int) -> Any:
    """A copy of input with ``select(dim, index)`` replaced by `src`."""
    return _replaced(input, lambda t: select(t, dim, index), src, "select_scatter")


def slice_scatter(
    input: Any,
    src: Any,
    dim: int = 0,
    start: int | None = None,
    end: int | None = None,
    step: int = 1,
) -> Any:
    """A copy of input with ``[start:end:step]`` of `dim` replaced by `src`."""
    key = (slice(None),) * axis_of(dim, input.ndim, "slice_scatter") + (slice(start, end, step),)
    return _replaced(input, lambda t: getitem(t, key), src, "slice_scatter")


def diagonal_scatter(input: Any, src: Any, offset: int = 0, dim1: int = 0, dim2: int = 1) -> Any:
    """A copy of input with the diagonal of two dimensions replaced by `src`."""
    return _replaced(input, lambda t: diagonal(t, offset, dim1, dim2), src, "diagonal_scatter")


class MaskingMethods(TensorBase):
    """Methods of Tensor that read and write where a mask holds."""

    masked_fill, masked_select, masked_scatter = masked_fill, masked_select, masked_scatter
    select_scatter, slice_scatter = select_scatter, slice_scatter
    diagonal_scatter = diagonal_scatter

    def masked_fill_(self, mask: Any, value: Any) -> Any:
        """`masked_fill` in place; returns self."""
        check_in_place(self, "masked_fill_")
        return assign(self, masked_fill(self, mask, value), "masked_fill_")

    def masked_scatter_(self, mask: Any, source: Any) -> Any:
        """`masked_scatter` in place; returns self."""
        _need_mask(mask, "masked_scatter_")
        return _masked_scatter(
            self, mask.expand(tuple(self.shape)), source, "masked_scatter_", True
        )

    def fill_diagonal_(self, fill_value: Any, wrap: bool = False) -> Any:
        """Set the main diagonal to a number; returns self.

        Args:
            wrap: begin again below, in a matrix that has more rows than columns.

        Raises:
            RuntimeError: fewer than two dimensions, or more than two of different sizes.
        """
        shape = self._array.shape
        if len(shape) < 2 or (len(shape) > 2 and len(set(shape)) > 1):
            raise ShapeError(
                f"fill_diagonal_: expected a matrix, or more dimensions of equal size, came {shape}"
            )
        hit = np.zeros_like(self._array, bool, order="C")
        np.fill_diagonal(hit, True, wrap=wrap and len(shape) == 2)
        check_in_place(self, "fill_diagonal_")
        return self.masked_fill_(self._new(hit), fill_value)
