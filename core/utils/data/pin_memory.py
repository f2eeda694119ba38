"""Batches in pinned memory, from which a GPU copies while the host goes on.

Stage: behind collating, in the process that trains. May import: devices, tensors.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ...devices import can_pin
from ...tensors import Tensor


def pinned(data: Any) -> Any:
    """The same structure with its tensors in pinned memory.

    Objects of other classes are asked by their method `pin_memory` where they have one, and are
    left as they are otherwise. As in PyTorch, tuples become lists.
    """
    if isinstance(data, Tensor):
        return data.pin_memory()
    if isinstance(data, str | bytes):
        return data
    if hasattr(data, "pin_memory"):
        return data.pin_memory()
    if isinstance(data, Mapping):
        return _rebuilt(data, {k: pinned(v) for k, v in data.items()})
    if isinstance(data, tuple):
        parts = [pinned(v) for v in data]
        return type(data)(*parts) if hasattr(data, "_fields") else parts
    if isinstance(data, Sequence):
        return _rebuilt(data, [pinned(v) for v in data])
    return data


def _rebuilt(data: Any, parts: Any) -> Any:
    try:
        return type(data)(parts)
    except TypeError:  # a class that is built from something else
        return parts


def pinned_batches(source: Any, wanted: bool) -> Iterator[tuple[Any, Any]]:
    """(task, batch) with pinned batches, where that is wanted and a GPU can be used.

    Args:
        source: a generator of pairs; is closed with this one.
        wanted: what the user said.
    """
    if not wanted or not can_pin():
        found: Iterator[tuple[Any, Any]] = source
        return found
    return _pinned(source)


def _pinned(source: Any) -> Iterator[tuple[Any, Any]]:
    try:
        for task, batch in source:
            yield task, pinned(batch)
    finally:
        source.close()
