"""Convolutions and transposed convolutions over 1 to 3 spatial dimensions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ...autograd.mode import mode
from ...backend.protocol import output_size
from ...errors import DtypeError, OptionError, ShapeError
from ...ops.conv import Conv, ConvTranspose
from ...tensors import Tensor
from ...tensors.autocasting import lowered
from ...tensors.graph import apply, defer
from ...tensors.padding import pad

Sizes = int | Sequence[int]


def per_dimension(value: Any, dims: int, name: str) -> tuple[int, ...]:
    """One integer for each of `dims` spatial dimensions.

    Raises:
        ShapeError: another number of integers.
    """
    if isinstance(value, int):
        return (value,) * dims
    sizes = tuple(int(v) for v in value)
    if len(sizes) == 1:
        return sizes * dims
    if len(sizes) != dims:
        raise ShapeError(f"{name}: expected one number or {dims}, came {value!r}")
    return sizes


def _check(name: str, x: Tensor, weight: Tensor, bias: Tensor | None, in_axis: int) -> None:
    """x (N, C, *S) against weight; `in_axis` is the weight's axis of input channels."""
    for other in (weight, bias):
        if other is not None and other._array.dtype != x._array.dtype:
            raise DtypeError(
                f"{name}: input is {x.dtype}, weight or bias {other.dtype}; expected one dtype"
            )
    if x.ndim != weight.ndim:
        raise ShapeError(
            f"{name}: expected input (N, C, {weight.ndim - 2} spatial dimensions) for weight "
            f"{tuple(weight.shape)}, came {tuple(x.shape)}"
        )
    outputs = weight.shape[0] if in_axis == 1 else None
    if bias is not None and outputs is not None and tuple(bias.shape) != (outputs,):
        raise ShapeError(
            f"{name}: expected bias of shape ({outputs},) for weight {tuple(weight.shape)}, "
            f"came {tuple(bias.shape)}"
        )


def _same_padding(
    x: Tensor, weight: Tensor, stride: tuple[int, ...], dilation: tuple[int, ...]
) -> tuple[Tensor, tuple[int, ...]]:
    """(input padded where the margins are uneven, even padding left for the kernel)."""
    if any(s != 1 for s in stride):
        raise ShapeError(f"conv: padding='same' needs stride 1, came {stride}")
    totals = [d * (k - 1) for d, k in zip(dilation, weight.shape[2:], strict=True)]
    margins: list[int] = []
    for total in reversed(totals):
        margins += [0, total % 2]
    if any(margins):
        x = pad(x, margins)
    return x, tuple(t // 2 for t in totals)


def _conv(
    dims: int,
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: Sizes,
    padding: Sizes | str,
    dilation: Sizes,
    groups: int,
) -> Tensor:
    if mode.autocast is not None:
        return lowered(_conv, dims, input, weight, bias, stride, padding, dilation, groups)
    name = f"conv{dims}d"
    if input.ndim == dims + 1:  # a single sample
        one = _conv(dims, input.unsqueeze(0), weight, bias, stride, padding, dilation, groups)
        return one.squeeze(0)
    _check(name, input, weight, bias, 1)
    strides, dilations = (per_dimension(v, dims, name) for v in (stride, dilation))
    if isinstance(padding, str):
        if padding not in ("valid", "same"):
            raise OptionError.unknown("padding", padding, ("valid", "same"))
        paddings = (0,) * dims
        if padding == "same":
            input, paddings = _same_padding(input, weight, strides, dilations)
    else:
        paddings = per_dimension(padding, dims, name)
    x, w = input._array.shape, weight._array.shape
    if x[1] != w[1] * groups or w[0] % groups:
        raise ShapeError(
            f"{name}: input {x} has {x[1]} channels, weight {w} with groups={groups} expects "
            f"{w[1] * groups}, and its {w[0]} outputs must divide by groups"
        )
    for i in range(dims):
        if output_size(x[2 + i], w[2 + i], strides[i], paddings[i], dilations[i]) < 1:
            raise ShapeError(
                f"{name}: kernel {w[2:]} (dilation {dilations}) is larger than input {x[2:]} with "
                f"padding {paddings}"
            )
    return defer(Conv(strides, paddings, dilations, groups), input, weight, bias)


def conv1d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Sizes = 1,
    padding: Sizes | str = 0,
    dilation: Sizes = 1,
    groups: int = 1,
) -> Tensor:
    """Cross-correlation: (N, C, L), weight (O, C/groups, k), bias (O) -> (N, O, L').

    Raises:
        ShapeError: shapes that do not fit, named with both shapes.
        DtypeError: different dtypes.
    """
    return _conv(1, input, weight, bias, stride, padding, dilation, groups)


