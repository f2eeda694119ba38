"""The names of ``torch.distributed``: a door to `allgrad.ddp`, opened on first use.

    import allgrad.distributed as dist

This package, `allgrad.nn.parallel`, `allgrad.multiprocessing` and the default ranks of
`utils.data.DistributedSampler` are the only places where core names what lies above it, for scripts
that were written for PyTorch. Nothing is imported before a name is used.
"""

from __future__ import annotations

import importlib
from typing import Any

_SUBMODULES = ("algorithms", "elastic", "optim")


def __getattr__(name: str) -> Any:
    if name.startswith("__"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    if name in _SUBMODULES:
        return importlib.import_module(f"{__name__}.{name}")
    return getattr(importlib.import_module("allgrad.ddp"), name)


def __dir__() -> list[str]:
    return sorted({*_SUBMODULES, *importlib.import_module("allgrad.ddp").__all__})
