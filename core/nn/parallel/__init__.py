"""The names of ``torch.nn.parallel``; see `allgrad.distributed` about doors."""

from __future__ import annotations

import importlib
from typing import Any

from .data_parallel import DataParallel

__all__ = ["DataParallel", "DistributedDataParallel"]


def __getattr__(name: str) -> Any:
    if name == "DistributedDataParallel":
        return importlib.import_module("allgrad.ddp").DistributedDataParallel
    if name == "distributed":
        return importlib.import_module("allgrad.ddp.distributed")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
