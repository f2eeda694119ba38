"""What the twins share."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ....protocol import Array


def wide(x: Array) -> Array:
    """x in float32."""
    return np.asarray(x, np.float32)


def named(*functions: Callable[..., None]) -> dict[str, Callable[..., None]]:
    """The functions by their names."""
    return {f.__name__: f for f in functions}
