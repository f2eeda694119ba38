"""`allgrad.amp`: mixed precision. Weights stay float32, the heavy products run in fewer bits.

>>> import allgrad as ag
>>> layer = ag.nn.Linear(4, 2)
>>> with ag.autocast("cpu"):
...     y = layer(ag.ones(3, 4))
>>> y.dtype, layer.weight.dtype
(allgrad.bfloat16, allgrad.float32)
"""

from __future__ import annotations

from .autocast_mode import (
    autocast,
    clear_autocast_cache,
    get_autocast_cpu_dtype,
    get_autocast_dtype,
    is_autocast_available,
    is_autocast_cache_enabled,
    is_autocast_cpu_enabled,
    is_autocast_enabled,
    set_autocast_cache_enabled,
    set_autocast_dtype,
)
from .custom import custom_bwd, custom_fwd
from .grad_scaler import GradScaler

__all__ = [
    "GradScaler",
    "autocast",
    "clear_autocast_cache",
    "custom_bwd",
    "custom_fwd",
    "get_autocast_cpu_dtype",
    "get_autocast_dtype",
    "is_autocast_available",
    "is_autocast_cache_enabled",
    "is_autocast_cpu_enabled",
    "is_autocast_enabled",
    "set_autocast_cache_enabled",
    "set_autocast_dtype",
]
