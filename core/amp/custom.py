"""Autocast for users' own `autograd.Function`: the precision of their forward and backward."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from .. import dtypes
from ..tensors import Tensor
from ..tensors.promote import cast
from .autocast_mode import autocast, get_autocast_dtype, is_autocast_enabled


def custom_fwd(
    fwd: Callable[..., Any] | None = None,
    *,
    device_type: str = "cpu",
    cast_inputs: dtypes.dtype | None = None,
) -> Any:
    """Decorate ``forward`` of an `autograd.Function` that may be called inside `autocast`.

    Args:
        fwd: the method.
        device_type: "cpu".
        cast_inputs: inside `autocast`, floating arguments are cast to this type first and the
            method runs with autocast off; None (default): it runs with autocast as it is.
    """
    if fwd is None:
        return functools.partial(custom_fwd, device_type=device_type, cast_inputs=cast_inputs)

    @functools.wraps(fwd)
    def forward(ctx: Any, *args: Any, **kwargs: Any) -> Any:
        on = is_autocast_enabled(device_type)
        ctx._autocast_dtype = get_autocast_dtype(device_type)
        ctx._autocast_on = on and cast_inputs is None
        if cast_inputs is None or not on:
            return fwd(ctx, *args, **kwargs)
        args = tuple(_in(cast_inputs, v) for v in args)
        kwargs = {key: _in(cast_inputs, v) for key, v in kwargs.items()}
        with autocast(device_type, enabled=False):
            return fwd(ctx, *args, **kwargs)

    return forward


def custom_bwd(bwd: Callable[..., Any] | None = None, *, device_type: str = "cpu") -> Any:
    """Decorate ``backward`` of a Function whose forward has `custom_fwd`.

    It runs with autocast as it was in forward.
    """
    if bwd is None:
        return functools.partial(custom_bwd, device_type=device_type)

    @functools.wraps(bwd)
    def backward(ctx: Any, *args: Any, **kwargs: Any) -> Any:
        with autocast(device_type, dtype=ctx._autocast_dtype, enabled=ctx._autocast_on):
            return bwd(ctx, *args, **kwargs)

    return backward


def _in(dtype: dtypes.dtype, value: Any) -> Any:
    """`value` in `dtype`, where it is or holds a floating tensor that is not float64."""
    if isinstance(value, Tensor):
        floating = value.is_floating_point() and value.dtype is not dtypes.float64
        return cast(value, dtype.numpy) if floating else value
    if isinstance(value, dict):
        return {key: _in(dtype, v) for key, v in value.items()}
    if isinstance(value, list | tuple):
        return type(value)([_in(dtype, v) for v in value])
    return value
