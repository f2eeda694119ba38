"""Layers beside maximum and mean pooling: unpooling, power means, random windows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ...errors import ArgumentError
from ...tensors import Tensor
from .. import functional as F  # noqa: N812 - PyTorch's spelling
from ..functional.conv import per_dimension
from .module import Module

Sizes = int | Sequence[int]


class _MaxUnpool(Module):
    dims = 0
    _function: Any = None

    def __init__(self, kernel_size: Sizes, stride: Sizes | None = None, padding: Sizes = 0) -> None:
        super().__init__()
        stride = kernel_size if stride is None else stride
        name = type(self).__name__
        self.kernel_size, self.stride, self.padding = (
            per_dimension(v, self.dims, name) for v in (kernel_size, stride, padding)
        )

    def forward(
        self, input: Tensor, indices: Tensor, output_size: Sequence[int] | None = None
    ) -> Tensor:
        return type(self)._function(
            input, indices, self.kernel_size, self.stride, self.padding, output_size
        )

    def extra_repr(self) -> str:
        return f"kernel_size={self.kernel_size}, stride={self.stride}, padding={self.padding}"


class MaxUnpool1d(_MaxUnpool):
    """Maxima back in their places of (N, C, L), 0 elsewhere."""

    dims = 1
    _function = staticmethod(F.max_unpool1d)


class MaxUnpool2d(_MaxUnpool):
    """Maxima back in their places of (N, C, H, W), 0 elsewhere."""

    dims = 2
    _function = staticmethod(F.max_unpool2d)


class MaxUnpool3d(_MaxUnpool):
    """Maxima back in their places of (N, C, D, H, W), 0 elsewhere."""

    dims = 3
    _function = staticmethod(F.max_unpool3d)


class _LPPool(Module):
    _function: Any = None

    def __init__(
        self,
        norm_type: float,
        kernel_size: Sizes,
        stride: Sizes | None = None,
        ceil_mode: bool = False,
    ) -> None:
        super().__init__()
        self.norm_type, self.kernel_size = norm_type, kernel_size
        self.stride, self.ceil_mode = stride, ceil_mode

    def forward(self, input: Tensor) -> Tensor:
        return type(self)._function(
            input, float(self.norm_type), self.kernel_size, self.stride, self.ceil_mode
        )

    def extra_repr(self) -> str:
        return (
            f"norm_type={self.norm_type}, kernel_size={self.kernel_size}, stride={self.stride}, "
            f"ceil_mode={self.ceil_mode}"
        )


class LPPool1d(_LPPool):
    """Power-mean pooling of (N, C, L)."""

    _function = staticmethod(F.lp_pool1d)


class LPPool2d(_LPPool):
    """Power-mean pooling of (N, C, H, W)."""

    _function = staticmethod(F.lp_pool2d)


class LPPool3d(_LPPool):
    """Power-mean pooling of (N, C, D, H, W)."""

    _function = staticmethod(F.lp_pool3d)


class _FractionalMaxPool(Module):
    dims = 0
    _function: Any = None

    def __init__(
        self,
        kernel_size: Sizes,
        output_size: Sizes | None = None,
        output_ratio: Any = None,
        return_indices: bool = False,
        _random_samples: Tensor | None = None,
    ) -> None:
        super().__init__()
        name = type(self).__name__
        if (output_size is None) == (output_ratio is None):
            raise ArgumentError(f"{name}: expected either output_size or output_ratio")
        self.kernel_size = per_dimension(kernel_size, self.dims, name)
        self.output_size = (
            None if output_size is None else per_dimension(output_size, self.dims, name)
        )
        self.output_ratio = output_ratio
        if output_ratio is not None:
            ratios = output_ratio if isinstance(output_ratio, Sequence) else [output_ratio]
            self.output_ratio = tuple(ratios) * (self.dims if len(ratios) == 1 else 1)
            if not all(0 < r < 1 for r in self.output_ratio):
                raise ArgumentError(
                    f"{name}: expected an output_ratio within 0..1, came {output_ratio}"
                )
        self.return_indices = return_indices
        self.register_buffer("_random_samples", _random_samples)

    def forward(self, input: Tensor) -> Any:
        return type(self)._function(
            input, self.kernel_size, self.output_size, self.output_ratio, self.return_indices,
            self._random_samples,
        )  # fmt: skip


class FractionalMaxPool2d(_FractionalMaxPool):
    """Maxima of windows at pseudo-random places of (N, C, H, W)."""

    dims = 2
    _function = staticmethod(F.fractional_max_pool2d)


class FractionalMaxPool3d(_FractionalMaxPool):
    """Maxima of windows at pseudo-random places of (N, C, D, H, W)."""

    dims = 3
    _function = staticmethod(F.fractional_max_pool3d)
