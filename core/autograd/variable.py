"""`Variable`, the old name of a tensor that can be differentiated."""

from __future__ import annotations

from typing import Any

from ..errors import GradientError
from ..tensors import Tensor


class _IsTensor(type):
    def __instancecheck__(cls, value: Any) -> bool:
        return isinstance(value, Tensor)


class Variable(metaclass=_IsTensor):
    """Old code writes ``Variable(t)`` for a tensor `t`; every tensor is one today.

    Args:
        data: a tensor; the result shares its memory and is a leaf.
        requires_grad: whether backward shall compute its gradient.
        volatile: not supported; use `no_grad`.
    """

    def __new__(  # type: ignore[misc]  # it makes tensors
        cls, data: Tensor, requires_grad: bool = False, volatile: Any = None
    ) -> Tensor:
        if volatile:
            raise GradientError("Variable: volatile=True was removed from PyTorch; use no_grad()")
        if not isinstance(data, Tensor):
            raise TypeError(f"Variable: expected a tensor, came {type(data).__name__}")
        return data.detach().requires_grad_(requires_grad)
