"""The Tensor and the functions on it. Imports: autograd, ops, backend, dtypes, random."""

from __future__ import annotations

from .tensor import Parameter, Size, Tensor, is_tensor

__all__ = ["Parameter", "Size", "Tensor", "is_tensor"]
