"""`allgrad.backends`: what scripts may choose of the libraries' behaviour, under PyTorch's names.

These are settings of the whole process, read at every call. Imports the standard library alone.
"""

from __future__ import annotations

from . import cuda, cudnn

__all__ = ["cuda", "cudnn"]
