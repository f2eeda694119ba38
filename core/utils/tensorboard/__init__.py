"""Curves, pictures and texts for TensorBoard, under PyTorch's names.

The files are written by the package `tensorboard` itself, which is imported when the first writer
is made.
"""

from .writer import SummaryWriter

__all__ = ["SummaryWriter"]
