"""Embeddings: rows looked up by index, alone and in bags."""

from __future__ import annotations

from typing import Any

import numpy as np

from ...autograd import no_grad
from ...backend import ufuncs
from ...backend.arrays import on_device, to_host
from ...errors import BoundsError, DtypeError, OptionError, ShapeError
from ...ops.embedding import BagReduce
from ...ops.embedding import Embedding as LookUp
from ...tensors import Tensor
from ...tensors.graph import apply


class PaddingError(OptionError, AssertionError, RuntimeError):
    """A padding index outside the table; PyTorch asserts it."""


class OptionalWeightsError(OptionError, NotImplementedError):
    """Weights of samples where PyTorch does not have them either."""


def embedding(
    input: Tensor,
    weight: Tensor,
    padding_idx: int | None = None,
    max_norm: float | None = None,
    norm_type: float = 2.0,
    scale_grad_by_freq: bool = False,
    sparse: bool = False,
) -> Tensor:
    """Rows of weight (V, D) at integer indices (...) -> (..., D).

    Args:
        padding_idx: the row that gets no gradient.
        max_norm: rows that are looked up and longer than this are shortened to it, in place.
        norm_type: p of the norm for `max_norm`.
        scale_grad_by_freq: divide the gradient of a row by how often it occurs in `input`.
        sparse: must be False.

    Raises:
        RuntimeError: indices are not integers, or the weight is not a matrix.
        IndexError: an index outside 0..V-1; not on a GPU, see `tensors.indexing.within`.
        AssertionError: `padding_idx` is outside of the table.
    """
    _check(input, weight, "embedding")
    _refuse_sparse("embedding", sparse)
    padding = _padding("embedding", padding_idx, weight)
    if max_norm is not None:
        _shorten(input._array, weight, max_norm, norm_type)
    return apply(LookUp(padding, scale_grad_by_freq), input, weight)


def embedding_bag(
    input: Tensor,
    weight: Tensor,
    offsets: Tensor | None = None,
    max_norm: float | None = None,
    norm_type: float = 2,
    scale_grad_by_freq: bool = False,
    mode: str = "mean",
    sparse: bool = False,
    per_sample_weights: Tensor | None = None,
    include_last_offset: bool = False,
    padding_idx: int | None = None,
) -> Tensor:
    """Sum, mean or maximum over bags of rows of weight (V, D); empty bags give 0.

    Args:
        input: indices (B, L), B bags of L, or (R) with `offsets`.
        offsets: (B), where each bag begins; the first at 0.
        per_sample_weights: factors of the rows, in the shape of `input`; for "sum" only.
        include_last_offset: the last offset is the end of the last bag.
        padding_idx: the index whose rows are left out.
        max_norm, norm_type, scale_grad_by_freq, sparse: as for `embedding`.

    Raises:
        ValueError: an unknown mode, or shapes that do not fit.
        RuntimeError: offsets outside of the input (not looked at on a GPU).
        NotImplementedError: weights with another mode than "sum".

    >>> import allgrad as ag
    >>> table = ag.tensor([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]])
    >>> embedding_bag(ag.tensor([0, 2, 1]), table, ag.tensor([0, 2]), mode="sum")
    tensor([[6., 8.],
            [3., 4.]])
    """
    if mode not in ("sum", "mean", "max"):
        raise OptionError.unknown("mode of embedding_bag", mode, ("sum", "mean", "max"))
    if mode == "max" and scale_grad_by_freq:
        raise OptionError("embedding_bag: scale_grad_by_freq does not go with mode 'max'")
    _refuse_sparse("embedding_bag", sparse)
    _check_weights(mode, input, per_sample_weights)
    _check_bags(input, offsets)
    _check(input, weight, "embedding_bag")
    padding = _padding("embedding_bag", padding_idx, weight)
    flat = input.reshape(-1)
    factors = None if per_sample_weights is None else per_sample_weights.reshape(-1)
    if on_device(input._array) and mode != "max":
        if max_norm is not None:
            _shorten(flat._array, weight, max_norm, norm_type)
        rows = apply(LookUp(padding, scale_grad_by_freq), flat, weight)
        bags = _bag_of_each(input, offsets, include_last_offset)
        return _reduced_there(rows, flat, factors, bags, padding, mode)
    counts = _bags(input, offsets, include_last_offset)
    if padding is not None:
        used = flat._array != padding
        at = np.repeat(np.arange(len(counts)), counts)
        kept = to_host(used)
        counts = np.bincount(at[kept], minlength=len(counts))
        flat = Tensor(flat._array[used])
        factors = None if factors is None else factors[Tensor(np.flatnonzero(used))]
    if max_norm is not None:
        _shorten(flat._array, weight, max_norm, norm_type)
    rows = apply(LookUp(None, scale_grad_by_freq), flat, weight)
    if factors is not None:
        rows = rows * factors.unsqueeze(-1)
    return apply(BagReduce(mode, tuple(counts)), rows)


