"""Buffers of the model (running statistics) follow rank 0: one broadcast, no gathering.

Stage of the flow: beside `reducer`, which calls this at the end of backward. May import: `plan`,
`communicators.base`, `allgrad`.

Note [When buffers follow]
    PyTorch broadcasts rank 0's buffers at the start of every forward. The ranks then wait for each
    other once more per step, and a forward in eval mode on rank 0 alone hangs. Here the broadcast
    is issued at the end of every synchronised backward, when the ranks have just met anyway. Train
    mode never reads running statistics, so the values after each step are the same as PyTorch's,
    and in addition all ranks may save or evaluate between steps, alone or together.
"""

from __future__ import annotations

from allgrad import Tensor
from allgrad.ddp.communicators.base import Array, Communicator, Work, aligned_zeros
from allgrad.ddp.plan import aligned
from allgrad.errors import DistributedError
from allgrad.nn import Module
from allgrad.tensors import graph


class BufferSync:
    """All buffers of a module in one flat piece of memory that travels as one.

    Args:
        communicator: whose rank 0 is followed.
        module: its buffers are moved into the flat memory; values stay.
    """

    def __init__(self, communicator: Communicator, module: Module) -> None:
        self._communicator, self._root = communicator, 0
        found = _distinct_buffers(module)
        sizes = [aligned(_buffer(owner, name)._array.nbytes) for owner, name in found]
        self._flat = aligned_zeros(sum(sizes))
        self._entries: list[tuple[Module, str, Array]] = []
        start = 0
        graph.compute_all()
        for (owner, name), size in zip(found, sizes, strict=True):
            tensor = _buffer(owner, name)
            array = tensor._array
            view = self._flat[start : start + array.nbytes].view(array.dtype).reshape(array.shape)
            view[...] = array
            # in-place updates of the buffer now happen in the flat memory
            tensor._array = view
            self._entries.append((owner, name, view))
            start += size

    @staticmethod
    def count(module: Module) -> int:
        """Number of buffers that would travel."""
        return len(_distinct_buffers(module))

    def start(self, root: int = 0) -> Work:
        """Issue the broadcast of the root's values."""
        self._root = root
        if self._communicator.rank == root:
            for owner, name, view in self._entries:
                array = _buffer(owner, name)._array
                if array is not view:  # replaced, not updated in place
                    view[...] = array
        return self._communicator.broadcast(self._flat, root, async_op=True)

    def finish(self) -> None:
        """The values have arrived: make them the buffers' own."""
        if self._communicator.rank == self._root:
            return
        for owner, name, view in self._entries:
            tensor = _buffer(owner, name)
            if tensor._array is not view:
                tensor._array[...] = view
            tensor._bump_version()


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
