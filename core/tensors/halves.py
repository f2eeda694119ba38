"""Ops on float16 and bfloat16 tensors: computed in float32, each result rounded once.

May import: ops, dtypes. See Note [Half precision] in `dtypes.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ..dtypes import FLOATING, is_half
from ..ops.base import Op
from ..ops.elementwise import Cast

_F32 = np.dtype(np.float32)


def in_float32(apply: Callable[..., Any], op: Op, inputs: tuple[Any, ...]) -> Any:
    """Apply `op` to float32 copies of its half inputs and round its floating results.

    The results have the type of the first floating input; the casts are recorded, so gradients
    are computed in float32 as well and rounded where they reach a half tensor.

    Args:
        apply: `graph.apply`.
        op: the op.
        inputs: tensors and plain values, at least one of them a half tensor.
    """
    to = next(d for d in map(_dtype_of, inputs) if d is not None and d.kind in FLOATING)
    wide = []
    for t in inputs:
        d = _dtype_of(t)
        wide.append(apply(Cast(_F32), t) if d is not None and is_half(d) else t)
    y = apply(op, *wide)
    if not is_half(to):
        return y
    if op.outputs > 1:
        return tuple(_rounded(apply, part, to) for part in y)
    return _rounded(apply, y, to)


def _dtype_of(value: Any) -> np.dtype[Any] | None:
    array = getattr(value, "_array", None)
    return None if array is None else array.dtype


def _rounded(apply: Callable[..., Any], t: Any, to: np.dtype[Any]) -> Any:
    return apply(Cast(to), t) if t._array.dtype == _F32 else t
