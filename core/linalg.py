"""`allgrad.linalg`: linear algebra under the names of `torch.linalg`; see `tensors/linalg.py`."""

from __future__ import annotations

from .tensors.linalg import *  # noqa: F403 - the module lists its names in __all__
from .tensors.linalg import __all__ as __all__
