"""Are the replicas still identical? Digests of parameters, and where and how they differ if not.

Stage of the flow: asked by the reducer every so many steps, and by users. May import: numpy,
`communicators.base`, `allgrad`, `process_group`.

Note [Digest]
    A tensor's digest is the sum of its bytes as 64-bit words, modulo 2**64: it runs at the speed of
    memory, and any single changed bit changes it. The digests of all parameters are chained, and
    52 bits of the result travel in the step header as a whole number that float64 holds, so the
    check costs no collective. It is taken at the beginning of backward, where no rank has changed
    anything since the last step.

    On a GPU the same sums are queued between the step's kernels, and the host reads them some steps
    later, when they have long been there: it does not wait for the GPU. A word there is as wide as
    the array's size in bytes allows; all ranks compute the same way.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from allgrad import Tensor
from allgrad.backend import arrays as places
from allgrad.ddp.communicators.base import Array, Communicator
from allgrad.ddp.diagnosis.causes import names
from allgrad.ddp.process_group import ProcessGroup, default_group
from allgrad.errors import DistributedError
from allgrad.nn import Module
from allgrad.tensors import graph

LAG_STEPS = 4  # what the host queues for a GPU is seldom further ahead of it
_FACTOR, _MASK = 0x9E3779B97F4A7C15, (1 << 64) - 1


def digest(array: Array) -> int:
    """The sum of an array's bytes as 64-bit words; see Note [Digest].

    Example:
        >>> a = np.ones(1000, np.float32)
        >>> before = digest(a)
        >>> a.view(np.uint32)[7] ^= 1  # the smallest possible change
        >>> digest(a) == before
        False
    """
    if type(array) is not np.ndarray and places.on_device(array):
        return int(places.to_host(gpu_digests([array]))[0])
    if not array.flags.c_contiguous:
        array = np.ascontiguousarray(array)
    raw = array.reshape(-1).view(np.uint8)
    whole = raw.size & ~7
    total = int(np.add.reduce(raw[:whole].view(np.uint64))) if whole else 0
    return (total + int.from_bytes(raw[whole:].tobytes(), "little")) & _MASK


def gpu_digests(arrays: Sequence[Any]) -> Any:
    """The digests of arrays of one GPU, as an array there of shape (arrays,), uint64."""
    out: Any = np.empty_like(arrays[0], shape=(len(arrays),), dtype=np.uint64)
    for place, array in enumerate(arrays):
        flat = array.ravel(order="K")  # in the order of memory, which is not copied then
        width = next(w for w in (8, 4, 2, 1) if flat.nbytes % w == 0)
        words = flat.view(f"u{width}") if flat.size else flat.view(np.uint8)
        np.sum(words, dtype=np.uint64, out=out[place : place + 1].reshape(()))
    return out


def fingerprint(arrays: Sequence[Array]) -> float:
    """The digests of all arrays, chained, as a whole number that float64 holds."""
    if arrays and places.on_device(arrays[0]):
        return chained(places.to_host(gpu_digests(arrays)).tolist())
    return chained([digest(array) for array in arrays])


def chained(digests: Sequence[int]) -> float:
    """The digests as one whole number that float64 holds."""
    total = 0
    for one in digests:
        total = ((total ^ one) * _FACTOR) & _MASK
    return float(total >> 12)


class Fingerprints:
    """When replicas are compared, and with what: asked once per step, by all ranks alike.

    Args:
        params: whose values are compared.
        on_gpu: whether they lie on a GPU; then a value is some steps old, see Note [Digest].
    """

    def __init__(self, params: Sequence[Tensor], on_gpu: bool) -> None:
        self._params, self._on_gpu = params, on_gpu
        self._queued: tuple[int, Any] | None = None  # the step, and digests on the GPU

    def at(self, step: int, every: int) -> float | None:
        """What is compared at a step; None where nothing is.

        Args:
            step: counted from 1.
            every: compare so often; 0: never.
        """
        if not every:
            return None
        if not self._on_gpu or every <= LAG_STEPS:
            if step % every:
                return None
            return fingerprint([p._array for p in self._params])
        if step % every == 0:
            self._queued = step, gpu_digests([p._array for p in self._params])
        elif self._queued is not None and step == self._queued[0] + LAG_STEPS:
            digests, self._queued = self._queued[1], None
            return chained(places.to_host(digests).tolist())
        return None


def difference(
    communicator: Communicator, named: Sequence[tuple[str, Array]], ranks: Sequence[int]
) -> str:
    """Collective. Which parameter differs first, on which ranks, by how much, and likely why.

    Args:
        communicator: all its ranks call this with the same names and shapes.
        named: parameters in order.
        ranks: those that are compared; others only take part.

    Returns:
        A text that is the same on all ranks; "" if nothing differs.
    """
    own = np.array([digest(array) for _, array in named], np.uint64)
    everywhere = communicator.all_gather(own)[list(ranks)]
    differing = np.flatnonzero((everywhere != everywhere[0]).any(0))
    if differing.size == 0:
        return ""
    first = int(differing[0])
    usual, odd = _sides(everywhere[:, first].tolist(), list(ranks))
    mine = np.ascontiguousarray(places.to_host(named[first][1]))
    reference = mine.copy()
    communicator.broadcast(reference, usual[0])
    found = communicator.all_gather(_compare(reference, mine))
    name = named[first][0]
    details = "; ".join(_detail(rank, found[rank], reference.size) for rank in odd[:8])
    cause = _cause(len(differing), len(named), [found[rank] for rank in odd], odd)
    return (
        f"parameter {name!r} is the first of {len(differing)} that differ (of {len(named)}): "
        f"{names(usual)} agree, {names(odd)} do not: {details}. Likely cause: {cause}"
    )


def _sides(values: list[int], ranks: list[int]) -> tuple[list[int], list[int]]:
    """(the largest group of ranks with one value, all others)."""
    groups: dict[int, list[int]] = {}
    for rank, value in zip(ranks, values, strict=True):
        groups.setdefault(value, []).append(rank)
    usual = max(groups.values(), key=lambda group: (len(group), -group[0]))
    return usual, [rank for rank in ranks if rank not in usual]


def _compare(reference: Array, mine: Array) -> Array:
    """(differing elements, differing bits, largest difference, first differing index)."""
    a, b = reference.reshape(-1), np.ascontiguousarray(mine).reshape(-1)
    bits = a.view(np.uint8) ^ b.view(np.uint8)
    rows = bits.reshape(-1, a.itemsize).any(1)
    count = int(rows.sum())
    if count == 0:
        return np.zeros(4)
    with np.errstate(invalid="ignore", over="ignore"):
        largest = np.abs(a.astype(np.float64) - b.astype(np.float64)).max()
    return np.array([count, int(np.unpackbits(bits).sum()), largest, int(np.argmax(rows))])


def _detail(rank: int, found: Array, size: int) -> str:
    count, bits, largest, index = found.tolist()
    text = f"rank {rank}: {int(count)} of {size} elements, by at most {largest:.3g}"
    return text + (f" (one bit of element {int(index)})" if bits == 1 else "")


def _cause(differing: int, total: int, found: Sequence[Array], odd: Sequence[int]) -> str:
    if differing == 1 and all(row[1] == 1 for row in found):
        return (
            f"a bit flipped in the memory of {names(odd)}: faulty memory, or native code that "
            "writes where it must not"
        )
    if differing == total:
        return (
            "optimizer steps that differ between ranks: another learning rate or other options, a "
            "step that some ranks skipped, gradients changed between backward() and step() by code "
            "that depends on the rank (clipping or scaling by local values), or parameters that "
            "were loaded on some ranks only"
        )
    return (
        "code that changed these parameters on some ranks only: an `if` that depends on the rank, "
        "re-initialisation or loading on one rank, or an optimizer that holds other parameters "
        "there"
    )


FIX = (
    "do the same to the parameters on all ranks, between the same steps. If the ranks are meant to "
    "differ for a while, pass check_replicas_every=0 to DistributedDataParallel"
)


def check_replicas(model: Module, group: ProcessGroup | None = None) -> None:
    """Collective. Make sure that parameters and buffers are the same bits on all ranks.

    Args:
        model: a wrapped or a plain module, built the same way on all ranks. Call it between steps:
            buffers that follow rank 0 do so at the end of backward.
        group: default: that of the wrapped model, else the default group.

    Raises:
        DistributedError: they are not; names the first parameter or buffer that differs, the ranks,
            how many elements and by how much, and the likely cause.

    Example:
        >>> import allgrad.nn as nn
        >>> from allgrad import ddp
        >>> ddp.init_process_group()
        >>> ddp.check_replicas(nn.Linear(4, 2))
        >>> ddp.destroy_process_group()
    """
    group = group or getattr(model, "process_group", None) or default_group()
    group.meet()
    graph.compute_all()
    inner = getattr(model, "module", model)
    named = [*inner.named_parameters(), *_followers(model, inner)]
    communicator = group.communicator
    communicator.note = "check_replicas"
    try:
        arrays = [(name, tensor._canonical()) for name, tensor in named]
        told = difference(communicator, arrays, range(communicator.size))
    finally:
        communicator.note = ""
    if told:
        raise DistributedError(f"{communicator.where} replicas differ: {told}. Fix: {FIX}")


def _followers(model: Module, inner: Module) -> list[tuple[str, Tensor]]:
    """Buffers that are meant to be the same on all ranks."""
    reducer = getattr(model, "_reducer", None)
    if reducer is not None and reducer.buffers is None:
        return []
    return list(inner.named_buffers())
