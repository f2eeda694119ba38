"""A copy of a state in memory, so that it can be written while the training goes on.

Imports tensors and below.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ..backend.arrays import address_of, on_device, to_host
from ..tensors import Tensor


class Snapshot:
    """Copies nests of dicts, lists, tuples, tensors and arrays into memory that it uses again.

    The first `take` pays for fresh memory (the kernel zeroes each page); later ones copy into the
    arrays of the one before, where shape and dtype are the same. So what `take` returned is valid
    until the next `take`.

    >>> import allgrad as ag
    >>> snapshot, weight = Snapshot(), ag.ones(2)
    >>> copy = snapshot.take({"model": {"weight": weight}})
    >>> _ = weight.zero_()
    >>> copy
    {'model': {'weight': tensor([1., 1.])}}
    """

    def __init__(self) -> None:
        self._memory: dict[tuple[Any, ...], np.ndarray] = {}

    def take(self, state: Any) -> Any:
        """Return `state` with every tensor and array replaced by a copy.

        What shares memory exactly (tied weights) shares it in the copy.
        """
        used: dict[tuple[Any, ...], np.ndarray] = {}
        copies: dict[tuple[Any, ...], np.ndarray] = {}

        def copy(array: np.ndarray, place: tuple[Any, ...]) -> np.ndarray:
            key = (address_of(array), array.shape, array.strides, array.dtype)
            if array.size and key in copies:
                return copies[key]
            memory = self._memory.get(place)
            if on_device(array):
                memory = to_host(array)
            else:
                if memory is None or (memory.shape, memory.dtype) != (array.shape, array.dtype):
                    memory = np.empty(array.shape, array.dtype)
                np.copyto(memory, array)
            used[place] = copies[key] = memory
            return memory

        def walk(node: Any, place: tuple[Any, ...]) -> Any:
            if isinstance(node, Tensor):
                return Tensor(copy(node.detach()._canonical(), place))
            if isinstance(node, np.ndarray):
                return copy(node, place)
            if isinstance(node, dict):
                return {key: walk(value, (*place, key)) for key, value in node.items()}
            if isinstance(node, list | tuple):
                items = [walk(value, (*place, i)) for i, value in enumerate(node)]
                return items if isinstance(node, list) else tuple(items)
            return node  # numbers and strings never change

        result = walk(state, ())
        self._memory = used
        return result
