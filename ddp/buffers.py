"""Buffers of the model (running statistics) follow one rank, or become the mean over the ranks.

Stage of the flow: beside `reducer`, which calls this at the end of backward. May import: `plan`,
`samples`, `communicators.base`, `communicators.gpu`, `allgrad`.

Note [When buffers follow]
    PyTorch broadcasts rank 0's buffers at the start of every forward. The ranks then wait for each
    other once more per step, and a forward in eval mode on rank 0 alone hangs. Here the broadcast
    is issued at the end of every synchronised backward, when the ranks have just met anyway. Train
    mode never reads running statistics, so the values after each step are the same as PyTorch's,
    and in addition all ranks may save or evaluate between steps, alone or together.
"""

from __future__ import annotations

import numpy as np

from allgrad import Tensor
from allgrad.backend import arrays
from allgrad.ddp.communicators.base import Array, Communicator, ReduceOp, Work
from allgrad.ddp.communicators.gpu import zeros_beside
from allgrad.ddp.plan import aligned
from allgrad.ddp.samples import scale
from allgrad.dtypes import DIFFERENTIABLE
from allgrad.errors import DistributedError
from allgrad.nn import Module
from allgrad.tensors import graph


class BufferSync:
    """All buffers of a module in one flat piece of memory that travels as one; on a GPU another.

    Args:
        communicator: of the ranks that hold the same module.
        module: its buffers are moved into the flat memory; values stay.
        average: whether floating-point buffers become the mean over the ranks, weighted as
            gradients are; otherwise, and all others, they follow the lowest rank that steps.
    """

    def __init__(self, communicator: Communicator, module: Module, average: bool = False) -> None:
        self._communicator, self._root = communicator, 0
        graph.compute_all()
        found: dict[int | None, list[tuple[Module, str]]] = {}  # by where they lie
        for owner, name in _distinct_buffers(module):
            place = arrays.index_of(_buffer(owner, name)._array)
            found.setdefault(place, []).append((owner, name))
        self._flats = [_Flat(communicator, those, average) for those in found.values()]

    @staticmethod
    def count(module: Module) -> int:
        """Number of buffers that would travel."""
        return len(_distinct_buffers(module))

    def start(self, root: int = 0, factor: float = 1.0) -> list[Work]:
        """Issue the collectives.

        Args:
            root: whose values are taken where nothing is averaged.
            factor: what this rank's values are multiplied by before the plain mean.
        """
        self._root = root
        return [work for flat in self._flats for work in flat.start(root, factor)]

    def finish(self) -> None:
        """The values have arrived: make them the buffers' own."""
        for flat in self._flats:
            if self._communicator.rank != self._root or flat.averaged:
                flat.finish()


class _Flat:
    """Buffers that lie in main memory, or on one GPU, as one piece of memory.

    Attributes:
        memory: of all of them.
        averaged: the parts of it that become means, one for each dtype.
    """

    def __init__(
        self, communicator: Communicator, found: list[tuple[Module, str]], average: bool
    ) -> None:
        if average:  # those of one dtype side by side
            found.sort(key=lambda at: str(_averaged_dtype(_buffer(*at))))
        sizes = [aligned(_buffer(owner, name)._array.nbytes) for owner, name in found]
        first_array = _buffer(*found[0])._array
        self._communicator = communicator.of(first_array)
        self.memory: Array = zeros_beside(communicator, first_array, sum(sizes))
        self._entries: list[tuple[Module, str, Array]] = []
        ends: dict[np.dtype | None, tuple[int, int]] = {}  # by dtype that is averaged, or None
        start = 0
        for (owner, name), size in zip(found, sizes, strict=True):
            tensor = _buffer(owner, name)
            array = tensor._array
            view = self.memory[start : start + array.nbytes].view(array.dtype).reshape(array.shape)
            view[...] = array
            # in-place updates of the buffer now happen in the flat memory
            tensor._array = view
            self._entries.append((owner, name, view))
            kind = _averaged_dtype(tensor) if average else None
            ends[kind] = (ends.get(kind, (start, 0))[0], start + size)
            start += size
        first, last = ends.pop(None, (0, 0))
        self._followed = self.memory[first:last]
        self.averaged = [self.memory[a:b].view(kind) for kind, (a, b) in ends.items() if kind]

    def collect(self) -> None:
        """Bring values that were replaced, not updated in place, into the flat memory."""
        for owner, name, view in self._entries:
            array = _buffer(owner, name)._array
            if array is not view:
                view[...] = array

    def start(self, root: int, factor: float) -> list[Work]:
        """See `BufferSync.start`."""
        self.collect()
        works = []
        if self._followed.size:
            works.append(self._communicator.broadcast(self._followed, root, async_op=True))
        for values in self.averaged:
            if factor != 1.0:
                scale(values, factor)
            works.append(self._communicator.all_reduce(values, ReduceOp.AVG, async_op=True))
        return works

    def finish(self) -> None:
        """Make the values of the flat memory the buffers' own."""
        for owner, name, view in self._entries:
            tensor = _buffer(owner, name)
            if tensor._array is not view:
                tensor._array[...] = view
            tensor._bump_version()

    def put(self, values: Array) -> None:
        """Take values as `collect` left them, without a new version: they have not changed."""
        self.memory[...] = values
        for owner, name, view in self._entries:
            array = _buffer(owner, name)._array
            if array is not view:
                array[...] = view


def _averaged_dtype(tensor: Tensor) -> np.dtype | None:
    """The dtype whose mean can be taken, or None for integers and booleans."""
    dtype = tensor._array.dtype
    return dtype if dtype.kind in DIFFERENTIABLE else None


def _buffer(owner: Module, name: str) -> Tensor:
    """The tensor that is registered under the name now; the user may have replaced it."""
    tensor = owner._buffers[name]
    if tensor is None:
        raise DistributedError(
            f"buffer {name!r} of {type(owner).__name__} was set to None after the module was "
            "wrapped; pass broadcast_buffers=False to DistributedDataParallel"
        )
    return tensor


def _distinct_buffers(module: Module) -> list[tuple[Module, str]]:
    """(owner, name) of every buffer, once each, in the module's order."""
    seen: set[int] = set()
    found: list[tuple[Module, str]] = []
    for _, owner in module.named_modules():
        for name, value in owner._buffers.items():
            if isinstance(value, Tensor) and id(value) not in seen:
                seen.add(id(value))
                found.append((owner, name))
    return found
