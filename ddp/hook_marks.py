"""What a communication hook says of itself, beside what it computes. Imports nothing of ddp."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

_Hook = TypeVar("_Hook", bound=Callable[..., Any])


def lets_replicas_differ(hook: _Hook) -> _Hook:
    """Mark a hook after which the ranks are meant to differ: they are not compared then."""
    vars(hook)["replicas_differ"] = True
    return hook


def do_replicas_differ(hook: Callable[..., Any]) -> bool:
    """Whether the hook is marked so."""
    return getattr(hook, "replicas_differ", False)
