"""Which layer an event belongs to: hooks on the top-level layers, names for the parameters.

May import: `allgrad`. The wrapper calls `watch` in its first forward under a timeline. The hooks
stay, and cost one look where nothing is recorded.

An output of ours may be computed only when someone looks at it, so a layer's bar may be short and
the next one's long.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from allgrad.nn import Module
from allgrad.timeline import Timeline, active


def top_layers(module: Module) -> list[tuple[str, Module]]:
    """The children of the module, or of the only child that has several.

    Example:
        >>> from allgrad import nn
        >>> [name for name, _ in top_layers(nn.Sequential(nn.Linear(2, 2), nn.ReLU()))]
        ['0', '1']
        >>> net = nn.Module()
        >>> net.body = nn.Sequential(nn.Linear(2, 2), nn.ReLU())
        >>> [name for name, _ in top_layers(net)]
        ['body.0', 'body.1']
    """
    prefix = ""
    children = list(module.named_children())
    while len(children) == 1 and list(children[0][1].named_children()):
        prefix += children[0][0] + "."
        children = list(children[0][1].named_children())
    return [(prefix + name, child) for name, child in children]


def watch(module: Module, timeline: Timeline) -> None:
    """Let the module's parameters be named and its top-level layers show on timelines."""
    timeline.names.update({id(p): name for name, p in module.named_parameters()})
    if getattr(module, "_watched_by_timeline", False):
        return
    object.__setattr__(module, "_watched_by_timeline", True)
    for name, child in top_layers(module):
        _Layer(name, child)


def timed_forward(
    call: Callable[..., Any], module: Module, timeline: Timeline, args: Any, kwargs: Any
) -> Any:
    """Call what calls the module, with an event for all of it and one per top-level layer."""
    watch(module, timeline)
    begin = timeline.begin("forward")
    try:
        return call(*args, **kwargs)
    finally:
        timeline.end(begin, "forward", "forward", buffer_bytes=_buffer_bytes(module))


def _buffer_bytes(module: Module) -> int:
    """Of all buffers, each rounded up to a cache line, as they travel."""
    return sum(-(-buffer._array.nbytes // 64) * 64 for buffer in module.buffers())


class _Layer:
    """The hooks of one layer."""

    def __init__(self, name: str, module: Module) -> None:
        self._name = f"{name} ({type(module).__name__})"
        self._begun: list[float] = []  # a layer may be called inside itself
        module.register_forward_pre_hook(self._before)
        module.register_forward_hook(self._after, always_call=True)

    def _before(self, *_: Any) -> None:
        timeline = active()
        if timeline is not None:
            self._begun.append(timeline.begin(self._name))

    def _after(self, *_: Any) -> None:
        timeline = active()
        if timeline is not None and self._begun:
            timeline.end(self._begun.pop(), self._name, "layer")
