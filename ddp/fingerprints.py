"""One number for the whole state of a training: the same bits give the same SHA-256.

Stage of the flow: called by the training loop, between steps. May import: `process_group`,
`distributed`, `allgrad`.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from allgrad import Tensor
from allgrad.backend import arrays
from allgrad.ddp.process_group import ProcessGroup, default_group, is_initialized
from allgrad.errors import DistributedError
from allgrad.nn import Module

# (name, digest of the value)
_Entry = tuple[str, bytes]


def fingerprint(
    model: Module, *parts: Any, check: bool = False, group: ProcessGroup | None = None
) -> str:
    """SHA-256 over parameters, buffers and the state of further parts, as 64 hex digits.

    Hashed are names, types, shapes and bytes, in an order of their own; so the number does not
    depend on the number of ranks, on the wrapper, on memory layout, or on the process.

    Args:
        model: a module, or its `DistributedDataParallel`, which counts as the module.
        parts: optimizers, schedulers: whatever has ``state_dict()``.
        check: compare with all ranks of `group`; collective then.
        group: default: that of `init_process_group`; without one, `check` compares nothing.

    Raises:
        DistributedError: with `check`, ranks differ; names the first difference.
        TypeError: a state holds something that has no bytes of its own.

    Example:
        >>> import allgrad as ag
        >>> from allgrad import nn, optim
        >>> _ = ag.manual_seed(0)
        >>> model = nn.Linear(2, 1)
        >>> before = fingerprint(model, optim.SGD(model.parameters(), lr=0.1))
        >>> model.bias.data += 1
        >>> before == fingerprint(model, optim.SGD(model.parameters(), lr=0.1))
        False
    """
    entries = list(_entries(model, parts))
    total = hashlib.sha256()
    for name, digest in entries:
        total.update(_text(name) + digest)
    if check and (group is not None or is_initialized()):
        _compare(group or default_group(), total.digest(), entries)
    return total.hexdigest()


def _entries(model: Module, parts: tuple[Any, ...]) -> Iterator[_Entry]:
    from allgrad.ddp.distributed import DistributedDataParallel  # noqa: PLC0415 - above us

    if isinstance(model, DistributedDataParallel):
        model = model.module
    named = [*model.named_parameters(), *model.named_buffers()]
    for name, tensor in sorted(named, key=lambda pair: pair[0]):
        yield f"model: {name}", _digest(tensor)
    for number, part in enumerate(parts):
        kind = type(part).__name__
        for name, value in _leaves(part.state_dict(), f"{kind} {number}: state"):
            yield name, _digest(value)


def _leaves(value: Any, name: str) -> Iterator[tuple[str, Any]]:
    """The single values in nested dicts and lists, in an order that does not depend on insertion.

    Empty dicts and lists count as values.
    """
    if isinstance(value, Mapping) and value:
        for key in sorted(value, key=lambda k: (type(k).__name__, k)):
            yield from _leaves(value[key], f"{name}[{key!r}]")
    elif isinstance(value, list | tuple) and value:
        for position, item in enumerate(value):
            yield from _leaves(item, f"{name}[{position}]")
    else:
        yield name, value


def _digest(value: Any) -> bytes:
    if isinstance(value, Tensor):
        value = arrays.to_host(value._canonical())
    if isinstance(value, np.ndarray | np.generic):
        array = np.ascontiguousarray(value)
        head = f"{array.dtype.name} {np.shape(value)} "
        return hashlib.sha256(head.encode() + array.tobytes()).digest()
    if isinstance(value, float):
        data = b"float " + struct.pack("<d", value)
    elif value is None or isinstance(value, bool | int | str | bytes | Mapping | list | tuple):
        data = f"{type(value).__name__} {value!r}".encode()
    else:
        raise TypeError(
            f"fingerprint: expected tensors, arrays, numbers and texts in a state, came "
            f"{type(value).__name__}: {value!r}"
        )
    return hashlib.sha256(data).digest()


def _text(text: str) -> bytes:
    data = text.encode()
    return struct.pack("<q", len(data)) + data


def _compare(group: ProcessGroup, mine: bytes, entries: list[_Entry]) -> None:
    group.meet()
    communicator = group.communicator
    digests = communicator.all_gather(np.frombuffer(mine, np.uint8))
    if (digests == digests[0]).all():
        return
    everywhere = communicator.all_gather_object(entries)
    for rank, theirs in enumerate(everywhere):
        differing = [a[0] for a, b in zip(everywhere[0], theirs, strict=False) if a != b]
        if differing or len(theirs) != len(everywhere[0]):
            first = repr(differing[0]) if differing else "the number of values"
            raise DistributedError(
                f"{communicator.where} ranks hold different states: rank {rank} differs from "
                f"rank 0 in {len(differing)} of {len(theirs)} values, first in {first}. Is a "
                "random choice, an optimizer step or a change of parameters made on some ranks "
                "only?"
            )
