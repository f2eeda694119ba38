"""Checks that several families of functions share."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import numpy as np

from ...errors import ArgumentError, OptionError, ShapeError, UnsupportedDtypeError
from ...tensors import Tensor, promote

REDUCTIONS = ("mean", "sum", "none")


def need_floating(name: str, *tensors: Tensor) -> None:
    """Refuse integers and booleans.

    Raises:
        NotImplementedError: a tensor of such a dtype (as PyTorch; it is a RuntimeError, too).
    """
    for t in tensors:
        if t._array.dtype.kind in "iub":
            raise UnsupportedDtypeError(
                f"{name}: not implemented for {t.dtype}; expected a floating point tensor, came "
                f"one of shape {tuple(t.shape)}. Convert it first, e.g. with .float()"
            )


def reduction_of(
    name: str,
    reduction: str,
    size_average: bool | None = None,
    reduce: bool | None = None,
    known: Sequence[str] = REDUCTIONS,
) -> str:
    """The reduction that the arguments name; the two old ones win, with a warning.

    Raises:
        ValueError: an unknown reduction.
    """
    if size_average is not None or reduce is not None:
        averaged = size_average is None or size_average
        reduction = "none" if reduce is False else "mean" if averaged else "sum"
        warnings.warn(
            f"{name}: size_average and reduce are deprecated; write reduction={reduction!r}",
            UserWarning,
            stacklevel=3,
        )
    if reduction not in known:
        raise OptionError(
            f"{name}: {reduction!r} is not a valid value for reduction; known: {', '.join(known)}"
        )
    return reduction


def reduced(loss: Tensor, reduction: str) -> Tensor:
    """The loss of all elements as its mean, its sum, or as it is."""
    found: Tensor = loss
    if reduction == "mean":
        found = loss.mean()
    elif reduction == "sum":
        found = loss.sum()
    return found


def need_tensor(name: str, **tensors: object) -> None:
    """Raise TypeError unless all are tensors."""
    for what, value in tensors.items():
        if not isinstance(value, Tensor):
            raise TypeError(f"{name}: expected a tensor as {what}, came {type(value).__name__}")


def need_same_shape(
    name: str, input: Tensor, target: Tensor, error: type[ShapeError] = ArgumentError
) -> None:
    """Raise unless `target` is a tensor of the shape of `input`."""
    need_tensor(name, target=target)
    if input._array.shape != target._array.shape:
        raise error(
            f"{name}: expected a target of the input's shape {input._array.shape}, came "
            f"{target._array.shape}"
        )


def need_fit(name: str, *tensors: Tensor) -> None:
    """Raise ShapeError, naming all shapes, unless they broadcast."""
    try:
        np.broadcast_shapes(*(t._array.shape for t in tensors))
    except ValueError as err:
        raise promote.mismatch(name, err, *tensors) from err


def warn_of_broadcast(name: str, input: Tensor, target: Tensor) -> None:
    """Warn, as PyTorch does, of a target that has to be broadcast: rarely what was meant."""
    if input._array.shape != target._array.shape:
        warnings.warn(
            f"{name}: the target size {tuple(target.shape)} differs from the input size "
            f"{tuple(input.shape)}; they are broadcast, which is rarely what was meant",
            UserWarning,
            stacklevel=4,
        )
