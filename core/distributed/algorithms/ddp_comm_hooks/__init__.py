"""The names of ``torch.distributed.algorithms.ddp_comm_hooks``, as submodules."""

from __future__ import annotations

from . import debugging_hooks, default_hooks, post_localSGD_hook, powerSGD_hook

__all__ = ["debugging_hooks", "default_hooks", "post_localSGD_hook", "powerSGD_hook"]
