"""Convolution layers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ...errors import ArgumentError, OptionError
from ...tensors import Tensor
from ...tensors.padding import pad
from .. import functional as F  # noqa: N812 - PyTorch's spelling
from ..functional.conv import per_dimension
from .linear import init_weight_and_bias, new_parameter
from .module import Module

Sizes = int | Sequence[int]
_PADDING_MODES = ("zeros", "reflect", "replicate", "circular")


class _ConvBase(Module):
    """What all convolution layers share; `dims` is set by the subclass."""

    dims = 0
    transposed = False

    def _set_up(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Sizes,
        stride: Sizes,
        padding: Any,
        dilation: Sizes,
        groups: int,
        bias: bool,
        padding_mode: str,
        dtype: Any,
    ) -> None:
        name = type(self).__name__
        if padding_mode not in _PADDING_MODES:
            raise OptionError.unknown(f"padding_mode of {name}", padding_mode, _PADDING_MODES)
        if groups < 1 or in_channels % groups or out_channels % groups:
            raise ArgumentError(
                f"{name}: in_channels {in_channels} and out_channels {out_channels} must divide by "
                f"groups {groups}"
            )
        self.in_channels, self.out_channels = in_channels, out_channels
        self.kernel_size = per_dimension(kernel_size, self.dims, name)
        self.stride = per_dimension(stride, self.dims, name)
        self.dilation = per_dimension(dilation, self.dims, name)
        if isinstance(padding, str):
            if padding not in ("valid", "same"):
                raise OptionError.unknown(f"padding of {name}", padding, ("valid", "same"))
            self.padding: Any = padding
        else:
            self.padding = per_dimension(padding, self.dims, name)
        self.groups, self.padding_mode = groups, padding_mode
        shape = (
            (in_channels, out_channels // groups)
            if self.transposed
            else (out_channels, in_channels // groups)
        )
        self.weight = new_parameter(*shape, *self.kernel_size, dtype=dtype)
        self.register_parameter("bias", new_parameter(out_channels, dtype=dtype) if bias else None)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw weight and bias again."""
        init_weight_and_bias(self.weight, self.bias)

    def _pad(self, input: Tensor) -> Tensor:
        """Margins of a mode other than zeros."""
        margins: list[int] = []
        for i in reversed(range(self.dims)):
            if self.padding == "same":
                total = self.dilation[i] * (self.kernel_size[i] - 1)
                margins += [total // 2, total - total // 2]
            else:
                each = 0 if self.padding == "valid" else self.padding[i]
                margins += [each, each]
        return pad(input, margins, self.padding_mode)

    def extra_repr(self) -> str:
        parts = [
            f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}",
            f"stride={self.stride}",
        ]
        for name, usual in (
            ("padding", (0,) * self.dims),
            ("dilation", (1,) * self.dims),
            ("output_padding", (0,) * self.dims),
            ("groups", 1),
            ("padding_mode", "zeros"),
        ):
            if getattr(self, name, usual) != usual:
                parts.append(f"{name}={getattr(self, name)}")
        if self.bias is None:
            parts.append("bias=False")
        return ", ".join(parts)


class _Conv(_ConvBase):
    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Sizes,
        stride: Sizes = 1,
        padding: Sizes | str = 0,
        dilation: Sizes = 1,
        groups: int = 1,
        bias: bool = True,
        padding_mode: str = "zeros",
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        self._set_up(
            in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias,
            padding_mode, dtype,
        )  # fmt: skip
        self._place(device)

    _function: Any = None

    def forward(self, input: Tensor) -> Tensor:
        padding = self.padding
        if self.padding_mode != "zeros":
            input, padding = self._pad(input), 0
        return type(self)._function(
            input, self.weight, self.bias, self.stride, padding, self.dilation, self.groups
        )


class Conv1d(_Conv):
    """Convolution of (N, C, L); see `functional.conv1d`."""

    dims = 1
    _function = staticmethod(F.conv1d)


class Conv2d(_Conv):
    """Convolution of (N, C, H, W); see `functional.conv2d`.

    Args:
        in_channels, out_channels: sizes of dimension 1 of input and output.
        kernel_size, stride, padding, dilation: one number, or one for each dimension; padding
            also "valid" or "same".
        groups: inputs and outputs in separate groups.
        padding_mode: "zeros", "reflect", "replicate" or "circular".
    """

    dims = 2
    _function = staticmethod(F.conv2d)


class Conv3d(_Conv):
    """Convolution of (N, C, D, H, W); see `functional.conv3d`."""

    dims = 3
    _function = staticmethod(F.conv3d)


class _ConvTranspose(_ConvBase):
    transposed = True
    _function: Any = None

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Sizes,
        stride: Sizes = 1,
        padding: Sizes = 0,
        output_padding: Sizes = 0,
        groups: int = 1,
        bias: bool = True,
        dilation: Sizes = 1,
        padding_mode: str = "zeros",
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        if padding_mode != "zeros":
            raise OptionError.unknown(
                f"padding_mode of {type(self).__name__}", padding_mode, ("zeros",)
            )
        self.output_padding = per_dimension(output_padding, self.dims, type(self).__name__)
        self._set_up(
            in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias,
            padding_mode, dtype,
        )  # fmt: skip
        self._place(device)

    def forward(self, input: Tensor, output_size: Sequence[int] | None = None) -> Tensor:
        """Apply the layer.

        Args:
            input: (N, in_channels, *S).
            output_size: spatial sizes wanted; the output padding is worked out from them.
        """
        extra = self.output_padding
        if output_size is not None:
            extra = self._extra_for(input, tuple(output_size)[-self.dims :])
        return type(self)._function(
            input, self.weight, self.bias, self.stride, self.padding, extra, self.groups,
            self.dilation,
        )  # fmt: skip

    def _extra_for(self, input: Tensor, wanted: tuple[int, ...]) -> tuple[int, ...]:
        sizes = input.shape[-self.dims :]
        extra = tuple(
            w - ((n - 1) * s - 2 * p + d * (k - 1) + 1)
            for w, n, s, p, d, k in zip(
                wanted, sizes, self.stride, self.padding, self.dilation, self.kernel_size,
                strict=True,
            )
        )  # fmt: skip
        if any(not 0 <= e < s for e, s in zip(extra, self.stride, strict=True)):
            raise ArgumentError(
                f"{type(self).__name__}: output_size {wanted} cannot come from input "
                f"{tuple(input.shape)} with stride {self.stride}"
            )
        return extra


class ConvTranspose1d(_ConvTranspose):
    """Transposed convolution of (N, C, L); see `functional.conv_transpose1d`."""

    dims = 1
    _function = staticmethod(F.conv_transpose1d)


class ConvTranspose2d(_ConvTranspose):
    """Transposed convolution of (N, C, H, W); see `functional.conv_transpose2d`."""

    dims = 2
    _function = staticmethod(F.conv_transpose2d)


class ConvTranspose3d(_ConvTranspose):
    """Transposed convolution of (N, C, D, H, W); see `functional.conv_transpose3d`."""

    dims = 3
    _function = staticmethod(F.conv_transpose3d)
