"""Kernels on float16 and bfloat16 arrays by way of float32: widen, compute, round once.

See Note [Half precision] in `dtypes.py`. May import: dtypes, NumPy.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

import numpy as np

from ..dtypes import is_half
from .arrays import device_classes, is_array
from .protocol import Backend

B = TypeVar("B", bound=type)
K = TypeVar("K", bound=Callable[..., Any])


def among(values: Iterable[Any]) -> bool:
    """Whether one of `values` is a half array."""
    for v in values:  # not any(), and no function for each: this runs in every kernel
        kind = type(v)
        if (
            (kind is np.ndarray or kind in device_classes or isinstance(v, np.ndarray))
            and v.itemsize == 2
            and is_half(v.dtype)
        ):
            return True
    return False


def in_float32(kernel: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Run `kernel` on float32 copies of its half arrays; `args` has at least one.

    The result, of several the first, is rounded to the type of the first half array; the others
    are statistics or gradients of parameters, which the engine casts. What the kernel changed in
    place, all of its arguments if it returns nothing, is written back.
    """
    copies: list[tuple[np.ndarray, np.ndarray]] = []

    def widened(value: Any) -> Any:
        if not is_array(value) or not is_half(value.dtype):
            return value
        copies.append((value, value.astype(np.float32)))
        return copies[-1][1]

    wide = [widened(v) for v in args]
    result = kernel(*wide, **{key: widened(v) for key, v in kwargs.items()})
    if result is None:
        for original, copy in copies:
            if getattr(original.flags, "writeable", True):  # a GPU's memory always is
                original[...] = copy
        return None
    if isinstance(result, tuple):
        return (_narrowed(result[0], copies), *result[1:])
    return _narrowed(result, copies)


def _narrowed(result: Any, copies: list[tuple[np.ndarray, np.ndarray]]) -> Any:
    for original, copy in copies:
        if result is copy:  # it was an argument to be filled
            original[...] = copy
            return original
    if is_array(result) and result.dtype == np.float32:
        return result.astype(copies[0][0].dtype)
    return result


def serves_halves(kernel: K) -> K:
    """Mark a kernel that takes halves by itself, so that `served` leaves it as it is."""
    kernel.serves_halves = True  # type: ignore[attr-defined]  # functions have no declared fields
    return kernel


def served(backend: B) -> B:
    """Class decorator: let every kernel that does not serve halves by itself do so in float32."""
    declared = [name for base in Backend.__mro__ for name, v in vars(base).items() if callable(v)]
    for name in declared:
        method = getattr(backend, name, None)
        if callable(method) and name[0] != "_" and not hasattr(method, "serves_halves"):
            setattr(backend, name, _by_float32(method))
    return backend


def _by_float32(method: Callable[..., Any]) -> Callable[..., Any]:
    @serves_halves
    @functools.wraps(method)
    def kernel(self: Any, *args: Any, **kwargs: Any) -> Any:
        if among(args):
            return in_float32(functools.partial(method, self), args, kwargs)
        return method(self, *args, **kwargs)

    return kernel
