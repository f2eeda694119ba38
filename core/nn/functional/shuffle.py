"""Rearrangements of channels and positions. Compositions of reshape and permute."""

from __future__ import annotations

from ...errors import ShapeError
from ...tensors import Tensor


def _image(name: str, input: Tensor, factor: int, what: str) -> tuple[tuple[int, ...], int]:
    """(leading sizes, channels) of (*, C, H, W)."""
    if input.ndim < 3:
        raise ShapeError(f"{name}: expected at least 3 dimensions (*, C, H, W), came "
                         f"{tuple(input.shape)}")  # fmt: skip
    if factor <= 0:
        raise ShapeError(f"{name}: expected a positive {what}, came {factor}")
    shape = input._array.shape
    return shape[:-3], shape[-3]


def pixel_shuffle(input: Tensor, upscale_factor: int) -> Tensor:
    """(*, C * r**2, H, W) -> (*, C, H * r, W * r) for r = `upscale_factor` (Shi et al. 2016).

    Raises:
        RuntimeError: fewer than 3 dimensions, or channels that r**2 does not divide.
    """
    r = upscale_factor
    lead, channels = _image("pixel_shuffle", input, r, "upscale_factor")
    if channels % (r * r):
        raise ShapeError(f"pixel_shuffle: the {channels} channels of input {tuple(input.shape)} do "
                         f"not divide by {r}**2")  # fmt: skip
    height, width = input._array.shape[-2:]
    n = len(lead)
    parts = input.reshape(*lead, channels // (r * r), r, r, height, width)
    order = (*range(n), n, n + 3, n + 1, n + 4, n + 2)
    return parts.permute(*order).reshape(*lead, channels // (r * r), height * r, width * r)


def pixel_unshuffle(input: Tensor, downscale_factor: int) -> Tensor:
    """(*, C, H * r, W * r) -> (*, C * r**2, H, W): the inverse of `pixel_shuffle`.

    Raises:
        RuntimeError: fewer than 3 dimensions, or sizes that r does not divide.
    """
    r = downscale_factor
    lead, channels = _image("pixel_unshuffle", input, r, "downscale_factor")
    height, width = input._array.shape[-2:]
    if height % r or width % r:
        raise ShapeError(f"pixel_unshuffle: height and width of input {tuple(input.shape)} do not "
                         f"divide by {r}")  # fmt: skip
    n = len(lead)
    parts = input.reshape(*lead, channels, height // r, r, width // r, r)
    order = (*range(n), n, n + 2, n + 4, n + 1, n + 3)
    return parts.permute(*order).reshape(*lead, channels * r * r, height // r, width // r)


def channel_shuffle(input: Tensor, groups: int) -> Tensor:
    """Channels of (N, C, *S) dealt out anew between `groups` (Zhang et al. 2018, ShuffleNet).

    Raises:
        RuntimeError: fewer than 3 dimensions, or channels that do not divide into the groups.
    """
    shape = input._array.shape
    if len(shape) < 3:
        raise ShapeError(
            f"channel_shuffle: expected at least 3 dimensions (N, C, *S), came {shape}"
        )
    if groups <= 0 or shape[1] % groups:
        raise ShapeError(
            f"channel_shuffle: the {shape[1]} channels of input {shape} do not divide into "
            f"{groups} groups"
        )
    parts = input.reshape(shape[0], groups, shape[1] // groups, *shape[2:])
    return parts.transpose(1, 2).reshape(*shape)


native_channel_shuffle = channel_shuffle
