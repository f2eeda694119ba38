"""What every kernel computes, in NumPy: functions of the kernels' names and arguments.

A twin gets host arrays (any shape; kernels see vectors in memory order, and so do twins) and
NumPy scalars, and writes what the kernel writes. Arithmetic is float32's, rounded once when stored.
"""

from __future__ import annotations

from collections.abc import Callable

from . import elementwise

TWINS: dict[str, Callable[..., None]] = {**elementwise.TWINS}
