"""Batch norm on GPUs: training and its gradient through cuDNN, inference by a kernel of our own.

cuDNN has no kernel for 16-bit tensors whose channels are not a multiple of 8: those are served in
float32. Whatever the number of spatial dimensions, a dense channels-last tensor is (N, C, H, W) to
cuDNN.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import cupy
import numpy as np

from ...errors import Unsupported
from ..protocol import Array, Dims
from .base import F32, element_type, fast, require_elements
from .cudnn import address
from .cudnn_base import CudnnBase, empty_channels_last
from .cudnn_graphs import BatchNormBackward, BatchNormForward
from .kernels import blocks, launch

_LANES = 8
_THREADS = 256


class _Saved(NamedTuple):
    """What the backward pass needs besides statistics: 1/std and the shift, (C,) of float32."""

    rstd: Array
    shift: Array


class CudaNorm(CudnnBase):
    """Kernels `batch_norm_*` of the backend protocol."""

    @fast
    def batch_norm_forward(
        self,
        x: Array,
        weight: Array | None,
        bias: Array | None,
        eps: float,
        activation: str | None = None,
    ) -> tuple[Array, Array, Array, Any]:
        io = element_type(x)
        _require_lanes(x, io)
        plans, channels = self.plans, x.shape[1]
        key = ("batch_norm_forward", io, x.shape, eps, activation)
        plan = plans.get(key)
        source = self.channels_last(x)
        scale, shift = self.vector(weight, channels, 1), self.vector(bias, channels, 0)
        y = empty_channels_last(x.shape, x.dtype)
        mean, rstd, var = (cupy.empty(channels, F32) for _ in range(3))
        addresses = [address(a) for a in (source, scale, shift, y, mean, rstd)]
        if plan is None:
            problem = BatchNormForward(io, _flat(x.shape), eps, activation == "relu")
            plan = plans.add(key, problem, addresses)
        plan(*addresses)
        launch(
            "batch_norm_variance",
            None,
            blocks(channels, _THREADS),
            (_THREADS,),
            (rstd, var, np.float32(eps), np.int64(channels)),
        )
        return y, mean, var, _Saved(rstd, shift)

    @fast
    def batch_norm_backward(
        self,
        grad_y: Array,
        x: Array,
        weight: Array | None,
        mean: Array,
        var: Array,
        eps: float,
        saved: Any,
        activation: str | None = None,
    ) -> tuple[Array, Array, Array]:
        io = element_type(grad_y, x)
        if not isinstance(saved, _Saved):
            raise Unsupported("another kernel served the forward pass")
        _require_lanes(x, io)
        plans, channels = self.plans, x.shape[1]
        key = ("batch_norm_backward", io, x.shape, activation)
        plan = plans.get(key)
        grad, source = self.channels_last(grad_y), self.channels_last(x)
        given = [grad, source, self.vector(weight, channels, 1), mean, saved.rstd]
        if activation is not None:
            given.append(saved.shift)
        grad_x = empty_channels_last(x.shape, x.dtype)
        grad_scale, grad_shift = cupy.empty(channels, F32), cupy.empty(channels, F32)
        addresses = [address(a) for a in (*given, grad_x, grad_scale, grad_shift)]
        if plan is None:
            problem = BatchNormBackward(io, _flat(x.shape), activation == "relu")
            plan = plans.add(key, problem, addresses)
        plan(*addresses)
        return grad_x, grad_scale, grad_shift

    @fast
    def batch_norm_inference(
        self,
        x: Array,
        weight: Array | None,
        bias: Array | None,
        mean: Array,
        var: Array,
        eps: float,
        activation: str | None = None,
    ) -> Array:
        element_type(x)
        require_elements(x)
        channels = x.shape[1]
        source = self.channels_last(x)
        y = empty_channels_last(x.shape, x.dtype)
        scale, shift = self.vector(weight, channels, 1), self.vector(bias, channels, 0)
        centre, spread = self.vector(mean, channels, 0), self.vector(var, channels, 1)
        wide = 16 // x.itemsize
        vectors = x.size // (wide if channels % wide == 0 else 1)
        launch(
            "batch_norm_inference",
            x.dtype,
            blocks(vectors, _THREADS),
            (_THREADS,),
            (
                source,
                scale,
                shift,
                centre,
                spread,
                y,
                np.float32(eps),
                np.int64(x.size),
                np.int32(channels),
                np.int32(activation == "relu"),
            ),
        )
        return y

    @fast
    def batch_norm_running(
        self,
        running_mean: Array,
        running_var: Array,
        mean: Array,
        var: Array,
        momentum: float,
        count: int,
    ) -> None:
        arrays = (running_mean, running_var, mean, var)
        if element_type(*arrays) != "f4" or not all(a.flags.c_contiguous for a in arrays):
            raise Unsupported("running statistics that are not dense float32")
        numbers = (np.float32(momentum), np.float32(count / (count - 1)), np.int64(mean.size))
        grid = blocks(mean.size, _THREADS)
        launch("batch_norm_running", None, grid, (_THREADS,), (*arrays, *numbers))


def _require_lanes(x: Array, io: str) -> None:
    """Raise Unsupported for what cuDNN's batch norm refuses."""
    require_elements(x)
    if io != "f4" and x.shape[1] % _LANES:
        raise Unsupported(f"16-bit batch norm of {x.shape[1]} channels, not a multiple of 8")


def _flat(shape: Dims) -> Dims:
    """(N, C, H, W) of a channels-last tensor with any number of spatial dimensions.

    >>> _flat((2, 8, 3, 4, 5)), _flat((2, 8)), _flat((2, 8, 7))
    ((2, 8, 12, 5), (2, 8, 1, 1), (2, 8, 1, 7))
    """
    n, channels, *sizes = shape
    if not sizes:
        return (n, channels, 1, 1)
    return (n, channels, math.prod(sizes[:-1]), sizes[-1])
