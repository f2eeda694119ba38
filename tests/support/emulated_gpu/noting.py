"""`device.run` while a stream captures: results get their places, the work is noted.

Functions are tried on zeros of the arguments' shapes, so that nothing happens to memory.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from support.emulated_gpu import captures
from support.emulated_gpu.device import extent, like, of, only_read
from support.emulated_gpu.state import LOCK


def noted(
    stream: Any,
    what: str,
    function: Callable[..., Any],
    given: tuple[list[Any], dict[str, Any]],
    arrays: Sequence[Any],
    writes: Sequence[Any],
    out: Any,
) -> Any:
    """`run` during a capture: tried on zeros, for its results' shapes, and noted."""
    name, module = (getattr(function, a, "") for a in ("__name__", "__module__"))
    refused = captures.why_not(name, module, given[0])
    if refused is not None:
        raise refused
    shadows: dict[int, np.ndarray] = {}
    places: dict[int, np.ndarray] = {}
    for array in arrays:
        host = array._host
        chunk, start, end = extent(array)
        base = np.zeros(max(end - start, 1), np.uint8)
        ptr = host.__array_interface__["data"][0]
        shadows[id(host)] = np.ndarray(host.shape, host.dtype, base.data, ptr - start, host.strides)
        places[id(host)] = chunk.view(ptr, host.shape, host.dtype, host.strides)
    with np.errstate(all="ignore"):
        result = function(*_replaced(given[0], shadows), **_replaced(given[1], shadows))
    fresh: list[Any] = []
    indices: list[int] = []
    value = _shaped(result, arrays, shadows, fresh, indices) if out is None else out
    if not fresh and not writes:
        return value
    targets = [_unkept(f) for f in fresh]
    args, named = _replaced(given[0], places), _replaced(given[1], places)

    def again() -> None:
        with np.errstate(all="ignore"):
            results = _flat(function(*args, **named))
        for index, target in zip(indices, targets, strict=True):
            target[...] = results[index]

    with LOCK:
        written = [extent(a) for a in (*writes, *fresh)]
        stream.capture.note(stream, what, again, only_read(arrays, writes), written)
    return value


def _unkept(array: Any) -> np.ndarray:
    host = array._host
    ptr = host.__array_interface__["data"][0]
    view: np.ndarray = array._memory.chunk.view(ptr, host.shape, host.dtype, host.strides)
    return view


def _replaced(value: Any, table: dict[int, np.ndarray]) -> Any:
    """Arguments with other arrays in the places of some."""
    if isinstance(value, np.ndarray):
        return table.get(id(value), value)
    if type(value) in (tuple, list):
        return type(value)([_replaced(v, table) for v in value])
    if type(value) is dict:
        return {k: _replaced(v, table) for k, v in value.items()}
    return value


def _flat(value: Any) -> list[Any]:
    if isinstance(value, tuple | list):
        return [f for v in value for f in _flat(v)]
    return [value]


def _shaped(
    result: Any,
    arrays: Sequence[Any],
    shadows: dict[int, np.ndarray],
    fresh: list[Any],
    indices: list[int],
) -> Any:
    """Device arrays like results on shadows: views of the real ones, or new ones."""
    made = []
    for index, each in enumerate(_flat(result)):
        value = each
        if isinstance(each, np.ndarray | np.generic):
            value = _view_of(each, arrays, shadows) if isinstance(each, np.ndarray) else None
            if value is None:
                value = like(np.asarray(each))
                fresh.append(value)
                indices.append(index)
        made.append(value)
    return type(result)(made) if isinstance(result, tuple | list) else made[0]


def _view_of(result: np.ndarray, arrays: Sequence[Any], shadows: dict[int, np.ndarray]) -> Any:
    """The view of a real array that a view of its shadow stands for; None if it is none."""
    if result.base is None and not any(result is s for s in shadows.values()):
        return None
    for array in arrays:
        shadow = shadows[id(array._host)]
        if np.may_share_memory(shadow, result):
            step = result.__array_interface__["data"][0] - shadow.__array_interface__["data"][0]
            offset = array._host.__array_interface__["data"][0] + step - array._memory.ptr
            host = np.ndarray(result.shape, result.dtype, array._memory, offset, result.strides)
            return of(host, array._memory)
    return None
