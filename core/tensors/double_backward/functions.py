"""Tensor functions that rules share. All of them are recorded."""

from __future__ import annotations

from typing import Any

from ...backend.arrays import as_array
from .. import arithmetic
from ..tensor import Tensor

Axes = tuple[int, ...] | None


def sum_to(t: Any, shape: tuple[int, ...]) -> Any:
    """Undo broadcasting: sum `t` down to `shape`."""
    have = t._array.shape
    extra = len(have) - len(shape)
    axes = tuple(range(extra)) + tuple(
        i + extra for i, s in enumerate(shape) if s == 1 and have[i + extra] != 1
    )
    if axes:
        t = t.sum(axes, keepdim=True)
    return t if t._array.shape == shape else t.reshape(shape)


def widened(t: Any, shape: tuple[int, ...], axes: Axes, keepdim: bool) -> Any:
    """The result `t` of a reduction over `axes`, expanded to `shape`, what it was before."""
    if axes is None:
        kept = (1,) * len(shape)
    else:
        kept = tuple(1 if i in axes else n for i, n in enumerate(shape))
    if t._array.shape != kept:
        t = t.reshape(kept)
    return t.expand(shape)


def masked(t: Any, mask: Any) -> Any:
    """`t` where the array `mask` holds, else 0."""
    return arithmetic.where(Tensor(as_array(mask)), t, 0.0)


def times(t: Any, array: Any) -> Any:
    """`t` times a constant array, in the dtype of `t`."""
    return t * Tensor(as_array(array, t._array.dtype))


def conjugate(value: Any) -> Any:
    """The complex conjugate of a tensor or number; itself where it is real."""
    if isinstance(value, Tensor):
        return value.conj() if value._array.dtype.kind == "c" else value
    return value.conjugate() if isinstance(value, complex) else value


def real_part(t: Any) -> Any:
    """The real part of a complex tensor."""
    return t.real


def complex_too(rule: Any) -> Any:
    """Mark a rule as right for complex numbers too."""
    rule.complex_too = True
    return rule
