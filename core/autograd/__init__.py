"""Recording of operations and the backward pass. Imports: ops.base, errors."""

from __future__ import annotations

import importlib
from typing import Any

from .anomaly_mode import (
    detect_anomaly,
    is_anomaly_check_nan_enabled,
    is_anomaly_enabled,
    set_detect_anomaly,
)
from .engine import call_after_nodes, queue_callback
from .mode import (
    enable_grad,
    inference_mode,
    is_grad_enabled,
    is_inference_mode_enabled,
    no_grad,
    set_grad_enabled,
)

__all__ = [
    "call_after_nodes",
    "detect_anomaly",
    "enable_grad",
    "inference_mode",
    "is_anomaly_check_nan_enabled",
    "is_anomaly_enabled",
    "is_grad_enabled",
    "is_inference_mode_enabled",
    "no_grad",
    "queue_callback",
    "set_detect_anomaly",
    "set_grad_enabled",
]

# These speak of tensors, which are built on this package; imported on first use.
_MODULES = ("function", "functional", "grad_mode", "variable")
_FROM = {
    "Function": "allgrad.autograd.function",
    "Variable": "allgrad.autograd.variable",
    "backward": "allgrad.tensors.differentiate",
    "grad": "allgrad.tensors.differentiate",
    "gradcheck": "allgrad.autograd.numerical",
    "gradgradcheck": "allgrad.autograd.numerical",
}


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return importlib.import_module(f"{__name__}.{name}")
    if name in _FROM:
        return getattr(importlib.import_module(_FROM[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
