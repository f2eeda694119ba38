"""Networks: modules, functions, initialisation. Imports: tensors, ops, autograd."""

from __future__ import annotations

from ..tensors import Parameter
from . import functional, init, modules, parameter, utils
from .modules import *  # noqa: F403 - the package lists its names in __all__

__all__ = ["Parameter", "functional", "init", "modules", "parameter", "utils"]