def _check(input: Tensor, weight: Tensor, name: str) -> None:
    indices = input._array
    if indices.dtype.kind not in "iu":
        raise DtypeError(f"{name}: expected integer indices, came {input.dtype}")
    if weight.ndim != 2:
        raise ShapeError(f"{name}: expected a weight (V, D), came {tuple(weight.shape)}")
    rows = weight._array.shape[0]
    if on_device(indices):  # looking would wait for the device
        return
    if indices.size and (indices.min() < 0 or indices.max() >= rows):
        raise BoundsError(
            f"{name}: expected indices within 0..{rows - 1}, came {indices.min()}..{indices.max()}"
        )


def _refuse_sparse(name: str, sparse: bool) -> None:
    if sparse:
        raise OptionError(f"{name}: sparse gradients are not available; leave sparse=False")


def _padding(name: str, index: int | None, weight: Tensor) -> int | None:
    rows = weight._array.shape[0]
    if index is None:
        return None
    if not -rows <= index < rows:
        raise PaddingError(f"{name}: padding_idx {index} is outside {rows} rows")
    return index % rows


def _shorten(indices: np.ndarray, weight: Tensor, max_norm: float, norm_type: float) -> None:
    """Shorten the rows that are looked up to `max_norm`, in place, as `renorm_`."""
    rows = np.unique(indices)
    held = weight._array[rows]
    lengths = np.linalg.norm(held, ord=norm_type, axis=1)
    long = lengths > max_norm
    if long.any():
        factor = (max_norm / (lengths[long] + 1e-7)).astype(held.dtype)
        with no_grad():
            weight[Tensor(rows[long])] = Tensor(held[long] * factor[:, None])


def _check_weights(mode: str, input: Tensor, weights: Tensor | None) -> None:
    if weights is None:
        return
    if mode != "sum":
        raise OptionalWeightsError(
            f"embedding_bag: per_sample_weights are for mode 'sum' only, came mode {mode!r}"
        )
    if weights.shape != input.shape:
        raise OptionError(
            f"embedding_bag: expected per_sample_weights of shape {tuple(input.shape)}, as the "
            f"input, came {tuple(weights.shape)}"
        )


def _check_bags(input: Tensor, offsets: Tensor | None) -> None:
    shape = input._array.shape
    if len(shape) not in (1, 2):
        raise OptionError(f"embedding_bag: expected an input of 1 or 2 dimensions, came {shape}")
    if len(shape) == 2 and offsets is not None:
        raise OptionError(f"embedding_bag: input {shape} has bags already; leave offsets out")
    if len(shape) == 1 and (offsets is None or offsets.ndim != 1):
        raise OptionError("embedding_bag: expected offsets of one dimension for input of one")


def _bag_of_each(input: Tensor, offsets: Tensor | None, include_last: bool) -> tuple[Any, int]:
    """(number of the bag of every index, number of bags), where the input lies."""
    shape = input._array.shape
    place = np.arange(input._array.size, like=input._array)
    if offsets is None:
        return place // max(shape[1], 1), shape[0]
    starts = offsets._array[:-1] if include_last else offsets._array
    return np.searchsorted(starts, place, side="right") - 1, len(starts)


def _reduced_there(
    rows: Tensor,
    indices: Tensor,
    factors: Tensor | None,
    bags: tuple[Any, int],
    padding: int | None,
    mode: str,
) -> Tensor:
    """Sums or means of the rows of each bag on a GPU, which keeps its offsets to itself."""
    number, count = bags
    kept = np.ones_like(indices._array, bool) if padding is None else indices._array != padding
    if padding is not None:
        rows = rows * Tensor(kept.astype(rows._array.dtype)[:, None])
    if factors is not None:
        rows = rows * factors.unsqueeze(-1)
    zeros = Tensor(np.zeros((count, rows._array.shape[1]), rows._array.dtype, like=rows._array))
    out: Tensor = zeros.index_add(0, Tensor(number), rows)
    if mode == "sum":
        return out
    held = np.zeros(count, np.int64, like=number)
    ufuncs.at(np.add, held, number, kept.astype(np.int64))
    return out / Tensor(np.maximum(held, 1).astype(rows._array.dtype)[:, None])


def _bags(input: Tensor, offsets: Tensor | None, include_last: bool) -> np.ndarray:
    """How many rows each bag has."""
    shape = input._array.shape
    if offsets is None:
        return np.full(shape[0], shape[1])
    starts = to_host(offsets._array)
    if len(starts) and (starts[0] != 0 or starts[-1] > shape[0]):
        raise ShapeError(
            f"embedding_bag: expected offsets from 0 to at most {shape[0]}, came "
            f"{starts[0]}..{starts[-1]}"
        )
    return np.diff(starts) if include_last else np.diff(starts, append=shape[0])
