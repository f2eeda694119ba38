"""Margins around a tensor."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..errors import ShapeError, Unsupported
from ..ops import shape as ops
from .graph import apply


def pad(input: Any, pad: Sequence[int], mode: str = "constant", value: float | None = None) -> Any:
    """Margins around the last dimensions.

    Args:
        pad: (before, after) of the last dimension, then of the one before it, ...; negative
            values crop.
        mode: "constant", "reflect" (mirrored, without the edge), "replicate" (the edge repeated)
            or "circular" (the other end). All but "constant" leave the first dimension alone.
        value: fill of mode "constant"; 0 unless given.

    Raises:
        RuntimeError: margins that do not fit the shape.
        NotImplementedError: an unknown mode, or a scalar or vector in another than "constant".

    >>> import allgrad as ag
    >>> pad(ag.arange(3)[None], (2, 1), mode="replicate")
    tensor([[0, 0, 0, 1, 2, 2]])
    """
    shape = tuple(input._array.shape)
    if mode not in ops.Pad.modes:
        raise Unsupported(f"pad: unknown mode {mode!r}; known: {', '.join(ops.Pad.modes)}")
    if len(pad) % 2 or len(pad) // 2 > len(shape):
        raise ShapeError(
            f"pad: expected two numbers for each of at most {len(shape)} dimensions of shape "
            f"{shape}, came {tuple(pad)}"
        )
    if mode != "constant":
        if value is not None:
            raise ShapeError(f"pad: mode {mode!r} takes no value, came {value}")
        if len(pad) // 2 >= max(len(shape), 1):
            raise Unsupported(
                f"pad: mode {mode!r} leaves the first dimension alone, but came {tuple(pad)} for "
                f"shape {shape}"
            )
    margins = [(0, 0)] * len(shape)
    for i in range(len(pad) // 2):
        margins[len(shape) - 1 - i] = (int(pad[2 * i]), int(pad[2 * i + 1]))
    _check(margins, shape, mode)
    return apply(ops.Pad(margins, mode, 0 if value is None else value), input)


def _check(margins: list[tuple[int, int]], shape: tuple[int, ...], mode: str) -> None:
    for (before, after), size in zip(margins, shape, strict=True):
        limit = {"reflect": size - 1, "circular": size}.get(mode)
        if limit is not None and max(before, after) > limit:
            raise ShapeError(
                f"pad: mode {mode!r} allows margins up to {limit} for a dimension of size {size} "
                f"of shape {shape}, came {(before, after)}"
            )
        if size + before + after < 0 or (mode == "replicate" and not size and before + after):
            raise ShapeError(
                f"pad: margins {(before, after)} do not fit a dimension of size {size} of shape "
                f"{shape}"
            )
