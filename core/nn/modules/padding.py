"""Padding layers: values added around the spatial dimensions."""

from __future__ import annotations

from collections.abc import Sequence

from ...errors import ArgumentError
from ...tensors import Tensor
from .. import functional as F  # noqa: N812 - PyTorch's spelling
from .module import Module

Margins = int | Sequence[int]


class _Pad(Module):
    """What all padding layers share; `dims` and `mode` are set by the subclass.

    Args:
        padding: one number, or (left, right[, top, bottom[, front, back]]).
    """

    dims = 0
    mode = "constant"

    def __init__(self, padding: Margins) -> None:
        super().__init__()
        margins = (padding,) * (2 * self.dims) if isinstance(padding, int) else tuple(padding)
        if len(margins) != 2 * self.dims:
            raise ArgumentError(
                f"{type(self).__name__}: expected one number or {2 * self.dims}, came {padding!r}"
            )
        self.padding: tuple[int, ...] = margins

    def forward(self, input: Tensor) -> Tensor:
        if self.mode == "circular" and input.ndim not in (self.dims + 1, self.dims + 2):
            raise ArgumentError(
                f"{type(self).__name__}: expected {self.dims + 1} or {self.dims + 2} dimensions, "
                f"came {tuple(input.shape)}"
            )
        return F.pad(input, self.padding, self.mode)

    def extra_repr(self) -> str:
        return str(self.padding)


class _ConstantPad(_Pad):
    def __init__(self, padding: Margins, value: float) -> None:
        super().__init__(padding)
        self.value = value

    def forward(self, input: Tensor) -> Tensor:
        return F.pad(input, self.padding, "constant", self.value)

    def extra_repr(self) -> str:
        return f"padding={self.padding}, value={self.value}"


class _ZeroPad(_ConstantPad):
    def __init__(self, padding: Margins) -> None:
        super().__init__(padding, 0.0)

    def extra_repr(self) -> str:
        return str(self.padding)


class ConstantPad1d(_ConstantPad):
    """`value` around (N, C, L)."""

    dims = 1


class ConstantPad2d(_ConstantPad):
    """`value` around (N, C, H, W)."""

    dims = 2


class ConstantPad3d(_ConstantPad):
    """`value` around (N, C, D, H, W)."""

    dims = 3


class ZeroPad1d(_ZeroPad):
    """Zeros around (N, C, L)."""

    dims = 1


class ZeroPad2d(_ZeroPad):
    """Zeros around (N, C, H, W)."""

    dims = 2


class ZeroPad3d(_ZeroPad):
    """Zeros around (N, C, D, H, W)."""

    dims = 3


class ReflectionPad1d(_Pad):
    """(N, C, L) reflected at its edges."""

    dims = 1
    mode = "reflect"


class ReflectionPad2d(_Pad):
    """(N, C, H, W) reflected at its edges."""

    dims = 2
    mode = "reflect"


class ReflectionPad3d(_Pad):
    """(N, C, D, H, W) reflected at its edges."""

    dims = 3
    mode = "reflect"


class ReplicationPad1d(_Pad):
    """The edges of (N, C, L) repeated outwards."""

    dims = 1
    mode = "replicate"


class ReplicationPad2d(_Pad):
    """The edges of (N, C, H, W) repeated outwards."""

    dims = 2
    mode = "replicate"


class ReplicationPad3d(_Pad):
    """The edges of (N, C, D, H, W) repeated outwards."""

    dims = 3
    mode = "replicate"


class CircularPad1d(_Pad):
    """(N, C, L) continued around its edges."""

    dims = 1
    mode = "circular"


class CircularPad2d(_Pad):
    """(N, C, H, W) continued around its edges."""

    dims = 2
    mode = "circular"


class CircularPad3d(_Pad):
    """(N, C, D, H, W) continued around its edges."""

    dims = 3
    mode = "circular"
