"""Kernels of a CUDA device: cuDNN, cuBLAS or our own where they serve, else the reference on CuPy.

One family of kernels per file; what they share is in `base.py`.
"""

from __future__ import annotations

from .. import half
from .base import CudaBase


@half.served
class CudaBackend(CudaBase):
    """The backend protocol on CuPy arrays; one instance per thread and device."""
