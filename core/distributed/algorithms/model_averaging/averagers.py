"""PyTorch's name: a door to `allgrad.ddp.model_averaging`."""

from __future__ import annotations

import importlib
from typing import Any


def __getattr__(name: str) -> Any:
    if name.startswith("__"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module("allgrad.ddp.model_averaging"), name)
