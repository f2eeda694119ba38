"""How each op is written in ONNX: one function per op, from a Step to the name of its output."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ...ops.base import Op
from . import elementwise, layers, shape

MAPPINGS: dict[type[Op], Callable[[Any], Any]] = {
    **elementwise.MAPPINGS,
    **layers.MAPPINGS,
    **shape.MAPPINGS,
}
