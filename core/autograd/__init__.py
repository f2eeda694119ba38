"""Recording of operations and the backward pass. Imports: ops.base, errors."""

from __future__ import annotations

import importlib
from typing import Any

from .engine import queue_callback
from .mode import enable_grad, is_grad_enabled, no_grad, set_grad_enabled

__all__ = ["enable_grad", "is_grad_enabled", "no_grad", "queue_callback", "set_grad_enabled"]


def __getattr__(name: str) -> Any:
    # These two speak of tensors, which are built on this package.
    if name in ("backward", "grad"):
        return getattr(importlib.import_module("allgrad.tensors.differentiate"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
