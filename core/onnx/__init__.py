"""ONNX: a trained network as a file that other runtimes execute.

Stands beside utils; may import nn, tensors, ops and below. The library `onnx` is imported when
something is exported.
"""

from .export import export

__all__ = ["export"]
