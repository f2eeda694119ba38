"""The CTC loss."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ...backend.arrays import on, to_host
from ...errors import DtypeError, ShapeError
from ...ops.ctc import CTC
from ...tensors import Tensor
from ...tensors.autocasting import widens
from ...tensors.graph import apply
from .checks import need_floating, reduced, reduction_of

Lengths = Tensor | Sequence[int]


@widens
def ctc_loss(
    log_probs: Tensor,
    targets: Tensor,
    input_lengths: Lengths,
    target_lengths: Lengths,
    blank: int = 0,
    reduction: str = "mean",
    zero_infinity: bool = False,
) -> Tensor:
    """Negative log-likelihood of label sequences over all their alignments (Graves et al. 2006).

    Args:
        log_probs: outputs of a log-softmax, (T, N, C), or (T, C) for one sample.
        targets: labels, (N, S) padded at will, or those of all samples one after the other; none
            may be `blank`.
        input_lengths, target_lengths: steps and labels of each sample, (N,), or () for one.
        blank: the class that stands for no label.
        reduction: "mean" divides each loss by its number of labels first.
        zero_infinity: losses without any alignment, and their gradients, count as 0.

    Raises:
        ShapeError: sizes or lengths do not fit.
        DtypeError: targets or lengths are not integers.
        ValueError: an unknown reduction.

    >>> import allgrad as ag
    >>> log_probs = ag.zeros(2, 1, 2) - 0.6931472  # two steps, either class with probability 1/2
    >>> loss = ctc_loss(log_probs, ag.tensor([[1]]), [2], [1])
    >>> round(loss.exp().item(), 4)  # three of the four paths spell the label
    1.3333
    """
    name = "ctc_loss"
    reduction = reduction_of(name, reduction)
    need_floating(name, log_probs)
    if log_probs.ndim not in (2, 3):
        raise ShapeError(f"{name}: expected log_probs (T, N, C) or (T, C), came "
                         f"{tuple(log_probs.shape)}")  # fmt: skip
    single = log_probs.ndim == 2
    x = log_probs.unsqueeze(1) if single else log_probs
    steps, samples, classes = x._array.shape
    if not 0 <= blank < classes:
        raise ShapeError(f"{name}: blank {blank} is no class of log_probs {tuple(x.shape)}")
    inputs = _lengths("input_lengths", input_lengths, samples, steps)
    labels = _lengths("target_lengths", target_lengths, samples, None)
    padded = _padded(name, targets, labels, single)
    loss = apply(CTC(padded, inputs, labels, blank, zero_infinity), x)
    if reduction == "mean":
        divisor = on(np.maximum(labels, 1).astype(x._array.dtype), x._array)
        return (loss / Tensor(divisor)).mean()
    return reduced(loss.reshape(()) if single else loss, reduction)


def _lengths(what: str, given: Any, samples: int, limit: int | None) -> np.ndarray:
    array = to_host(given._array) if isinstance(given, Tensor) else np.asarray(given)
    if array.dtype.kind not in "iu":
        raise DtypeError(f"ctc_loss: expected integers as {what}, came {array.dtype}")
    if array.size != samples:
        raise ShapeError(f"ctc_loss: expected {samples} {what}, one for each sample, came "
                         f"{array.size}")  # fmt: skip
    array = array.reshape(samples).astype(np.int64)
    if samples and (array.min() < 0 or (limit is not None and array.max() > limit)):
        raise ShapeError(
            f"ctc_loss: expected {what} within 0..{limit if limit is not None else 'S'}, came "
            f"{array.tolist()}"
        )
    return array


def _padded(name: str, targets: Tensor, labels: np.ndarray, single: bool) -> np.ndarray:
    """Labels as (N, S), whichever way they were given."""
    array = to_host(targets._array)
    if array.dtype.kind not in "iu":
        raise DtypeError(f"{name}: expected integer targets, came {targets.dtype}")
    longest = int(labels.max()) if labels.size else 0
    if single and array.ndim == 1:
        array = array[None]
    if array.ndim == 2:
        if array.shape[0] != len(labels) or array.shape[1] < longest:
            raise ShapeError(
                f"{name}: expected targets ({len(labels)}, {longest} or more) for target_lengths "
                f"{labels.tolist()}, came {array.shape}"
            )
        return array[:, :longest].astype(np.int64)
    if array.ndim != 1 or array.size < labels.sum():
        raise ShapeError(
            f"{name}: expected targets (N, S), or {int(labels.sum())} labels one after the other, "
            f"came {array.shape}"
        )
    padded = np.zeros((len(labels), longest), np.int64)
    ends = np.cumsum(labels)
    for row, (end, count) in enumerate(zip(ends, labels, strict=True)):
        padded[row, :count] = array[end - count : end]
    return padded
