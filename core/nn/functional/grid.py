"""Sampling of images at given places: `affine_grid`, `grid_sample`. Compositions.

Source: Jaderberg et al. 2015, "Spatial Transformer Networks".
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

import numpy as np

from ...backend.arrays import constant, contiguous
from ...errors import ArgumentError, DtypeError, OptionError, ShapeError, UnsupportedInputError
from ...tensors import Tensor, arithmetic
from ...tensors.arithmetic import where
from ...tensors.autocasting import widens
from .checks import need_floating

_MODES = ("bilinear", "nearest", "bicubic")
_PADDINGS = ("zeros", "border", "reflection")


def affine_grid(theta: Tensor, size: Sequence[int], align_corners: bool | None = None) -> Tensor:
    """The places that an affine map sends the positions of an image to, for `grid_sample`.

    Args:
        theta: (N, 2, 3), or (N, 3, 4) for volumes; floating.
        size: of the output: (N, C, H, W) or (N, C, D, H, W).
        align_corners: -1 and 1 are the centres of the corner elements instead of the edges;
            None means False.

    Returns:
        (N, H, W, 2) or (N, D, H, W, 3), coordinates in the order x, y(, z).

    Raises:
        ValueError: shapes that do not fit, or a `theta` that is not floating.
        NotImplementedError: a size of another length.
    """
    name = "affine_grid"
    if theta._array.dtype.kind in "iub":
        raise ArgumentError(f"{name}: expected a floating theta, came {theta.dtype}")
    if len(size) not in (4, 5):
        raise UnsupportedInputError(
            f"{name}: expected a size of 4 or 5 numbers, came {tuple(size)}"
        )
    dims = len(size) - 2
    if theta.ndim != 3 or tuple(theta.shape[1:]) != (dims, dims + 1):
        raise ArgumentError(
            f"{name}: expected theta (N, {dims}, {dims + 1}) for size {tuple(size)}, came "
            f"{tuple(theta.shape)}"
        )
    if min(size) <= 0:
        raise ArgumentError(f"{name}: expected positive sizes, came {tuple(size)}")
    if theta.shape[0] != size[0]:
        raise ShapeError(
            f"{name}: theta {tuple(theta.shape)} and size {tuple(size)} differ in the batch"
        )
    flat = Tensor(_base(tuple(size[2:]), bool(align_corners), theta._array))
    return (flat @ theta.transpose(1, 2)).reshape(size[0], *size[2:], dims)


@lru_cache(maxsize=64)
def _places(size: tuple[int, ...], align_corners: bool) -> np.ndarray:
    """(1, positions, dims + 1): the coordinates of every position, and 1."""
    lines = [_line(n, align_corners) for n in size]
    coordinates = np.meshgrid(*lines, indexing="ij")[::-1]
    base = np.stack([*coordinates, np.ones_like(coordinates[0])], axis=-1)
    return base.reshape(1, -1, len(size) + 1)


def _base(size: tuple[int, ...], align_corners: bool, like: Any) -> Any:
    return constant(_places(size, align_corners), like).astype(like.dtype, copy=False)


def _line(count: int, align_corners: bool) -> np.ndarray:
    """Positions of `count` elements between -1 and 1."""
    if count == 1:
        return np.zeros(1)
    line = np.linspace(-1, 1, count)
    return line if align_corners else line * (count - 1) / count


@widens
def grid_sample(
    input: Tensor,
    grid: Tensor,
    mode: str = "bilinear",
    padding_mode: str = "zeros",
    align_corners: bool | None = None,
) -> Tensor:
    """Values of `input` at the places that `grid` names.

    Args:
        input: (N, C, H, W) or (N, C, D, H, W).
        grid: (N, H', W', 2) or (N, D', H', W', 3), in the order x, y(, z); -1 and 1 are the edges.
        mode: "bilinear", "nearest" or (4 dimensions) "bicubic".
        padding_mode: what lies outside: "zeros", "border" (the nearest element) or "reflection".
        align_corners: -1 and 1 are the centres of the corner elements; None means False.

    Returns:
        (N, C, H', W') or (N, C, D', H', W').

    Raises:
        ValueError: an unknown mode or padding mode.
        RuntimeError: shapes or dtypes that do not fit.
    """
    dims = input.ndim - 2
    _check_grid(input, grid, mode, padding_mode, dims)
    sizes = input._array.shape[2:]
    aligned = bool(align_corners)
    # Coordinates in elements, from the last spatial dimension (x) to the first.
    places = [_unnormalised(grid[..., dims - 1 - i], sizes[i], aligned) for i in range(dims)]

    def inside(place: Tensor, size: int) -> Tensor:
        return _padded(place, size, padding_mode, aligned)

    if mode == "bicubic":
        axes = [_cubic_axis(p, n, inside) for p, n in zip(places, sizes, strict=True)]
    else:
        axis = _linear_axis if mode == "bilinear" else _nearest_axis
        axes = [axis(inside(p, n)) for p, n in zip(places, sizes, strict=True)]
    return _collect(input, axes, sizes)


def _check_grid(input: Tensor, grid: Tensor, mode: str, padding_mode: str, dims: int) -> None:
    name = "grid_sample"
    for what, value, known in (
        ("mode", mode, _MODES),
        ("padding_mode", padding_mode, _PADDINGS),
    ):
        if value not in known:
            raise OptionError.unknown(f"{what} of {name}", value, known)
    need_floating(name, input)
    if input._array.dtype != grid._array.dtype:
        raise DtypeError(f"{name}: input is {input.dtype}, grid {grid.dtype}; expected one dtype")
    shape, places = tuple(input.shape), tuple(grid.shape)
    if dims not in (2, 3) or len(places) != dims + 2 or places[-1] != dims:
        raise ShapeError(
            f"{name}: expected input (N, C, H, W) with grid (N, H', W', 2), or (N, C, D, H, W) "
            f"with (N, D', H', W', 3), came {shape} and {places}"
        )
    if shape[0] != places[0] or min(shape[2:]) == 0:
        raise ShapeError(f"{name}: input {shape} and grid {places} differ in the batch, or the "
                         "input is empty")  # fmt: skip
    if mode == "bicubic" and dims == 3:
        raise ShapeError(f"{name}: bicubic is for 4 dimensions, came {shape}")


def _unnormalised(place: Tensor, size: int, aligned: bool) -> Tensor:
    """From -1..1 to element numbers."""
    if aligned:
        return (place + 1) * ((size - 1) / 2)
    return ((place + 1) * size - 1) / 2


def _padded(place: Tensor, size: int, padding_mode: str, aligned: bool) -> Tensor:
    """Element numbers brought into the image, unless zeros lie outside."""
    if padding_mode == "zeros":
        return place
    if padding_mode == "reflection":
        low, span = (0.0, size - 1.0) if aligned else (-0.5, float(size))
        if span == 0:
            return place * 0
        distance = (place - low).abs()
        flips = (distance.detach() / span).floor()
        rest = distance - flips * span
        odd = Tensor(np.mod(flips._array, 2) == 1)
        place = where(odd, span - rest + low, rest + low)
    found: Tensor = arithmetic.clamp(place, 0, size - 1)
    return found


# One axis: pairs of (element numbers, weights), which are combined over all axes.
Axis = list[tuple[np.ndarray, Any]]


def _nearest_axis(place: Tensor) -> Axis:
    return [(np.rint(place.detach()._array), 1.0)]


def _linear_axis(place: Tensor) -> Axis:
    low = np.floor(place.detach()._array)
    share = place - Tensor(low)
    return [(low, 1 - share), (low + 1, share)]


def _cubic_axis(place: Tensor, size: int, inside: Callable[[Tensor, int], Tensor]) -> Axis:
    a = -0.75
    low = np.floor(place.detach()._array)
    t = place - Tensor(low)

    def near(d: Any) -> Any:
        return ((a + 2) * d - (a + 3)) * d * d + 1

    def far(d: Any) -> Any:
        return ((a * d - 5 * a) * d + 8 * a) * d - 4 * a

    weights = (far(t + 1), near(t), near(1 - t), far(2 - t))
    return [
        (np.rint(inside(Tensor(low + k), size)._array), w)
        for k, w in zip(range(-1, 3), weights, strict=True)
    ]


def _collect(input: Tensor, axes: list[Axis], sizes: tuple[int, ...]) -> Tensor:
    """The weighted sum over all combinations of neighbours; outside of the input they are 0."""
    flat = input.flatten(2)
    channels = input._array.shape[1]
    total: Any = None
    for corner in itertools.product(*axes):
        number: Any = 0
        valid: Any = True
        weight: Any = 1.0
        for (index, share), size in zip(corner, sizes, strict=True):
            with np.errstate(invalid="ignore"):
                valid = valid & (index >= 0) & (index < size)
                clipped = np.clip(np.nan_to_num(index), 0, size - 1).astype(np.int64)
            number = number * size + clipped
            weight = weight * share
        weight = weight * Tensor(valid.astype(input._array.dtype))
        out = number.shape[1:]
        every = np.broadcast_to(number.reshape(len(number), 1, -1), (len(number), channels,
                                int(np.prod(out))))  # fmt: skip
        values = flat.gather(2, Tensor(contiguous(every)))
        part = values.reshape(len(number), channels, *out) * weight.unsqueeze(1)
        total = part if total is None else total + part
    found: Tensor = total
    return found
