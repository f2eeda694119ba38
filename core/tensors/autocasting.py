"""How functions behave inside `amp.autocast`: the casts of their arguments, and the cached weights.

May import: graph, promote, autograd.mode, dtypes. Source of the lists of functions: PyTorch manual,
"Automatic Mixed Precision", section "CPU Op-Specific Behavior".

Note [Autocast]
A function that runs in lower precision begins with ``if mode.autocast is not None: return
lowered(itself, its arguments)``, one look at a thread-local when autocast is off; others are
decorated with `lowers` or `widens`. The function proper then runs with autocast off, on arguments
that were cast: what it calls is not cast again. float64 and integers are left alone.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np

from ..autograd.mode import mode
from ..dtypes import FLOATING
from .graph import TensorBase
from .promote import cast

F = TypeVar("F", bound=Callable[..., Any])
_F32 = np.dtype(np.float32)


class Region:
    """One `autocast` block that is switched on.

    Args:
        dtype: the lower precision.
        cache: the weights' casts of the outermost block, shared by all within; None: no caching.
    """

    __slots__ = ("cache", "dtype")

    def __init__(self, dtype: np.dtype[Any], cache: dict[Any, Any] | None) -> None:
        self.dtype, self.cache = dtype, cache

    def lower(self, t: Any) -> Any:
        """`t` in lower precision. The cast of a trained float32 leaf is made once."""
        weight = t._node is None and t._requires_grad and t._base is None and mode.enabled
        if self.cache is None or not weight or t._array.dtype != _F32:
            return cast(t, self.dtype)
        key = (id(t), self.dtype)
        kept = self.cache.get(key)
        if kept is None or kept[0] is not t or kept[1] != t._version[0]:  # changed since
            kept = self.cache[key] = (t, t._version[0], cast(t, self.dtype))
        return kept[2]


def _mapped(change: Callable[[Any], Any], value: Any) -> Any:
    """`value` with `change` applied to its tensors that autocast concerns, in sequences too."""
    if isinstance(value, TensorBase):
        dtype = value._array.dtype
        return change(value) if dtype.kind in FLOATING and dtype.itemsize < 8 else value
    if type(value) in (tuple, list):
        return type(value)([_mapped(change, v) for v in value])
    return value


def _run(change: Callable[[Any], Any], function: Any, args: Any, kwargs: Any) -> Any:
    region = mode.autocast
    changed: dict[int, Any] = {}

    def once(t: Any) -> Any:  # one tensor given twice stays one tensor
        if id(t) not in changed:
            changed[id(t)] = change(t)
        return changed[id(t)]

    try:
        args = [_mapped(once, v) for v in args]
        kwargs = {key: _mapped(once, v) for key, v in kwargs.items()}
        mode.autocast = None
        return function(*args, **kwargs)
    finally:
        mode.autocast = region


def lowered(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """``function(...)`` on arguments in the region's lower precision. See Note [Autocast]."""
    return _run(mode.autocast.lower, function, args, kwargs)


def lowers(function: F) -> F:
    """Decorate a function that autocast runs in lower precision."""

    @functools.wraps(function)
    def casting(*args: Any, **kwargs: Any) -> Any:
        if mode.autocast is None:
            return function(*args, **kwargs)
        return _run(mode.autocast.lower, function, args, kwargs)

    return casting  # type: ignore[return-value]  # same signature by functools.wraps


def widens(function: F) -> F:
    """Decorate a function that autocast runs in float32: a loss, a long product."""

    @functools.wraps(function)
    def casting(*args: Any, **kwargs: Any) -> Any:
        if mode.autocast is None:
            return function(*args, **kwargs)
        return _run(_to_float32, function, args, kwargs)

    return casting  # type: ignore[return-value]


def keeps(function: F) -> F:
    """Decorate a function that autocast leaves in the types it is given, made of others or not."""

    @functools.wraps(function)
    def plain(*args: Any, **kwargs: Any) -> Any:
        if mode.autocast is None:
            return function(*args, **kwargs)
        return _run(_unchanged, function, args, kwargs)

    return plain  # type: ignore[return-value]


def _unchanged(t: Any) -> Any:
    return t


def _to_float32(t: Any) -> Any:
    return cast(t, _F32)