def conv2d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Sizes = 1,
    padding: Sizes | str = 0,
    dilation: Sizes = 1,
    groups: int = 1,
) -> Tensor:
    """Cross-correlation: (N, C, H, W), weight (O, C/groups, kh, kw), bias (O) -> (N, O, H', W').

    Args:
        padding: zeros on both sides of each dimension, or "valid" (none), or "same".

    Raises:
        ShapeError: shapes that do not fit, named with both shapes.
        DtypeError: different dtypes.
    """
    return _conv(2, input, weight, bias, stride, padding, dilation, groups)


def conv3d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Sizes = 1,
    padding: Sizes | str = 0,
    dilation: Sizes = 1,
    groups: int = 1,
) -> Tensor:
    """Cross-correlation: (N, C, D, H, W), weight (O, C/groups, kd, kh, kw), bias (O).

    Raises:
        ShapeError: shapes that do not fit, named with both shapes.
        DtypeError: different dtypes.
    """
    return _conv(3, input, weight, bias, stride, padding, dilation, groups)


def _conv_transpose(
    dims: int,
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: Sizes,
    padding: Sizes,
    output_padding: Sizes,
    groups: int,
    dilation: Sizes,
) -> Tensor:
    if mode.autocast is not None:
        return lowered(
            _conv_transpose, dims, input, weight, bias, stride, padding, output_padding, groups,
            dilation,
        )  # fmt: skip
    name = f"conv_transpose{dims}d"
    if input.ndim == dims + 1:
        one = _conv_transpose(
            dims, input.unsqueeze(0), weight, bias, stride, padding, output_padding, groups,
            dilation,
        )  # fmt: skip
        return one.squeeze(0)
    _check(name, input, weight, bias, 0)
    strides, paddings, extras, dilations = (
        per_dimension(v, dims, name) for v in (stride, padding, output_padding, dilation)
    )
    x, w = input._array.shape, weight._array.shape
    if x[1] != w[0] or x[1] % groups:
        raise ShapeError(
            f"{name}: input {x} has {x[1]} channels, weight {w} expects {w[0]}, divisible by "
            f"groups={groups}"
        )
    if any(e >= max(s, d) for e, s, d in zip(extras, strides, dilations, strict=True)):
        raise ShapeError(
            f"{name}: output_padding {extras} must be smaller than stride {strides} or dilation "
            f"{dilations}"
        )
    out = tuple(
        (n - 1) * s - 2 * p + d * (k - 1) + e + 1
        for n, s, p, d, k, e in zip(x[2:], strides, paddings, dilations, w[2:], extras, strict=True)
    )
    if any(n < 1 for n in out):
        raise ShapeError(f"{name}: the output of input {x} would have sizes {out}")
    op = ConvTranspose(strides, paddings, dilations, groups, out)
    return apply(op, input, weight, bias)


def conv_transpose1d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Sizes = 1,
    padding: Sizes = 0,
    output_padding: Sizes = 0,
    groups: int = 1,
    dilation: Sizes = 1,
) -> Tensor:
    """Transposed convolution: (N, C, L), weight (C, O/groups, k), bias (O) -> (N, O, L')."""
    return _conv_transpose(
        1, input, weight, bias, stride, padding, output_padding, groups, dilation
    )


def conv_transpose2d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Sizes = 1,
    padding: Sizes = 0,
    output_padding: Sizes = 0,
    groups: int = 1,
    dilation: Sizes = 1,
) -> Tensor:
    """Transposed convolution: (N, C, H, W), weight (C, O/groups, kh, kw) -> (N, O, H', W').

    H' = (H - 1) * stride - 2 * padding + dilation * (kh - 1) + output_padding + 1.
    Source: PyTorch manual, ConvTranspose2d.
    """
    return _conv_transpose(
        2, input, weight, bias, stride, padding, output_padding, groups, dilation
    )


def conv_transpose3d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Sizes = 1,
    padding: Sizes = 0,
    output_padding: Sizes = 0,
    groups: int = 1,
    dilation: Sizes = 1,
) -> Tensor:
    """Transposed convolution: (N, C, D, H, W), weight (C, O/groups, kd, kh, kw)."""
    return _conv_transpose(
        3, input, weight, bias, stride, padding, output_padding, groups, dilation
    )
