"""Rows of interpolation, unpooling and other resampling, and of the hooks' node."""

from __future__ import annotations

from support.inputs import normal
from support.op_table import row


def _hooks():
    def hooked(lib, F, x):
        layer = lib.nn.Identity()
        layer.register_full_backward_hook(lambda module, grad_input, grad_output: None)
        return layer(x)

    yield row("backward_hook", "Watch", hooked, normal(3, 4))


ROWS = [*_hooks()]
