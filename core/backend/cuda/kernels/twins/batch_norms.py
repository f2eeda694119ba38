"""Twins of `batch_norm.cu`."""

from __future__ import annotations

import numpy as np

from ....protocol import Array
from .arrays import named, wide


def batch_norm_inference(
    x: Array, scale: Array, shift: Array, mean: Array, var: Array, y: Array, eps: float, n: int,
    channels: int, relu: int,
) -> None:  # fmt: skip
    rows = wide(x[:n]).reshape(-1, channels)
    factor = scale[:channels] / np.sqrt(var[:channels] + np.float32(eps))
    result = (rows - mean[:channels]) * factor + shift[:channels]
    y[:n] = (np.maximum(result, 0) if relu else result).ravel()


def add_bias(y: Array, bias: Array, n: int, cols: int, relu: int) -> None:
    result = wide(y[:n]).reshape(-1, cols) + wide(bias[:cols])
    y[:n] = (np.maximum(result, 0) if relu else result).ravel()


def batch_norm_variance(rstd: Array, var: Array, eps: float, n: int) -> None:
    var[:n] = np.maximum(1 / (rstd[:n] * rstd[:n]) - np.float32(eps), 0)


def batch_norm_running(
    running_mean: Array, running_var: Array, mean: Array, var: Array, momentum: float,
    unbiased: float, n: int,
) -> None:  # fmt: skip
    for running, now in ((running_mean, mean[:n]), (running_var, var[:n] * unbiased)):
        running[:n] = running[:n] * (1 - np.float32(momentum)) + np.float32(momentum) * now


TWINS = named(batch_norm_inference, add_bias, batch_norm_variance, batch_norm_running)
