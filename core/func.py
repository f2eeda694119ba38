"""Functions of functions and modules, under the name of `torch.func`. Imports nn."""

from __future__ import annotations

from .nn.utils.stateless import functional_call as functional_call

__all__ = ["functional_call"]
