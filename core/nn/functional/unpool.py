"""What belongs to pooling beside maximum and mean: unpooling, power means, random windows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ...backend.arrays import on_device
from ...errors import ArgumentError, DtypeError, ShapeError
from ...tensors import Tensor
from ...tensors.sampling import uniform_beside
from .conv import per_dimension
from .pool import Sizes, avg_pool1d, avg_pool2d, avg_pool3d, batched

_AVERAGES = {1: avg_pool1d, 2: avg_pool2d, 3: avg_pool3d}


def _unpool(
    dims: int,
    input: Tensor,
    indices: Tensor,
    kernel_size: Sizes,
    stride: Sizes | None,
    padding: Sizes,
    output_size: Sequence[int] | None,
) -> Tensor:
    name = f"max_unpool{dims}d"
    kernel = per_dimension(kernel_size, dims, name)
    strides = per_dimension(kernel_size if stride is None else stride, dims, name)
    paddings = per_dimension(padding, dims, name)
    if indices._array.dtype != np.int64:
        raise DtypeError(f"{name}: expected int64 indices, came {indices.dtype}")
    if indices._array.shape != input._array.shape:
        raise ShapeError(f"{name}: expected indices of shape {tuple(input.shape)}, came "
                         f"{tuple(indices.shape)}")  # fmt: skip
    usual = [
        (n - 1) * s - 2 * p + k
        for n, s, p, k in zip(input._array.shape[-dims:], strides, paddings, kernel, strict=True)
    ]
    out = usual if output_size is None else list(output_size)[-dims:]
    if len(out) != dims or any(
        not u - s < n < u + s for n, u, s in zip(out, usual, strides, strict=True)
    ):
        raise ArgumentError(
            f"{name}: output_size {output_size} does not fit input {tuple(input.shape)}: expected "
            f"less than {strides} from {tuple(usual)}"
        )
    volume = int(np.prod(out))
    found = indices._array
    if found.size and not on_device(found) and (found.min() < 0 or found.max() >= volume):
        raise ShapeError(f"{name}: index {found.max()} lies outside of the output {tuple(out)}")

    lead = input._array.shape[:-dims]
    flat = input.flatten(-dims)
    empty = Tensor(np.zeros((*lead, volume), input._array.dtype, like=input._array))
    return empty.scatter(len(lead), indices.flatten(-dims), flat).reshape(*lead, *out)


def max_unpool1d(
    input: Tensor,
    indices: Tensor,
    kernel_size: Sizes,
    stride: Sizes | None = None,
    padding: Sizes = 0,
    output_size: Sequence[int] | None = None,
) -> Tensor:
    """The inverse of `max_pool1d` with its `indices`: maxima in their places, 0 elsewhere.

    Args:
        output_size: sizes of the pool's input, where several are possible.

    Raises:
        RuntimeError: indices of another shape or dtype, or outside of the output.
        ValueError: an impossible `output_size`.
    """
    return _unpool(1, input, indices, kernel_size, stride, padding, output_size)


def max_unpool2d(
    input: Tensor,
    indices: Tensor,
    kernel_size: Sizes,
    stride: Sizes | None = None,
    padding: Sizes = 0,
    output_size: Sequence[int] | None = None,
) -> Tensor:
    """The inverse of `max_pool2d`; see `max_unpool1d`."""
    return _unpool(2, input, indices, kernel_size, stride, padding, output_size)


def max_unpool3d(
    input: Tensor,
    indices: Tensor,
    kernel_size: Sizes,
    stride: Sizes | None = None,
    padding: Sizes = 0,
    output_size: Sequence[int] | None = None,
) -> Tensor:
    """The inverse of `max_pool3d`; see `max_unpool1d`."""
    return _unpool(3, input, indices, kernel_size, stride, padding, output_size)


def _lp_pool(
    dims: int, input: Tensor, norm_type: float, kernel_size: Sizes, stride: Any, ceil_mode: bool
) -> Tensor:
    name = f"lp_pool{dims}d"
    if norm_type == 0:
        raise ZeroDivisionError(f"{name}: norm_type must not be 0")
    kernel = per_dimension(kernel_size, dims, name)
    mean = _AVERAGES[dims](input**norm_type, kernel, stride, 0, ceil_mode)
    # Sums of odd powers may be negative; their root is then NaN, as in PyTorch.
    total = mean.sign() * mean.abs() * int(np.prod(kernel))
    found: Tensor = total ** (1.0 / norm_type)
    return found


def lp_pool1d(
    input: Tensor,
    norm_type: float,
    kernel_size: Sizes,
    stride: Sizes | None = None,
    ceil_mode: bool = False,
) -> Tensor:
    """(sum of x**p over each window of (N, C, L)) ** (1/p), with p = `norm_type`."""
    return _lp_pool(1, input, norm_type, kernel_size, stride, ceil_mode)


def lp_pool2d(
    input: Tensor,
    norm_type: float,
    kernel_size: Sizes,
    stride: Sizes | None = None,
    ceil_mode: bool = False,
) -> Tensor:
    """(sum of x**p over each window of (N, C, H, W)) ** (1/p), with p = `norm_type`."""
    return _lp_pool(2, input, norm_type, kernel_size, stride, ceil_mode)


def lp_pool3d(
    input: Tensor,
    norm_type: float,
    kernel_size: Sizes,
    stride: Sizes | None = None,
    ceil_mode: bool = False,
) -> Tensor:
    """(sum of x**p over each window of (N, C, D, H, W)) ** (1/p), with p = `norm_type`."""
    return _lp_pool(3, input, norm_type, kernel_size, stride, ceil_mode)


def _fractional_max_pool(
    dims: int,
    input: Tensor,
    kernel_size: Sizes,
    output_size: Any,
    output_ratio: Any,
    return_indices: bool,
    samples: Tensor | None,
) -> Any:
    name = f"fractional_max_pool{dims}d"
    if output_size is None and output_ratio is None:
        raise ArgumentError(f"{name}: expected an output_size or an output_ratio")
    kernel = per_dimension(kernel_size, dims, name)

    def pool(x: Tensor) -> Any:
        spatial = x._array.shape[2:]
        if output_size is None:
            ratios = (output_ratio,) * dims if isinstance(output_ratio, float) else output_ratio
            out = tuple(int(n * r) for n, r in zip(spatial, ratios, strict=True))
        else:
            out = per_dimension(output_size, dims, name)
        spare = 1 if dims == 3 else 0  # PyTorch asks for one more in volumes
        if any(o + k - 1 + spare > n for o, k, n in zip(out, kernel, spatial, strict=True)):
            raise ShapeError(f"{name}: {out} windows of {kernel} do not fit input {spatial}")
        lead = x._array.shape[:2]
        draws = (
            uniform_beside(x._array, (*lead, dims))
            if samples is None
            else np.broadcast_to(samples._array, (*lead, dims))
        )
        where = _random_windows(x._array, kernel, out, draws)
        found = Tensor(where.reshape(*lead, -1))
        values = x.flatten(2).gather(2, found).reshape(*lead, *out)
        return (values, Tensor(where)) if return_indices else values

    return batched(name, dims, input, pool)


def _random_windows(
    x: np.ndarray, kernel: tuple[int, ...], out: tuple[int, ...], draws: np.ndarray
) -> np.ndarray:
    """Position of the maximum of each window, (N, C, *out). Source: Graham 2014."""
    spatial, dims = x.shape[2:], len(kernel)
    number: Any = 0
    for i, (n, k, o) in enumerate(zip(spatial, kernel, out, strict=True)):
        draw = draws[..., dims - 1 - i if dims == 2 else i, None]  # PyTorch's order of samples
        step = (n - k) / (o - 1) if o > 1 else 0.0
        place = np.arange(o, like=x)
        start = ((place + draw) * step).astype(np.int64) - (draw * step).astype(np.int64)
        start[..., -1] = n - k
        rows = start[..., :, None] + np.arange(k, like=x)  # (N, C, o, k)
        shape = [1] * (2 * dims)
        shape[i], shape[dims + i] = o, k
        number = number * n + rows.reshape(*x.shape[:2], *shape)
    flat = x.reshape(*x.shape[:2], -1)
    number = np.broadcast_to(number, (*x.shape[:2], *out, *kernel))
    places = number.reshape(*x.shape[:2], int(np.prod(out)), -1)
    values = np.take_along_axis(flat[:, :, None], places, axis=3)
    best = values.argmax(axis=3)[..., None]
    return np.take_along_axis(places, best, axis=3).reshape(*x.shape[:2], *out)


def fractional_max_pool2d(
    input: Tensor,
    kernel_size: Sizes,
    output_size: Any = None,
    output_ratio: Any = None,
    return_indices: bool = False,
    _random_samples: Tensor | None = None,
) -> Any:
    """Maxima of windows at pseudo-random places, so that any output size is possible.

    Args:
        output_size: sizes of the output, or
        output_ratio: output size / input size, within 0..1.
        return_indices: also return the position of each maximum in its flattened plane.

    Source: Graham 2014, "Fractional Max-Pooling".
    """
    return _fractional_max_pool(
        2, input, kernel_size, output_size, output_ratio, return_indices, _random_samples
    )


def fractional_max_pool3d(
    input: Tensor,
    kernel_size: Sizes,
    output_size: Any = None,
    output_ratio: Any = None,
    return_indices: bool = False,
    _random_samples: Tensor | None = None,
) -> Any:
    """`fractional_max_pool2d` of (N, C, D, H, W)."""
    return _fractional_max_pool(
        3, input, kernel_size, output_size, output_ratio, return_indices, _random_samples
    )
