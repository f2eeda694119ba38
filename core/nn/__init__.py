"""Networks: modules, functions, initialisation. Imports: tensors, ops, autograd."""

from __future__ import annotations

import importlib
from typing import Any

from ..tensors import Parameter
from . import functional, init, modules, parameter, utils
from .modules import *  # noqa: F403 - the package lists its names in __all__

__all__ = ["Parameter", "functional", "init", "modules", "parameter", "utils"]


def __getattr__(name: str) -> Any:
    # needed by scripts of several ranks only; see `allgrad.distributed` about doors
    if name == "parallel":
        return importlib.import_module(f"{__name__}.parallel")
    if name == "DataParallel":
        return importlib.import_module(f"{__name__}.parallel").DataParallel
    if name == "SyncBatchNorm":
        return importlib.import_module("allgrad.ddp.sync_batchnorm").SyncBatchNorm
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
