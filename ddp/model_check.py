"""The ranks' models: whether they are the same, taken from one rank, and whether they change.

Stage of the flow: construction of `DistributedDataParallel`, and its forward. May import:
`communicators.base`, `process_group`, `plan`, `allgrad`.
"""

from __future__ import annotations

import hashlib
import pickle
from collections.abc import Sequence
from itertools import chain
from typing import Any

import numpy as np

from allgrad import Tensor
from allgrad.backend import arrays
from allgrad.ddp.communicators.base import Communicator
from allgrad.ddp.communicators.gpu import zeros_beside
from allgrad.ddp.plan import aligned
from allgrad.errors import DistributedError
from allgrad.nn import Module
from allgrad.tensors import graph

# One entry per parameter or buffer: (name, shape, dtype, requires_grad).
Entry = tuple[str, tuple[int, ...], str, bool]


class Watch:
    """Notices parameters that a module gets, loses or thaws after it was wrapped.

    Asked in every forward, so it looks at identities only: a few microseconds for a hundred
    parameters.
    """

    def __init__(self, module: Module) -> None:
        self._module = module
        self.trainable: list[tuple[str, Tensor]] = [
            (name, p) for name, p in module.named_parameters() if p.requires_grad
        ]
        self._remember()

    def _remember(self) -> None:
        owners = list(self._module.modules())
        self._tables: list[dict[str, Any]] = [
            t for owner in owners for t in (owner._parameters, owner._modules)
        ]
        self._values = list(chain.from_iterable(map(dict.values, self._tables)))  # kept alive
        self._ids = list(map(id, self._values))
        known = {id(p) for _, p in self.trainable}
        self._frozen = [p for p in self._module.parameters() if id(p) not in known]

    def changed(self) -> bool:
        """Whether `trainable` has just become another list.

        A parameter that is frozen stays in the list; it may be thawed again.
        """
        ids = list(map(id, chain.from_iterable(map(dict.values, self._tables))))
        if ids == self._ids and not any([p._requires_grad for p in self._frozen]):  # noqa: C419
            return False
        known = {id(p) for _, p in self.trainable}
        before = [name for name, _ in self.trainable]
        self.trainable = [
            (name, p)
            for name, p in self._module.named_parameters()
            if p.requires_grad or id(p) in known
        ]
        self._remember()
        return {id(p) for _, p in self.trainable} != known or before != [
            name for name, _ in self.trainable
        ]


def describe(module: Module) -> list[Entry]:
    """All parameters and buffers, in the module's order."""
    named = [*module.named_parameters(), *module.named_buffers()]
    return [(name, tuple(t.shape), t.dtype.name, t.requires_grad) for name, t in named]


def check_same_model(communicator: Communicator, module: Module, options: Any = None) -> None:
    """Collective. Raise on all ranks if they hold different models, or wrap them differently.

    Compares digests first; only if they differ it sends the descriptions, to name the difference.
    """
    mine = describe(module)
    digest = np.frombuffer(
        hashlib.sha256(pickle.dumps((mine, repr(options)), protocol=5)).digest(), np.uint8
    )
    digests = communicator.all_gather(digest)
    if (digests == digests[0]).all():
        return
    descriptions = communicator.all_gather_object((mine, repr(options)))
    difference = first_difference([entries for entries, _ in descriptions])
    if difference is not None:
        raise DistributedError(
            f"{communicator.where} ranks hold different models; first difference, at parameter or "
            f"buffer {difference}. Build the same module on every rank"
        )
    told = "; ".join(f"rank {rank}: {text}" for rank, (_, text) in enumerate(descriptions))
    raise DistributedError(
        f"{communicator.where} ranks wrap the model with different options: {told}. Pass the same "
        "arguments to DistributedDataParallel on every rank"
    )


def first_difference(descriptions: Sequence[Sequence[Entry]]) -> str | None:
    """Where the ranks' lists differ first, in words, or None."""
    longest = max(len(d) for d in descriptions)
    for position in range(longest):
        entries = [d[position] if position < len(d) else None for d in descriptions]
        if any(entry != entries[0] for entry in entries):
            groups: dict[Any, list[int]] = {}
            for rank, entry in enumerate(entries):
                groups.setdefault(entry, []).append(rank)
            told = "; ".join(
                f"rank {', '.join(map(str, ranks))}: {_entry_text(entry)}"
                for entry, ranks in groups.items()
            )
            return f"{position}: {told}"
    return None


def _entry_text(entry: Entry | None) -> str:
    if entry is None:
        return "none, the model ends before it"
    name, shape, dtype, requires_grad = entry
    return f"{name!r} of shape {shape}, {dtype}, requires_grad={requires_grad}"


def take_from(communicator: Communicator, module: Module, root: int = 0) -> None:
    """Collective. Take parameters and buffers of the root, in one piece for each device."""
    graph.compute_all()
    groups: dict[int | None, list[Tensor]] = {}  # by where they lie
    for tensor in (*module.parameters(), *module.buffers()):
        groups.setdefault(arrays.index_of(tensor._array), []).append(tensor)
    for tensors in groups.values():
        _take(communicator, tensors, root)


def _take(communicator: Communicator, tensors: Sequence[Tensor], root: int) -> None:
    first = tensors[0]._array
    flat = zeros_beside(communicator, first, sum(aligned(t._array.nbytes) for t in tensors))
    start = 0
    places = []
    for tensor in tensors:
        array = tensor._canonical()
        view = flat[start : start + array.nbytes].view(array.dtype).reshape(array.shape)
        view[...] = array
        places.append((tensor, array, view))
        start += aligned(array.nbytes)
    communicator.of(first).broadcast(flat, root)
    if communicator.rank != root:
        for tensor, array, view in places:
            array[...] = view
            tensor._bump_version()
