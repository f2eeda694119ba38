"""The memory of tensors as communicators need it: contiguous arrays, and the way back.

Stage of the flow: below `collectives` and `messages`. May import: `process_group`, `work`,
`communicators.base`, `allgrad`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from allgrad import Tensor, devices
from allgrad.backend import arrays
from allgrad.ddp.communicators import base
from allgrad.ddp.communicators.base import Array
from allgrad.ddp.process_group import GroupMember, ProcessGroup, default_group, met
from allgrad.ddp.work import Work
from allgrad.errors import DeviceError, DistributedError, ShapeError
from allgrad.tensors import graph


def array_of(value: Tensor | Array) -> Array:
    """The memory of a tensor, after everything that still had to read it has done so."""
    if isinstance(value, Tensor):
        graph.compute_all()
        return value._canonical()
    return value


def readable(value: Tensor | Array) -> Array:
    """The values as a contiguous array, a copy where they are not."""
    return arrays.contiguous(array_of(value))


def writable(value: Tensor | Array) -> tuple[Array, Callable[[], None] | None]:
    """A contiguous array to be written, and what brings it into the tensor if it is a copy."""
    target = array_of(value)
    if target.flags.c_contiguous:
        return target, None
    copy = arrays.contiguous(target)

    def bring_back() -> None:
        target[...] = copy

    return copy, bring_back


def store(target: Tensor | Array, value: Array, what: str) -> None:
    """Write a result of as many elements into a tensor of any layout."""
    array = array_of(target)
    if array.size != value.size:
        raise ShapeError(
            f"{what}: the result of shape {value.shape} does not fit a tensor of shape "
            f"{array.shape}"
        )
    if arrays.index_of(array) != arrays.index_of(value):
        raise DeviceError(
            f"{what}: the tensors of one collective must lie on one device, came "
            f"{devices.of(value)} and, for the result, {devices.of(array)}"
        )
    array[...] = value.reshape(array.shape)


def changed(tensors: Sequence[Any]) -> None:
    """Let autograd know that the tensors have new values."""
    for tensor in tensors:
        if isinstance(tensor, Tensor):
            tensor._bump_version()


def ended(
    work: base.Work,
    tensors: list[Any],
    finish: Callable[[], object] | None,
    async_op: bool,
    what: str,
) -> Work | None:
    """What a collective returns: its Work, or nothing after it has ended."""
    changed(tensors)
    handle = Work(work, tensors, finish, what)
    if async_op:
        return handle
    handle.wait()
    return None


def entered(group: ProcessGroup | None) -> ProcessGroup | None:
    """The group of a collective of the user's; None on a rank that is no member: do nothing."""
    return None if group is GroupMember.NON_GROUP_MEMBER else met(group)


def joined(group: ProcessGroup | None) -> ProcessGroup | None:
    """The same for messages between two ranks, for which the others do not meet."""
    return None if group is GroupMember.NON_GROUP_MEMBER else group or default_group()


def number_in(
    group: ProcessGroup, global_rank: int | None, group_rank: int | None, what: str
) -> int:
    """The number in the group of a rank given by its global number or by that in the group.

    Raises:
        DistributedError: both are given; or it is no rank of the group.
    """
    if group_rank is not None:
        if global_rank is not None:
            raise DistributedError(
                f"{group.where} {what}: give the rank by its global number or by its number in "
                "the group, not both"
            )
        return group_rank
    rank = 0 if global_rank is None else int(global_rank)
    if rank not in group.ranks:
        raise DistributedError(
            f"{group.where} {what}: rank {rank} is not in the group of the ranks {group.ranks}"
        )
    return group.ranks.index(rank)
