"""Arrays passed on unchanged, whose gradients somebody may see or replace."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..backend import Array
from .base import Op

Gradients = list[Array | None]


class Watch(Op):
    """One or more arrays, copied; `on_grads` sees all their gradients at once.

    They are copies, because an in-place change of the result must not reach the input: its history
    would not know.

    Args:
        count: number of arrays.
        on_grads: gradients (None for results that nobody used) -> gradients.
    """

    takes_half = True

    def __init__(self, count: int, on_grads: Callable[[Gradients], Gradients]) -> None:
        self.outputs = count  # one op class serves any number of results
        self.on_grads = on_grads

    def forward(self, *arrays: Array) -> Any:
        copies = tuple(a.copy(order="K") for a in arrays)
        return copies if self.outputs > 1 else copies[0]

    def backward(self, grad: Any) -> tuple[Array | None, ...]:
        grads = list(grad) if self.outputs > 1 else [grad]
        return tuple(self.on_grads(grads))
