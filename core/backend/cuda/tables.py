"""Tables in device memory of where many tensors are, for kernels that serve all in one launch.

`kernels/tensors.cuh` says what the words are. A table is uploaded when it is new and kept while
addresses stay, which they do from step to step: memory that is given back is handed out again.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import Any, NamedTuple

import cupy
import numpy as np

from ...errors import Unsupported
from ..arrays import address_of
from ..layout import memory_order, same_memory_order
from ..protocol import Array
from . import device
from .base import element_type

ROW = 10  # words of a row
CHUNK = 8192  # elements of a chunk
ADAPTS = 256
_KEPT = 64  # tables
_TYPES = {"f4": 4, "f2": 2, "b2": 3}


class Table(NamedTuple):
    """A table on the device.

    Attributes:
        array: its words.
        tensors: how many rows.
        chunks: how many blocks.
    """

    array: Array
    tensors: int
    chunks: int


class Row(NamedTuple):
    """One tensor: dense arrays of one shape, type and memory order.

    Attributes:
        param: what is stepped; None where gradients alone matter.
        grad: its gradient.
        states: up to three, None where there is none.
        copy: a float16 or bfloat16 array that gets the parameter, too.
        steps: where its steps are counted.
        adapts: whether its rate depends on its norm.
    """

    param: Array | None
    grad: Array
    states: tuple[Array | None, ...] = ()
    copy: Array | None = None
    steps: Array | None = None
    adapts: bool = False


_tables: OrderedDict[tuple[int, bytes], Table] = OrderedDict()
# Tables have memory apart: one among the gradients would move those of the next step, which would
# need another table, and so on.
_pool = cupy.cuda.MemoryPool()


def table_of(rows: Sequence[Row], index: int) -> Table:
    """The table of `rows` on the current device, whose number is `index`."""
    words, chunks = _words(rows)
    table = Table(words, len(rows), chunks)
    if device.capturing():
        return _filled_later(table)
    key = (index, words.tobytes())
    found = _tables.get(key)
    if found is None:
        with cupy.cuda.using_allocator(_pool.malloc):
            found = _tables[key] = table._replace(array=cupy.asarray(words))
        while len(_tables) > _KEPT:
            _tables.popitem(last=False)
    else:
        _tables.move_to_end(key)
    return found


def _filled_later(table: Table) -> Table:
    """A table for a graph: what it reads cannot be uploaded inside of the capture."""
    words, array = table.array, device.lasting(table.array.shape, np.uint64)
    state = {"filled": False}

    def fill() -> None:
        if not state["filled"]:
            array.set(words, stream=device.stream())
            state["filled"] = True

    device.keep(array)
    device.on_replay(fill)
    return table._replace(array=array)


def _words(rows: Sequence[Row]) -> tuple[np.ndarray, int]:
    """(the words of the table, how many chunks)."""
    listed, first = [], 0
    for row in rows:
        states = [*row.states, None, None, None][:3]
        arrays = (row.param, row.grad, *states, row.copy, row.steps)
        kind = _TYPES[element_type(row.grad)] + (ADAPTS if row.adapts else 0)
        if row.copy is not None:
            kind += _TYPES[element_type(row.copy)] * 16
        size = row.grad.size
        arrays = arrays if size else (None,) * 6 + (row.steps,)
        listed.append([*(0 if a is None else address_of(a) for a in arrays), size, first, kind])
        first += -(-size // CHUNK)
    words = np.array(listed, np.uint64).reshape(-1)
    counts = [-(-row.grad.size // CHUNK) for row in rows]
    tensors = np.repeat(np.arange(len(rows), dtype=np.uint64), counts)
    starts = np.repeat(np.cumsum(counts) - counts, counts).astype(np.uint64)
    chunks = (tensors << np.uint64(32)) | (np.arange(first, dtype=np.uint64) - starts)
    return np.concatenate([words, chunks]), first


def checked(*arrays: Array | None) -> None:
    """Raise Unsupported unless all are dense, of one type that kernels serve and one order."""
    element_type(*arrays)
    found = [a for a in arrays if a is not None]
    head = found[0]
    if memory_order(head.shape, head.strides, head.itemsize) is None:
        raise Unsupported(f"an array of shape {head.shape} with strides {head.strides}")
    for array in found[1:]:
        if not same_memory_order(head.shape, array.strides, head.strides):
            raise Unsupported(f"strides {array.strides} beside {head.strides}")


def by_type(arrays: Sequence[Array]) -> list[list[Array]]:
    """Arrays of kernels' types by their type, dense ones alone.

    Raises:
        Unsupported: another type, or an array with gaps.
    """
    found: dict[Any, list[Array]] = {}
    for array in arrays:
        if array.size:
            checked(array)
            found.setdefault(array.dtype, []).append(array)
    return list(found.values())
