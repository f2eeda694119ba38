"""Normalisation functions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ... import backend
from ...errors import ArgumentError, ShapeError
from ...ops.norm import BatchNorm, BatchNormInference, GroupNorm, LayerNorm
from ...tensors import Tensor, arithmetic, reductions
from ...tensors.graph import apply, collect, defer, postpone
from ...tensors.padding import pad


def _check_channels(name: str, input: Tensor, **vectors: Tensor | None) -> None:
    shape = input._array.shape
    if len(shape) < 2:
        raise ShapeError(f"{name}: expected at least 2 dimensions (N, C, ...), came {shape}")
    for what, vector in vectors.items():
        if vector is not None and vector._array.shape != (shape[1],):
            raise ShapeError(
                f"{name}: input {shape} has {shape[1]} channels, {what} has shape "
                f"{vector._array.shape}"
            )


def batch_norm(
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """Normalise each channel of (N, C, ...) (Ioffe & Szegedy 2015).

    Training uses the statistics of the batch and moves the running ones towards them by
    `momentum` (unbiased variance); otherwise the running statistics are used.

    Raises:
        ShapeError: shapes that do not fit, or a single value per channel in training.
    """
    _check_channels(
        "batch_norm", input, running_mean=running_mean, running_var=running_var, weight=weight,
        bias=bias,
    )  # fmt: skip
    if not training:
        if running_mean is None or running_var is None:
            raise ShapeError("batch_norm: running statistics are needed outside training")
        op: Any = BatchNormInference(running_mean._array.copy(), running_var._array.copy(), eps)
        return defer(op, input, weight, bias)
    shape = input._array.shape
    if input._array.size == shape[1]:
        raise ArgumentError(
            f"batch_norm: expected more than one value per channel in training, came {shape}"
        )
    if running_mean is None or running_var is None:
        return defer(BatchNorm(eps, None), input, weight, bias)

    y = defer(BatchNorm(eps, _Mover(running_mean, running_var, momentum)), input, weight, bias)
    postpone(y, running_mean, running_var)
    return y


class _Mover:
    """Moves running statistics towards those of a batch when the op has computed them."""

    def __init__(self, running_mean: Tensor, running_var: Tensor, momentum: float) -> None:
        self.mean, self.var, self.momentum = running_mean, running_var, momentum

    def __call__(self, mean: np.ndarray, var: np.ndarray, count: int) -> None:
        held = collect(self.mean), collect(self.var)
        backend.of(mean).batch_norm_running(*held, mean, var, self.momentum, count)
        self.mean._bump_version()
        self.var._bump_version()


def layer_norm(
    input: Tensor,
    normalized_shape: Sequence[int],
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> Tensor:
    """Normalise over the last dimensions, whose sizes are `normalized_shape` (Ba et al. 2016).

    Raises:
        ShapeError: the input does not end in `normalized_shape`, or weight or bias differ.
    """
    shape = tuple(normalized_shape)
    found = input._array.shape
    if not shape or found[-len(shape) :] != shape:
        raise ShapeError(f"layer_norm: expected an input that ends in {shape}, came {found}")
    for vector in (weight, bias):
        if vector is not None and vector._array.shape != shape:
            raise ShapeError(
                f"layer_norm: expected weight and bias of shape {shape}, came {vector._array.shape}"
            )
    return apply(LayerNorm(len(shape), eps), input, weight, bias)


def group_norm(
    input: Tensor,
    num_groups: int,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> Tensor:
    """Normalise over groups of channels and all positions of (N, C, ...) (Wu & He 2018).

    Raises:
        ShapeError: channels do not divide into the groups, or shapes differ.
    """
    _check_channels("group_norm", input, weight=weight, bias=bias)
    channels = input._array.shape[1]
    if num_groups < 1 or channels % num_groups:
        raise ShapeError(f"group_norm: {channels} channels do not divide into {num_groups} groups")
    return apply(GroupNorm(num_groups, eps), input, weight, bias)


def instance_norm(
    input: Tensor,
    running_mean: Tensor | None = None,
    running_var: Tensor | None = None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    use_input_stats: bool = True,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """Normalise each channel of each sample of (N, C, *S) over its positions.

    Raises:
        ShapeError: shapes that do not fit, or a single position.
    """
    _check_channels("instance_norm", input, weight=weight, bias=bias)
    if not use_input_stats:
        return batch_norm(input, running_mean, running_var, weight, bias, False, momentum, eps)
    shape = input._array.shape
    positions = int(np.prod(shape[2:]))
    if positions == 1:
        raise ArgumentError(f"instance_norm: expected more than one position, came {shape}")
    if running_mean is not None and running_var is not None:
        axes = tuple(range(2, len(shape)))
        var = input._array.var(axis=axes).mean(axis=0) * (positions / (positions - 1))
        mean = input._array.mean(axis=(0, *axes))
        for running, now in ((running_mean, mean), (running_var, var)):
            running._array *= 1 - momentum
            running._array += (momentum * now).astype(running._array.dtype, copy=False)
            running._bump_version()
    return apply(GroupNorm(shape[1], eps), input, weight, bias)


def local_response_norm(
    input: Tensor, size: int, alpha: float = 1e-4, beta: float = 0.75, k: float = 1.0
) -> Tensor:
    """input / (k + alpha / size * sum of squares over `size` neighbouring channels)**beta.

    Args:
        input: (N, C, *S), at least 3 dimensions.

    Raises:
        ValueError: fewer dimensions.

    Source: Krizhevsky et al. 2012, section 3.3.
    """
    shape = input._array.shape
    if len(shape) < 3:
        raise ArgumentError(f"local_response_norm: expected at least 3 dimensions, came {shape}")
    if not input._array.size:
        return input
    margins = [0, 0] * (len(shape) - 2) + [size // 2, (size - 1) // 2]
    squares = pad(input * input, margins)
    total = squares.narrow(1, 0, shape[1])
    for i in range(1, size):
        total = total + squares.narrow(1, i, shape[1])
    return input / (total * (alpha / size) + k) ** beta


def normalize(
    input: Tensor, p: float = 2.0, dim: Any = 1, eps: float = 1e-12, out: Tensor | None = None
) -> Tensor:
    """input divided by its p-norm along `dim`, the norm being at least `eps`.

    Args:
        out: overwritten by the result and returned.
    """
    length = reductions.norm(input, p, dim, keepdim=True)
    found = input / arithmetic.clamp(length, min=eps)
    return found if out is None else out.copy_(found)
