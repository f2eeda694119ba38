"""Collectives on tensors; names and arguments as in ``torch.distributed``.

Stage of the flow: between user code and the default group's communicator. May import:
`process_group`, `communicators`, `allgrad`. Every function takes Tensors or numpy arrays of any
memory layout, and every rank must call it.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from allgrad import Tensor
from allgrad.ddp.communicators.base import COMPLETED, Array, ReduceOp, Work
from allgrad.ddp.process_group import ProcessGroup, met
from allgrad.errors import ShapeError
from allgrad.tensors import graph


class _CopyBack:
    """Work on a contiguous copy, which goes back into the tensor once it has arrived."""

    def __init__(self, work: Work, source: Array, target: Array) -> None:
        self._work, self._source, self._target = work, source, target
        self._copied = False

    def test(self) -> bool:
        if not self._work.test():
            return False
        self._copy()
        return True

    def wait(self) -> None:
        self._work.wait()
        self._copy()

    def _copy(self) -> None:
        if not self._copied:
            self._target[...] = self._source
            self._copied = True


def _array_of(value: Tensor | Array) -> Array:
    """The memory of a tensor, after everything that still had to read it has done so."""
    if isinstance(value, Tensor):
        graph.compute_all()
        return value._canonical()
    return value


def _in_place(value: Tensor | Array, collective: Any, async_op: bool) -> Work:
    """Run a collective that replaces the values of a tensor or an array of any layout."""
    target = _array_of(value)
    source = target if target.flags.c_contiguous else np.ascontiguousarray(target)
    work: Work = collective(source, async_op)
    if isinstance(value, Tensor):
        value._bump_version()
    if source is target:
        return work
    copying = _CopyBack(work, source, target)
    if not async_op:
        copying.wait()
    return copying


def all_reduce(
    tensor: Tensor | Array,
    op: ReduceOp | str = ReduceOp.SUM,
    group: ProcessGroup | None = None,
    async_op: bool = False,
) -> Work | None:
    """Replace the tensor on every rank by its reduction over all ranks; same bits on all.

    Args:
        tensor: Tensor or numpy array; same shape and dtype on all ranks.
        op: ReduceOp.SUM, AVG (floating point only), PRODUCT, MIN or MAX.
        group: default: the default group.
        async_op: return at once with a Work to wait for.

    Returns:
        Work if `async_op`, otherwise None.

    Raises:
        DistributedError: a rank failed, did not come in time, or called something else.
    """
    comm = met(group).communicator
    work = _in_place(tensor, lambda a, asynchronous: comm.all_reduce(a, op, asynchronous), async_op)
    return work if async_op else None


def broadcast(
    tensor: Tensor | Array,
    src: int = 0,
    group: ProcessGroup | None = None,
    async_op: bool = False,
) -> Work | None:
    """Replace the tensor on every rank by that of rank `src`; see `all_reduce`."""
    comm = met(group).communicator
    work = _in_place(tensor, lambda a, asynchronous: comm.broadcast(a, src, asynchronous), async_op)
    return work if async_op else None


def all_gather_into_tensor(
    output_tensor: Tensor | Array,
    input_tensor: Tensor | Array,
    group: ProcessGroup | None = None,
) -> None:
    """Write the inputs of all ranks, one after the other in rank order, into the output.

    Raises:
        ShapeError: the output does not have size times as many elements as the input.
    """
    comm = met(group).communicator
    gathered = comm.all_gather(np.ascontiguousarray(_array_of(input_tensor)))
    _store(output_tensor, gathered, "all_gather_into_tensor")


def all_gather(
    tensor_list: list[Tensor], tensor: Tensor, group: ProcessGroup | None = None
) -> None:
    """Fill the list's tensors, one per rank, with the ranks' tensors.

    Raises:
        ShapeError: the list does not have one tensor of the right size per rank.
    """
    comm = met(group).communicator
    if len(tensor_list) != comm.size:
        raise ShapeError(
            f"{comm.where} all_gather needs a list of {comm.size} tensors, got {len(tensor_list)}"
        )
    rows = comm.all_gather(np.ascontiguousarray(_array_of(tensor)))
    for target, row in zip(tensor_list, rows, strict=True):
        _store(target, row, "all_gather")


def reduce_scatter_tensor(
    output: Tensor | Array,
    input: Tensor | Array,
    op: ReduceOp | str = ReduceOp.SUM,
    group: ProcessGroup | None = None,
) -> None:
    """Reduce the input over ranks and give each rank its 1/size part, in rank order.

    Raises:
        ShapeError: the input does not have size times as many elements as the output.
    """
    comm = met(group).communicator
    source, target = np.ascontiguousarray(_array_of(input)), _array_of(output)
    if source.size != comm.size * target.size:
        raise ShapeError(
            f"{comm.where} reduce_scatter_tensor: input of shape {source.shape} must have "
            f"{comm.size} times the elements of the output of shape {target.shape}"
        )
    part = comm.reduce_scatter(source.reshape(comm.size, target.size), op)
    _store(output, part, "reduce_scatter_tensor")


def reduce_scatter(
    output: Tensor,
    input_list: list[Tensor],
    op: ReduceOp | str = ReduceOp.SUM,
    group: ProcessGroup | None = None,
) -> None:
    """Reduce the list's r-th tensors over ranks into the output of rank r.

    Raises:
        ShapeError: the list does not have one tensor per rank.
    """
    comm = met(group).communicator
    if len(input_list) != comm.size:
        raise ShapeError(
            f"{comm.where} reduce_scatter needs a list of {comm.size} tensors, "
            f"got {len(input_list)}"
        )
    rows = np.stack([_array_of(t) for t in input_list])
    _store(output, comm.reduce_scatter(rows, op), "reduce_scatter")


def _store(target: Tensor | Array, value: Array, what: str) -> None:
    array = _array_of(target)
    if array.size != value.size:
        raise ShapeError(
            f"{what}: the result of shape {value.shape} does not fit a tensor of shape "
            f"{array.shape}"
        )
    array[...] = value.reshape(array.shape)
    if isinstance(target, Tensor):
        target._bump_version()


def barrier(group: ProcessGroup | None = None, async_op: bool = False) -> Work | None:
    """Return once every rank has called it."""
    met(group).communicator.barrier()
    return COMPLETED if async_op else None


def all_gather_object(object_list: list[Any], obj: Any, group: ProcessGroup | None = None) -> None:
    """Fill the list, which has one place per rank, with the ranks' picklable objects.

    Raises:
        ShapeError: the list does not have one place per rank.
    """
    comm = met(group).communicator
    if len(object_list) != comm.size:
        raise ShapeError(
            f"{comm.where} all_gather_object needs a list of {comm.size} places, "
            f"got {len(object_list)}"
        )
    object_list[:] = comm.all_gather_object(obj)


def broadcast_object(obj: Any, src: int = 0, group: ProcessGroup | None = None) -> Any:
    """Return the picklable object of rank `src` on every rank."""
    return met(group).communicator.broadcast_object(obj, src)


def broadcast_object_list(
    object_list: list[Any], src: int = 0, group: ProcessGroup | None = None
) -> None:
    """Replace the list's objects on every rank by those of rank `src`."""
    object_list[:] = broadcast_object(list(object_list), src, group)
