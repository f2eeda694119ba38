"""Dropout functions."""

from __future__ import annotations

import warnings

import numpy as np

from ...backend.arrays import index_of
from ...errors import OptionError, ShapeError
from ...ops.dropout import Dropout
from ...tensors import Tensor
from ...tensors.filling import draw
from ...tensors.graph import apply
from ...tensors.inplace import assign


def _check_probability(name: str, p: float) -> None:
    if not 0 <= p <= 1:
        raise OptionError(f"{name}: expected a probability within 0..1, came {p}")


def dropout(input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
    """Zero elements with probability p and scale the rest by 1 / (1 - p) in training.

    Raises:
        ValueError: p outside 0..1.
    """
    _check_probability("dropout", p)
    if not training or p == 0:
        return input
    y = apply(Dropout(p), input)
    return assign(input, y, "dropout_") if inplace else y


def _channel_dropout(dims: int, input: Tensor, p: float, training: bool, inplace: bool) -> Tensor:
    name = f"dropout{dims}d"
    _check_probability(name, p)
    ndim, shape = input.ndim, tuple(input.shape)
    if ndim < 2 or (dims == 1 and ndim > 3):
        raise ShapeError(
            f"{name}: expected {dims + 2} dimensions (or {dims + 1} for one sample), came {shape}"
        )
    single = ndim == dims + 1 and dims != 2
    if ndim != dims + 2 and not single:
        warnings.warn(
            f"{name}: expected (N, C) and {dims} more dimensions, came {shape}; taken as (N, C, "
            "...). For single features use dropout, for other images the function of their "
            "dimensions.",
            stacklevel=3,
        )
    if not training or p == 0:
        return input
    y = apply(Dropout(p, channels=True), input.unsqueeze(0) if single else input)
    y = y.squeeze(0) if single else y
    return assign(input, y, f"{name}_") if inplace else y


def dropout1d(
    input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False
) -> Tensor:
    """Zero whole channels of (N, C, L) with probability p in training."""
    return _channel_dropout(1, input, p, training, inplace)


def dropout2d(
    input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False
) -> Tensor:
    """Zero whole channels of (N, C, H, W) with probability p in training.

    As in PyTorch, (N, C) and (N, C, L) are taken, too, with a warning.
    """
    return _channel_dropout(2, input, p, training, inplace)


def dropout3d(
    input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False
) -> Tensor:
    """Zero whole channels of (N, C, D, H, W) with probability p in training."""
    return _channel_dropout(3, input, p, training, inplace)


def _alpha_dropout(
    name: str, input: Tensor, p: float, training: bool, inplace: bool, channels: bool
) -> Tensor:
    _check_probability(name, p)
    if not training or p == 0:
        return input
    low = -1.7580993408473766  # -scale * alpha of SELU
    shape = input._array.shape
    shape = shape[:2] + (1,) * (len(shape) - 2) if channels else shape
    draws = draw("uniform", shape, np.dtype(np.float32), None, index_of(input._array))
    keep = (draws >= p).astype(input._array.dtype)
    a = ((1 - p) * (1 + p * low * low)) ** -0.5 if p < 1 else 0.0
    b = -a * p * low
    shift = ((1 - keep) * (low * a) + b).astype(input._array.dtype)
    y = input * Tensor(keep * input._array.dtype.type(a)) + Tensor(shift)
    return assign(input, y, f"{name}_") if inplace else y


def alpha_dropout(
    input: Tensor, p: float = 0.5, training: bool = False, inplace: bool = False
) -> Tensor:
    """Dropout that keeps mean and variance of SELU networks (Klambauer et al. 2017)."""
    return _alpha_dropout("alpha_dropout", input, p, training, inplace, channels=False)


def feature_alpha_dropout(
    input: Tensor, p: float = 0.5, training: bool = False, inplace: bool = False
) -> Tensor:
    """`alpha_dropout` of whole channels of (N, C, *S).

    Raises:
        RuntimeError: fewer than 2 dimensions.
    """
    if training and input.ndim < 2:
        raise ShapeError(f"feature_alpha_dropout: expected at least 2 dimensions (N, C, ...), came "
                         f"{tuple(input.shape)}")  # fmt: skip
    return _alpha_dropout("feature_alpha_dropout", input, p, training, inplace, channels=True)
