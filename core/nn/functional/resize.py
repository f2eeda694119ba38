"""Interpolation of lines, images and volumes to another size."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from typing import Any

from ...errors import ArgumentError, ShapeError, UnsupportedInputError
from ...ops import resample as ops
from ...tensors import Tensor
from ...tensors.graph import apply
from .checks import need_floating
from .pool import adaptive_avg_pool1d, adaptive_avg_pool2d, adaptive_avg_pool3d

# mode -> spatial dimensions it works on
_MODES = {
    "nearest": (1, 2, 3),
    "nearest-exact": (1, 2, 3),
    "area": (1, 2, 3),
    "linear": (1,),
    "bilinear": (2,),
    "bicubic": (2,),
    "trilinear": (3,),
}
_INTERPOLATING = ("linear", "bilinear", "bicubic", "trilinear")
_AREA = {1: adaptive_avg_pool1d, 2: adaptive_avg_pool2d, 3: adaptive_avg_pool3d}


def interpolate(
    input: Tensor,
    size: int | Sequence[int] | None = None,
    scale_factor: float | Sequence[float] | None = None,
    mode: str = "nearest",
    align_corners: bool | None = None,
    recompute_scale_factor: bool | None = None,
    antialias: bool = False,
) -> Tensor:
    """Resize (N, C, L), (N, C, H, W) or (N, C, D, H, W).

    Args:
        size: sizes of the output; one integer stands for all spatial dimensions.
        scale_factor: instead of `size`: output size / input size, rounded down.
        mode: "nearest", "nearest-exact", "area", "linear" (3 dimensions), "bilinear", "bicubic"
            (4 dimensions) or "trilinear" (5 dimensions).
        align_corners: for the interpolating modes: the centres of the corner elements stay in
            place instead of the edges of the images.
        recompute_scale_factor: compute positions from the rounded sizes instead of from
            `scale_factor`.
        antialias: for "bilinear" and "bicubic": widen the kernel when shrinking, as Pillow does.

    Raises:
        ValueError: `size` or `scale_factor` do not fit, or an option that `mode` does not have.
        NotImplementedError: an unknown mode, or one for another number of dimensions.

    >>> import allgrad as ag
    >>> interpolate(ag.tensor([[[1.0, 3.0]]]), 4, mode="linear").tolist()
    [[[1.0, 1.5, 2.5, 3.0]]]
    """
    dims = input.ndim - 2
    _check_mode(mode, input, align_corners, antialias)
    sizes, scales = _target(input, dims, size, scale_factor, recompute_scale_factor)
    spatial = input._array.shape[2:]
    if min((*sizes, *spatial)) < 1:
        raise ShapeError(
            f"interpolate: expected sizes above 0, came input {tuple(spatial)} and output {sizes}"
        )
    if input._array.dtype.kind in "ib" or (
        input._array.dtype.kind == "u" and mode not in ("nearest", "nearest-exact")
    ):
        need_floating(f"interpolate ({mode})", input)
    if mode == "area":
        return _AREA[dims](input, sizes)
    taps = tuple(
        None
        if n == out and s in (None, 1.0)
        else _taps(mode, n, out, bool(align_corners), s, antialias)
        for n, out, s in zip(spatial, sizes, scales, strict=True)
    )
    if all(t is None for t in taps):
        return input.clone()
    return apply(ops.Resample(taps), input)


def _check_mode(mode: str, input: Tensor, align_corners: bool | None, antialias: bool) -> None:
    dims = input.ndim - 2
    if mode not in _MODES or dims not in (1, 2, 3):
        raise UnsupportedInputError(
            f"interpolate: expected 3 to 5 dimensions and one of the modes {', '.join(_MODES)}; "
            f"came {tuple(input.shape)} and {mode!r}"
        )
    if align_corners is not None and mode not in _INTERPOLATING:
        raise ArgumentError(
            f"interpolate: align_corners is for {', '.join(_INTERPOLATING)}, not for {mode!r}"
        )
    if antialias and not (mode in ("bilinear", "bicubic") and dims == 2):
        raise ArgumentError(
            "interpolate: antialias is for bilinear and bicubic images of 4 dimensions, came "
            f"{mode!r} and {tuple(input.shape)}"
        )
    if dims not in _MODES[mode]:
        raise UnsupportedInputError(
            f"interpolate: mode {mode!r} needs {_MODES[mode][0] + 2} dimensions, came "
            f"{tuple(input.shape)}"
        )


def _target(
    input: Tensor, dims: int, size: Any, scale_factor: Any, recompute: bool | None
) -> tuple[tuple[int, ...], tuple[float | None, ...]]:
    """(output sizes, scales by which positions are computed, None for the ratio of sizes)."""
    if (size is None) == (scale_factor is None):
        raise ArgumentError("interpolate: expected either size or scale_factor, and not both")
    given = size if scale_factor is None else scale_factor
    values = (given,) * dims if isinstance(given, int | float) else tuple(given)
    if len(values) != dims:
        raise ArgumentError(
            f"interpolate: input {tuple(input.shape)} has {dims} spatial dimensions, came "
            f"{'size' if scale_factor is None else 'scale_factor'} {given!r}"
        )
    if scale_factor is None:
        if recompute:
            raise ArgumentError("interpolate: recompute_scale_factor has no meaning with a size")
        if any(isinstance(v, float) for v in values):
            raise TypeError(f"interpolate: expected integers as size, came {given!r}")
        return tuple(int(v) for v in values), (None,) * dims
    sizes = tuple(math.floor(n * s) for n, s in zip(input._array.shape[2:], values, strict=True))
    return sizes, (None,) * dims if recompute else tuple(float(v) for v in values)


def _taps(
    mode: str, size: int, out: int, align: bool, scale: float | None, antialias: bool
) -> ops.Taps:
    if mode in ("nearest", "nearest-exact"):
        return ops.nearest_taps(size, out, scale, mode == "nearest-exact")
    if antialias:
        return ops.smooth_taps(size, out, align, scale, mode == "bicubic")
    if mode == "bicubic":
        return ops.cubic_taps(size, out, align, scale)
    return ops.linear_taps(size, out, align, scale)


def _deprecated(name: str) -> None:
    warnings.warn(f"{name} is deprecated; use interpolate", UserWarning, stacklevel=3)


def upsample(
    input: Tensor,
    size: int | Sequence[int] | None = None,
    scale_factor: float | Sequence[float] | None = None,
    mode: str = "nearest",
    align_corners: bool | None = None,
) -> Tensor:
    """The old name of `interpolate`."""
    _deprecated("upsample")
    return interpolate(input, size, scale_factor, mode, align_corners)


def upsample_nearest(
    input: Tensor,
    size: int | Sequence[int] | None = None,
    scale_factor: float | Sequence[float] | None = None,
) -> Tensor:
    """The old name of ``interpolate(mode="nearest")``."""
    _deprecated("upsample_nearest")
    return interpolate(input, size, scale_factor, "nearest")


def upsample_bilinear(
    input: Tensor,
    size: int | Sequence[int] | None = None,
    scale_factor: float | Sequence[float] | None = None,
) -> Tensor:
    """The old name of ``interpolate(mode="bilinear", align_corners=True)``."""
    _deprecated("upsample_bilinear")
    return interpolate(input, size, scale_factor, "bilinear", align_corners=True)
