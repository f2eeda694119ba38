"""Helpers around the engine: `data` feeds it with batches, `checkpoint` saves memory."""

from . import checkpoint, data

__all__ = ["checkpoint", "data"]
