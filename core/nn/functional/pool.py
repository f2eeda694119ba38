"""Pooling over 1 to 3 spatial dimensions."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ...backend.arrays import constant
from ...dtypes import FLOATING
from ...errors import ShapeError
from ...ops.pool import AdaptivePool, AvgPool, MaxPool, windows
from ...tensors import Tensor
from ...tensors.autocasting import widens
from ...tensors.graph import apply
from .conv import per_dimension

Sizes = int | Sequence[int]


def batched(name: str, dims: int, input: Tensor, pool: Callable[[Tensor], Any]) -> Any:
    """`pool` of (N, C, *S); a single sample (C, *S) gets a batch dimension meanwhile."""
    if input.ndim == dims + 2:
        return pool(input)
    if input.ndim == dims + 1:
        y = pool(input.unsqueeze(0))
        return tuple(t.squeeze(0) for t in y) if isinstance(y, tuple) else y.squeeze(0)
    raise ShapeError(
        f"{name}: expected {dims + 2} dimensions (or {dims + 1} for one sample), came "
        f"{tuple(input.shape)}"
    )


def _check_window(name: str, x: Any, kernel: Any, padding: Any, dilation: Any, stride: Any) -> None:
    for size, k, p, d, s in zip(x[2:], kernel, padding, dilation, stride, strict=True):
        if k < 1 or s < 1 or d < 1:
            raise ShapeError(f"{name}: kernel, stride and dilation must be positive")
        if 2 * p > k:
            raise ShapeError(f"{name}: padding {p} must be at most half of the kernel {k}")
        if size + 2 * p < d * (k - 1) + 1:
            raise ShapeError(
                f"{name}: window {tuple(kernel)} is larger than input {tuple(x)} with padding "
                f"{tuple(padding)}"
            )


def _max_pool(
    dims: int,
    input: Tensor,
    kernel_size: Sizes,
    stride: Sizes | None,
    padding: Sizes,
    dilation: Sizes,
    ceil_mode: bool,
    return_indices: bool,
) -> Any:
    name = f"max_pool{dims}d"
    kernel = per_dimension(kernel_size, dims, name)
    strides = per_dimension(kernel_size if stride is None else stride, dims, name)
    paddings, dilations = (per_dimension(v, dims, name) for v in (padding, dilation))

    def pool(x: Tensor) -> Any:
        _check_window(name, x._array.shape, kernel, paddings, dilations, strides)
        if not return_indices:
            return apply(MaxPool(kernel, strides, paddings, dilations, ceil_mode), x)
        indices = _max_indices(x._array, kernel, strides, paddings, dilations, ceil_mode)
        return _picked(x, indices)

    return batched(name, dims, input, pool)


def _max_indices(
    x: np.ndarray, kernel: Any, stride: Any, padding: Any, dilation: Any, ceil_mode: bool
) -> np.ndarray:
    """Position of each window's maximum in the flattened plane, int64 (N, C, *S')."""
    spatial = x.shape[2:]
    out = []
    for n, k, s, p, d in zip(spatial, kernel, stride, padding, dilation, strict=True):
        room = n + 2 * p - d * (k - 1) - 1
        count = (-(-room // s) if ceil_mode else room // s) + 1
        out.append(count - 1 if ceil_mode and (count - 1) * s >= n + p else count)
    lowest = -np.inf if x.dtype.kind in FLOATING else np.iinfo(x.dtype).min
    plane = np.arange(math.prod(spatial), dtype=np.int64, like=x).reshape(spatial)
    best = np.full_like(x, lowest, x.dtype, shape=(*x.shape[:2], *out), order="C")
    where = np.zeros_like(best, np.int64)
    unset = np.ones_like(best, bool)
    for given in _met(spatial, tuple(out), kernel, stride, padding, dilation):
        *rows, inside = (constant(a, x) for a in given)
        grid = tuple(rows)
        values, places = x[(..., *grid)], plane[grid]
        better = inside & ((values > best) | unset | np.isnan(values))
        best = np.where(better, values, best)
        where = np.where(better, places, where)
        unset &= ~np.broadcast_to(inside, unset.shape)
    return where


@functools.lru_cache(32)
def _met(
    spatial: Any, out: Any, kernel: Any, stride: Any, padding: Any, dilation: Any
) -> list[tuple[np.ndarray, ...]]:
    """For each position of the kernel: which elements its windows meet, and whether there are any.

    Returns:
        (one array of indices for each dimension, to be broadcast; bool array of the output's
        shape).
    """
    found = []
    for index in np.ndindex(*kernel):
        rows = [
            np.arange(o) * s - p + i * d
            for o, s, p, i, d in zip(out, stride, padding, index, dilation, strict=True)
        ]
        inside = np.ones((), bool)
        for r, n in zip(rows, spatial, strict=True):
            inside = inside[..., None] & (r >= 0) & (r < n)
        grid = np.ix_(*[np.clip(r, 0, n - 1) for r, n in zip(rows, spatial, strict=True)])
        found.append((*grid, inside))
    return found


def _avg_pool(
    dims: int,
    input: Tensor,
    kernel_size: Sizes,
    stride: Sizes | None,
    padding: Sizes,
    ceil_mode: bool,
    count_include_pad: bool,
    divisor_override: int | None = None,
) -> Tensor:
    name = f"avg_pool{dims}d"
    kernel = per_dimension(kernel_size, dims, name)
    strides = per_dimension(kernel_size if stride is None else stride, dims, name)
    paddings = per_dimension(padding, dims, name)

    def pool(x: Tensor) -> Tensor:
        _check_window(name, x._array.shape, kernel, paddings, (1,) * dims, strides)
        if divisor_override is None:
            return apply(AvgPool(kernel, strides, paddings, ceil_mode, count_include_pad), x)
        # Sum = mean over the real elements times their number.
        mean = apply(AvgPool(kernel, strides, paddings, ceil_mode, False), x)
        sizes, out = x._array.shape[2:], mean._array.shape[2:]
        counts = _window_counts(x._array.dtype, sizes, out, kernel, strides, paddings)
        return mean * Tensor(constant(counts, x._array)) / divisor_override

    return batched(name, dims, input, pool)


@functools.lru_cache(32)
def _window_counts(
    dtype: Any, sizes: Any, out: Any, kernel: Any, stride: Any, padding: Any
) -> np.ndarray:
    """Input elements under each window, (1, 1, *S')."""
    counts: Any = np.ones((), dtype)
    for size, k, s, p, o in zip(sizes, kernel, stride, padding, out, strict=True):
        first = np.arange(o) * s - p
        held = np.minimum(first + k, size) - np.maximum(first, 0)
        counts = counts[..., None] * held.astype(dtype)
    return counts[None, None]


def _adaptive(
    dims: int, input: Tensor, output_size: Any, maximum: bool, return_indices: bool = False
) -> Any:
    name = f"adaptive_{'max' if maximum else 'avg'}_pool{dims}d"
    given = (output_size,) * dims if isinstance(output_size, int | None) else tuple(output_size)
    if len(given) != dims:
        raise ShapeError(f"{name}: expected one size or {dims}, came {output_size!r}")
    if any(o is not None and o < 0 for o in given):
        raise ShapeError(f"{name}: expected sizes of 0 or more, came {output_size!r}")

    def pool(x: Tensor) -> Any:
        shape = x._array.shape[2:]
        out = tuple(n if o is None else int(o) for n, o in zip(shape, given, strict=True))
        if return_indices:
            return _picked(x, _adaptive_indices(x._array, out))
        if all(out) and all(n % o == 0 and n for n, o in zip(shape, out, strict=True)):
            kernel = tuple(n // o for n, o in zip(shape, out, strict=True))
            none = (0,) * dims
            if maximum:
                return apply(MaxPool(kernel, kernel, none, (1,) * dims, False), x)
            return apply(AvgPool(kernel, kernel, none), x)
        return apply(AdaptivePool(out, maximum), x)

    return batched(name, dims, input, pool)


def _picked(x: Tensor, indices: np.ndarray) -> tuple[Tensor, Tensor]:
    """(values of (N, C, *S) at positions in the flattened plane, the positions)."""
    found = Tensor(indices.reshape(*indices.shape[:2], -1))
    values = x.flatten(2).gather(2, found).reshape(tuple(indices.shape))
    return values, Tensor(indices)


def _adaptive_indices(x: np.ndarray, out: tuple[int, ...]) -> np.ndarray:
    """Position of the maximum of each adaptive window in the flattened plane, (N, C, *out)."""
    spatial = x.shape[2:]
    plane = np.arange(math.prod(spatial), dtype=np.int64, like=x).reshape(spatial)
    where = np.zeros((*x.shape[:2], *out), np.int64, like=x)
    for index, window in windows(spatial, out):
        flat = x[window].reshape(*x.shape[:2], -1)
        where[index] = plane[window[1:]].ravel()[flat.argmax(axis=2)]
    return where


def max_pool1d(
    input: Tensor,
    kernel_size: Sizes,
    stride: Sizes | None = None,
    padding: Sizes = 0,
    dilation: Sizes = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> Any:
    """Maximum of each window of (N, C, L); stride defaults to the window."""
    return _max_pool(1, input, kernel_size, stride, padding, dilation, ceil_mode, return_indices)


def max_pool2d(
    input: Tensor,
    kernel_size: Sizes,
    stride: Sizes | None = None,
    padding: Sizes = 0,
    dilation: Sizes = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> Any:
    """Maximum of each window of (N, C, H, W); stride defaults to the window.

    Args:
        return_indices: also return the position of each maximum in its flattened plane.

    Raises:
        ShapeError: the window is larger than the padded input.
    """
    return _max_pool(2, input, kernel_size, stride, padding, dilation, ceil_mode, return_indices)


@widens
def max_pool3d(
    input: Tensor,
    kernel_size: Sizes,
    stride: Sizes | None = None,
    padding: Sizes = 0,
    dilation: Sizes = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> Any:
    """Maximum of each window of (N, C, D, H, W); stride defaults to the window."""
    return _max_pool(3, input, kernel_size, stride, padding, dilation, ceil_mode, return_indices)


def avg_pool1d(
    input: Tensor,
    kernel_size: Sizes,
    stride: Sizes | None = None,
    padding: Sizes = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
) -> Tensor:
    """Mean of each window of (N, C, L)."""
    return _avg_pool(1, input, kernel_size, stride, padding, ceil_mode, count_include_pad)


def avg_pool2d(
    input: Tensor,
    kernel_size: Sizes,
    stride: Sizes | None = None,
    padding: Sizes = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> Tensor:
    """Mean of each window of (N, C, H, W).

    Args:
        count_include_pad: whether padding zeros count as elements.
        divisor_override: divide by this instead of the number of elements.
    """
    return _avg_pool(
        2, input, kernel_size, stride, padding, ceil_mode, count_include_pad, divisor_override
    )


@widens
def avg_pool3d(
    input: Tensor,
    kernel_size: Sizes,
    stride: Sizes | None = None,
    padding: Sizes = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> Tensor:
    """Mean of each window of (N, C, D, H, W)."""
    return _avg_pool(
        3, input, kernel_size, stride, padding, ceil_mode, count_include_pad, divisor_override
    )


def adaptive_avg_pool1d(input: Tensor, output_size: Any) -> Tensor:
    """Mean over windows such that the result has `output_size` positions."""
    return _adaptive(1, input, output_size, False)


def adaptive_avg_pool2d(input: Tensor, output_size: Any) -> Tensor:
    """Mean over windows such that the result has `output_size` (H', W'); None keeps a size."""
    return _adaptive(2, input, output_size, False)


@widens
def adaptive_avg_pool3d(input: Tensor, output_size: Any) -> Tensor:
    """Mean over windows such that the result has `output_size` (D', H', W')."""
    return _adaptive(3, input, output_size, False)


def adaptive_max_pool1d(input: Tensor, output_size: Any, return_indices: bool = False) -> Any:
    """Maximum over windows such that the result has `output_size` positions."""
    return _adaptive(1, input, output_size, True, return_indices)


def adaptive_max_pool2d(input: Tensor, output_size: Any, return_indices: bool = False) -> Any:
    """Maximum over windows such that the result has `output_size` (H', W')."""
    return _adaptive(2, input, output_size, True, return_indices)


def adaptive_max_pool3d(input: Tensor, output_size: Any, return_indices: bool = False) -> Any:
    """Maximum over windows such that the result has `output_size` (D', H', W')."""
    return _adaptive(3, input, output_size, True, return_indices)
