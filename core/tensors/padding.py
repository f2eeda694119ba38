"""Margins around a tensor."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..errors import OptionError, ShapeError
from ..ops import shape as ops
from .graph import apply


def pad(input: Any, pad: Sequence[int], mode: str = "constant", value: float | None = None) -> Any:
    """Margins around the last dimensions.

    Args:
        pad: (before, after) of the last dimension, then of the one before it, ...; negative
            values crop.
        mode: "constant", "reflect", "replicate" or "circular".
        value: fill of mode "constant"; 0 unless given.
    """
    if mode not in ops.Pad.modes:
        raise OptionError.unknown("padding mode", mode, ops.Pad.modes)
    if len(pad) % 2 or len(pad) // 2 > input.ndim:
        raise ShapeError(
            f"pad: expected two numbers for each of at most {input.ndim} dimensions, came {pad}"
        )
    margins = [(0, 0)] * input.ndim
    for i in range(len(pad) // 2):
        margins[input.ndim - 1 - i] = (int(pad[2 * i]), int(pad[2 * i + 1]))
    for axis, (before, after) in enumerate(margins):
        size = input._array.shape[axis]
        limit = {"reflect": size - 1, "circular": size}.get(mode)
        if limit is not None and max(before, after) > limit:
            raise ShapeError(
                f"pad: mode {mode!r} allows margins up to {limit} for a dimension of size {size}, "
                f"came {(before, after)}"
            )
        if size + before + after < 0:
            raise ShapeError(f"pad: dimension of size {size} would become negative by {pad}")
    return apply(ops.Pad(margins, mode, 0 if value is None else value), input)
