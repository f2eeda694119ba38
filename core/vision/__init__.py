"""Pictures: data sets, transforms and models, under torchvision's names."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from . import datasets, models, transforms, utils
    from .device_loader import DeviceLoader

__all__ = ["DeviceLoader", "datasets", "models", "transforms", "utils"]


def __getattr__(name: str) -> Any:
    """Import a part when it is first asked for: who needs transforms need not load networks."""
    if name == "DeviceLoader":
        return importlib.import_module(f"{__name__}.device_loader").DeviceLoader
    if name in __all__:
        return importlib.import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
