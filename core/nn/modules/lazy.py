"""Lazy layers: their input size is taken from the first batch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ...errors import ArgumentError, ShapeError
from ...tensors import Tensor
from .conv import Conv1d, Conv2d, Conv3d, ConvTranspose1d, ConvTranspose2d, ConvTranspose3d
from .linear import Linear
from .norm import (
    BatchNorm1d,
    BatchNorm2d,
    BatchNorm3d,
    InstanceNorm1d,
    InstanceNorm2d,
    InstanceNorm3d,
)
from .uninitialized import UninitializedBuffer, UninitializedParameter, is_lazy

Sizes = int | Sequence[int]


def _infer(module: Any, args: Any, kwargs: Any) -> None:
    """The hook before the first forward: learn the sizes, then be an ordinary layer."""
    module.initialize_parameters(*args, **kwargs)
    if module.has_uninitialized_params():
        raise ArgumentError(
            f"{type(module).__name__}: initialize_parameters left parameters without a shape"
        )
    module.__dict__.pop("_lazy_hook").remove()
    if module.cls_to_become is not None:
        object.__setattr__(module, "__class__", module.cls_to_become)


class LazyModuleMixin:
    """For modules that find out sizes from their first input.

    A subclass creates `UninitializedParameter`s and defines `initialize_parameters(*args)`, which
    materialises them. `cls_to_become` is the class that the module has afterwards.
    """

    cls_to_become: Any = None
    _parameters: dict[str, Any]
    _buffers: dict[str, Any]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        me: Any = self
        me._lazy_hook = me.register_forward_pre_hook(_infer, with_kwargs=True)

    def has_uninitialized_params(self) -> bool:
        """Whether some parameter or buffer has no shape yet."""
        return any(is_lazy(t) for t in (*self._parameters.values(), *self._buffers.values()))

    def initialize_parameters(self, *args: Any, **kwargs: Any) -> None:
        """Materialise the parameters, knowing the first input."""
        raise NotImplementedError(f"{type(self).__name__} must define initialize_parameters")

    def _forget(self, **options: Any) -> None:
        """Put uninitialised parameters and buffers in the places of those that need a size."""
        for name in ("weight", "bias"):
            if self._parameters.get(name) is not None:
                self._parameters[name] = UninitializedParameter(**options)


class LazyLinear(LazyModuleMixin, Linear):
    """`Linear` whose `in_features` is the size of the last dimension of its first input.

    >>> import allgrad as ag
    >>> from allgrad import nn
    >>> layer = nn.LazyLinear(2)
    >>> _ = layer(ag.ones(1, 5))
    >>> layer
    Linear(in_features=5, out_features=2, bias=True)
    """

    cls_to_become = Linear

    def __init__(
        self, out_features: int, bias: bool = True, device: Any = None, dtype: Any = None
    ) -> None:
        super().__init__(0, 0, bias, device, dtype)
        self.out_features = out_features
        self._forget(dtype=dtype, device=device)

    def reset_parameters(self) -> None:
        if self.in_features:
            super().reset_parameters()

    def initialize_parameters(self, input: Tensor) -> None:
        """Take `in_features` from the input."""
        fresh = self.has_uninitialized_params()
        self.in_features = input._array.shape[-1]
        if fresh:
            self.weight.materialize((self.out_features, self.in_features))
            if self.bias is not None:
                self.bias.materialize((self.out_features,))
            self.reset_parameters()


class _LazyConv(LazyModuleMixin):
    in_channels: int
    out_channels: int
    groups: int
    transposed: bool
    dims: int
    kernel_size: tuple[int, ...]
    weight: Any
    bias: Any

    def _finish(self, out_channels: int, device: Any, dtype: Any) -> None:
        if self.groups < 1 or out_channels % self.groups:
            raise ArgumentError(
                f"{type(self).__name__}: out_channels {out_channels} must divide by groups "
                f"{self.groups}"
            )
        self.out_channels = out_channels
        self._forget(dtype=dtype, device=device)

    def reset_parameters(self) -> None:
        """Draw weight and bias again, once their sizes are known."""
        if not self.has_uninitialized_params() and self.in_channels:
            super().reset_parameters()  # type: ignore[misc]  # that of the convolution

    def initialize_parameters(self, input: Tensor, *args: Any, **kwargs: Any) -> None:
        """Take `in_channels` from the input."""
        if input.ndim not in (self.dims + 1, self.dims + 2):
            raise ShapeError(
                f"{type(self).__name__}: expected {self.dims + 1} (one sample) or {self.dims + 2} "
                f"dimensions, came {tuple(input.shape)}"
            )
        fresh = self.has_uninitialized_params()
        self.in_channels = input._array.shape[-self.dims - 1]
        if self.in_channels % self.groups:
            raise ArgumentError(
                f"{type(self).__name__}: {self.in_channels} channels of input "
                f"{tuple(input.shape)} must divide by groups {self.groups}"
            )
        if fresh:
            outer = (self.in_channels, self.out_channels // self.groups)
            if not self.transposed:
                outer = (self.out_channels, self.in_channels // self.groups)
            self.weight.materialize((*outer, *self.kernel_size))
            if self.bias is not None:
                self.bias.materialize((self.out_channels,))
            self.reset_parameters()


class _LazyForward(_LazyConv):
    def __init__(
        self,
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
        super().__init__(
            0, 0, kernel_size, stride, padding, dilation, groups, bias, padding_mode, device, dtype
        )
        self._finish(out_channels, device, dtype)


class _LazyTranspose(_LazyConv):
    def __init__(
        self,
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
        super().__init__(
            0, 0, kernel_size, stride, padding, output_padding, groups, bias, dilation,
            padding_mode, device, dtype,
        )  # fmt: skip
        self._finish(out_channels, device, dtype)


class LazyConv1d(_LazyForward, Conv1d):
    """`Conv1d` whose `in_channels` comes from its first input."""

    cls_to_become = Conv1d


class LazyConv2d(_LazyForward, Conv2d):
    """`Conv2d` whose `in_channels` comes from its first input."""

    cls_to_become = Conv2d


class LazyConv3d(_LazyForward, Conv3d):
    """`Conv3d` whose `in_channels` comes from its first input."""

    cls_to_become = Conv3d


class LazyConvTranspose1d(_LazyTranspose, ConvTranspose1d):
    """`ConvTranspose1d` whose `in_channels` comes from its first input."""

    cls_to_become = ConvTranspose1d


class LazyConvTranspose2d(_LazyTranspose, ConvTranspose2d):
    """`ConvTranspose2d` whose `in_channels` comes from its first input."""

    cls_to_become = ConvTranspose2d


class LazyConvTranspose3d(_LazyTranspose, ConvTranspose3d):
    """`ConvTranspose3d` whose `in_channels` comes from its first input."""

    cls_to_become = ConvTranspose3d


class _LazyNorm(LazyModuleMixin):
    num_features: int
    weight: Any
    bias: Any
    running_mean: Any
    running_var: Any

    def __init__(
        self,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
        device: Any = None,
        dtype: Any = None,
        *,
        bias: bool = True,
    ) -> None:
        super().__init__(0, eps, momentum, affine, track_running_stats, device, dtype, bias=bias)
        self._forget(dtype=dtype, device=device)
        if track_running_stats:
            self._buffers["running_mean"] = UninitializedBuffer(dtype=dtype, device=device)
            self._buffers["running_var"] = UninitializedBuffer(dtype=dtype, device=device)

    def reset_parameters(self) -> None:
        """Weight 1, bias 0, statistics forgotten, once their size is known."""
        if not self.has_uninitialized_params() and self.num_features:
            super().reset_parameters()  # type: ignore[misc]  # that of the norm

    def initialize_parameters(self, input: Tensor) -> None:
        """Take `num_features` from the input."""
        me: Any = self
        me._check(input)
        fresh = self.has_uninitialized_params()
        # Dimension 1, or 0 of a single sample of an instance norm.
        single = isinstance(self, _LazyInstance) and input.ndim == me.ndims[0]
        self.num_features = input._array.shape[0 if single else 1]
        if fresh:
            for t in (self.weight, self.bias, self.running_mean, self.running_var):
                if t is not None:
                    t.materialize((self.num_features,))
            self.reset_parameters()


class _LazyInstance(_LazyNorm):
    """Unlike `InstanceNorm1d` and so on with parameters and statistics by default, as PyTorch."""


class LazyBatchNorm1d(_LazyNorm, BatchNorm1d):
    """`BatchNorm1d` whose `num_features` comes from its first input."""

    cls_to_become = BatchNorm1d


class LazyBatchNorm2d(_LazyNorm, BatchNorm2d):
    """`BatchNorm2d` whose `num_features` comes from its first input."""

    cls_to_become = BatchNorm2d


class LazyBatchNorm3d(_LazyNorm, BatchNorm3d):
    """`BatchNorm3d` whose `num_features` comes from its first input."""

    cls_to_become = BatchNorm3d


class LazyInstanceNorm1d(_LazyInstance, InstanceNorm1d):
    """`InstanceNorm1d` whose `num_features` comes from its first input."""

    cls_to_become = InstanceNorm1d


class LazyInstanceNorm2d(_LazyInstance, InstanceNorm2d):
    """`InstanceNorm2d` whose `num_features` comes from its first input."""

    cls_to_become = InstanceNorm2d


class LazyInstanceNorm3d(_LazyInstance, InstanceNorm3d):
    """`InstanceNorm3d` whose `num_features` comes from its first input."""

    cls_to_become = InstanceNorm3d
