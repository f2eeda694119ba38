"""Convolution and its gradients on GPUs through cuDNN, for 1 to 3 spatial dimensions.

Activations are channels-last, copied if they are not. Weights are parameters in plain OIHW order:
they are turned to (O, *K, I) at every call by one kernel over a few megabytes, and their gradient
is turned back into its place. For 1x1 and depthwise kernels both orders are the same memory.

A 16-bit image of fewer than 8 channels is padded to 8, which lets tensor cores read it by 16 bytes
(`backends.cudnn.pad_channels`).
"""

from __future__ import annotations

from typing import Any

from ...backends import cudnn as settings
from ...errors import Unsupported
from ..protocol import Array, Dims, output_size
from .base import element_type, fast, require_elements
from .cudnn import address
from .cudnn_base import CudnnBase, aligned, empty_channels_last
from .cudnn_graphs import ConvForward, ConvInput, ConvWeight, spatial

_LANES = 8  # 16-bit numbers in 16 bytes


class CudaConv(CudnnBase):
    """Kernels `conv_*` of the backend protocol."""

    @fast
    def conv_forward(
        self,
        x: Array,
        weight: Array,
        bias: Array | None,
        stride: Dims,
        padding: Dims,
        dilation: Dims,
        groups: int,
        activation: str | None = None,
    ) -> Array:
        io = element_type(x, weight, bias)
        channels = _padded(x.shape[1], io, groups)
        fused = bias is not None or activation is not None
        key = (
            "conv_forward", io, x.shape, weight.shape, fused, stride, padding, dilation, channels,
            activation,
        )  # fmt: skip
        plans = self.plans
        plan = plans.get(key)
        y_shape = _result(x.shape, weight.shape, stride, padding, dilation)
        source, filters = self.channels_last(x, channels), self._filters(weight, channels)
        y = empty_channels_last(y_shape, x.dtype)
        addresses = [address(source), address(filters)]
        if fused:  # ReLU without a bias has no precompiled kernel; with one it has many
            offset = self.constant(0, len(weight), io, x.dtype) if bias is None else aligned(bias)
            addresses.append(address(offset))
        addresses.append(address(y))
        if plan is None:
            shapes = _shapes(io, x.shape, weight.shape, y_shape, channels)
            problem = ConvForward(
                *shapes, *_window(stride, padding, dilation), fused, activation == "relu"
            )
            plan = plans.add(key, problem, addresses)
        plan(*addresses)
        return y

    @fast
    def conv_backward_input(
        self,
        grad_y: Array,
        weight: Array,
        x_shape: Dims,
        stride: Dims,
        padding: Dims,
        dilation: Dims,
        groups: int,
    ) -> Array:
        io = element_type(grad_y, weight)
        require_elements(grad_y, weight)
        x_shape = tuple(x_shape)
        key = (
            "conv_backward_input", io, grad_y.shape, weight.shape, x_shape, stride, padding,
            dilation,
        )  # fmt: skip
        plans = self.plans
        plan = plans.get(key)
        _require_window(stride)
        source, filters = self.channels_last(grad_y), self._filters(weight, 0)
        grad_x = empty_channels_last(x_shape, grad_y.dtype)
        addresses = [address(source), address(filters), address(grad_x)]
        if plan is None:
            shapes = _shapes(io, x_shape, weight.shape, grad_y.shape, 0)
            problem = ConvInput(*shapes, *_window(stride, padding, dilation))
            plan = plans.add(key, problem, addresses)
        plan(*addresses)
        return grad_x

    @fast
    def conv_backward_weight(
        self,
        grad_y: Array,
        x: Array,
        weight_shape: Dims,
        stride: Dims,
        padding: Dims,
        dilation: Dims,
        groups: int,
        with_bias: bool,
        out: Array | None = None,
    ) -> tuple[Array, Array | None]:
        io = element_type(grad_y, x)
        require_elements(grad_y, x)
        weight_shape = tuple(weight_shape)
        channels = _padded(x.shape[1], io, groups)
        key = (
            "conv_backward_weight", io, grad_y.shape, x.shape, weight_shape, stride, padding,
            dilation, channels,
        )  # fmt: skip
        plans = self.plans
        plan = plans.get(key)
        _require_window(stride)
        source, image = self.channels_last(grad_y), self.channels_last(x, channels)
        grad = self._gradient_of_filters(weight_shape, channels, x.dtype, out)
        addresses = [address(source), address(image), address(grad)]
        if plan is None:
            shapes = _shapes(io, x.shape, weight_shape, grad_y.shape, channels)
            problem = ConvWeight(*shapes, *_window(stride, padding, dilation))
            plan = plans.add(key, problem, addresses)
        plan(*addresses)
        result = grad[:, : weight_shape[1]]
        if out is None:
            out = result if result.flags.c_contiguous else result.copy(order="C")
        elif grad is not out:
            out[...] = result
        return out, self.sum_to_channels(grad_y) if with_bias else None

    def _filters(self, weight: Array, channels: int) -> Array:
        """The weights in memory order (O, *K, C), zeros added where the image is padded."""
        return self.channels_last(weight, channels)

    def _gradient_of_filters(
        self, shape: Dims, channels: int, dtype: Any, out: Array | None
    ) -> Array:
        """Memory in order (O, *K, C) for cuDNN to write to: `out` itself where orders agree."""
        if channels > shape[1]:
            shape = (shape[0], channels, *shape[2:])
        elif out is not None and out.dtype == dtype and self.is_ready(out):
            return out
        return empty_channels_last(shape, dtype)


def _padded(channels: int, io: str, groups: int) -> int:
    """How many channels cuDNN sees of an image; 0 for as many as there are."""
    pays = io != "f4" and groups == 1 and channels < _LANES
    return _LANES if pays and settings.pad_channels else 0


def _require_window(stride: Dims) -> None:
    if not 1 <= len(stride) <= 3:
        raise Unsupported(f"{len(stride)} spatial dimensions")


def _result(x: Dims, weight: Dims, stride: Dims, padding: Dims, dilation: Dims) -> Dims:
    """The shape of the convolution's result.

    Raises:
        Unsupported: it has no elements, or not 1 to 3 spatial dimensions.
    """
    _require_window(stride)
    rows = zip(x[2:], weight[2:], stride, padding, dilation, strict=True)
    y = (x[0], weight[0], *(output_size(*row) for row in rows))
    if min(y) < 1 or min(weight) < 1 or min(x) < 1:
        raise Unsupported("empty array")
    return y


def _window(stride: Dims, padding: Dims, dilation: Dims) -> tuple[Dims, Dims, Dims]:
    return spatial(stride, 1), spatial(padding, 0), spatial(dilation, 1)


def _shapes(io: str, x: Dims, weight: Dims, y: Dims, channels: int) -> tuple[str, Dims, Dims, Dims]:
    """(io, x, weight, y) of a problem, with at least two spatial dimensions."""
    if channels:
        x, weight = (x[0], channels, *x[2:]), (weight[0], channels, *weight[2:])
    x, weight, y = ((*shape[:2], *spatial(shape[2:], 1)) for shape in (x, weight, y))
    return io, x, weight, y
