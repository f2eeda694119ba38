"""Helpers around the engine; `allgrad.utils.data` feeds it with batches."""

from . import data

__all__ = ["data"]
