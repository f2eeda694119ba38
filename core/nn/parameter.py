"""Parameters and buffers under the name of `torch.nn.parameter`."""

from __future__ import annotations

from ..tensors import Parameter as Parameter
from .modules.buffer import Buffer as Buffer
from .modules.uninitialized import UninitializedBuffer as UninitializedBuffer
from .modules.uninitialized import UninitializedParameter as UninitializedParameter
from .modules.uninitialized import is_lazy as is_lazy

__all__ = ["Buffer", "Parameter", "UninitializedBuffer", "UninitializedParameter", "is_lazy"]
