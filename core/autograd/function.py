"""`allgrad.autograd.function`: users' own differentiable functions. See `tensors/function.py`."""

from __future__ import annotations

from ..tensors.function import Function, FunctionCtx, once_differentiable

__all__ = ["Function", "FunctionCtx", "once_differentiable"]
