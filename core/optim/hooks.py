"""The hook tables of one optimizer."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Any

from ..tensors.gradients import RemovableHandle

Table = OrderedDict[int, Callable[..., Any]]


class HookTable:
    """Hooks by the moment at which they are called, in the order of registration."""

    def __init__(self) -> None:
        self.step_pre: Table = OrderedDict()
        self.step_post: Table = OrderedDict()
        self.state_dict_pre: Table = OrderedDict()
        self.state_dict_post: Table = OrderedDict()
        self.load_pre: Table = OrderedDict()
        self.load_post: Table = OrderedDict()

    @property
    def around_step(self) -> bool:
        """Whether `step` has anything to call."""
        return bool(self.step_pre or self.step_post)

    @staticmethod
    def add(table: Table, hook: Callable[..., Any], prepend: bool = False) -> RemovableHandle:
        """Register `hook` at the end of `table`, or at its beginning."""
        handle = RemovableHandle(table, hook)
        if prepend:
            table.move_to_end(handle.id, last=False)
        return handle
