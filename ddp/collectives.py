"""Collectives on tensors; names and arguments as in ``torch.distributed``.

Stage of the flow: between user code and a group's communicator. May import: `payload`,
`process_group`, `communicators`, `work`, `allgrad`.

Every function takes Tensors of the CPU or of a GPU, or numpy arrays, of any memory layout, and
every rank of the group must call it; on a rank that is no member it does nothing. With
``async_op=True`` it returns at once with a `Work`; then the tensors must be left alone until
``work.wait()``. For tensors of GPUs ``wait`` makes the current stream wait, not the host. Ranks in
`src` and `dst` are numbers in the default group, in `group_src` and `group_dst` numbers in the
group.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from functools import partial
from typing import Any

import numpy as np

from allgrad import Tensor
from allgrad.ddp.communicators.base import Array, ReduceOp
from allgrad.ddp.payload import (
    array_of,
    ended,
    entered,
    number_in,
    readable,
    store,
    writable,
)
from allgrad.ddp.process_group import ProcessGroup, seconds
from allgrad.ddp.work import Work
from allgrad.errors import ShapeError


def all_reduce(
    tensor: Tensor | Array,
    op: ReduceOp | str = ReduceOp.SUM,
    group: ProcessGroup | None = None,
    async_op: bool = False,
) -> Work | None:
    """Replace the tensor on every rank by its reduction over all ranks; same bits on all.

    Args:
        tensor: Tensor or numpy array; same shape and dtype on all ranks.
        op: ReduceOp.SUM, AVG (floating point only), PRODUCT, MIN, MAX, or BAND, BOR, BXOR
            (integers and truth values).
        group: default: the default group.
        async_op: return at once with a Work to wait for.

    Returns:
        Work if `async_op`, otherwise None.

    Raises:
        DistributedError: a rank failed, did not come in time, or called something else.
    """
    group = entered(group)
    if group is None:
        return None
    array, finish = writable(tensor)
    work = group.communicator.of(array).all_reduce(array, op, async_op)
    return ended(work, [tensor], finish, async_op, f"{group.where} all_reduce")


def all_reduce_coalesced(
    tensors: list[Any],
    op: ReduceOp | str = ReduceOp.SUM,
    group: ProcessGroup | None = None,
    async_op: bool = False,
) -> Work | None:
    """`all_reduce` of each tensor of a list."""
    group = entered(group)
    if group is None:
        return None
    pairs = [writable(tensor) for tensor in tensors]
    works = [group.communicator.of(a).all_reduce(a, op, async_op=True) for a, _ in pairs]
    finish = _all_of([back for _, back in pairs if back is not None])
    return ended(_Several(works), list(tensors), finish, async_op, f"{group.where} all_reduce")


def reduce(
    tensor: Tensor | Array,
    dst: int | None = None,
    op: ReduceOp | str = ReduceOp.SUM,
    group: ProcessGroup | None = None,
    async_op: bool = False,
    group_dst: int | None = None,
) -> Work | None:
    """Replace the tensor of rank `dst` by the reduction over all ranks; the others' stay."""
    group = entered(group)
    if group is None:
        return None
    root = number_in(group, dst, group_dst, "reduce")
    array, finish = writable(tensor)
    work = group.communicator.of(array).reduce(array, root, op, async_op)
    return ended(work, [tensor], finish, async_op, f"{group.where} reduce")


def broadcast(
    tensor: Tensor | Array,
    src: int | None = None,
    group: ProcessGroup | None = None,
    async_op: bool = False,
    group_src: int | None = None,
) -> Work | None:
    """Replace the tensor on every rank by that of rank `src` (default 0); see `all_reduce`."""
    group = entered(group)
    if group is None:
        return None
    root = number_in(group, src, group_src, "broadcast")
    array, finish = writable(tensor)
    work = group.communicator.of(array).broadcast(array, root, async_op)
    return ended(work, [tensor], finish, async_op, f"{group.where} broadcast")


def all_gather_into_tensor(
    output_tensor: Tensor | Array,
    input_tensor: Tensor | Array,
    group: ProcessGroup | None = None,
    async_op: bool = False,
) -> Work | None:
    """Write the inputs of all ranks, one after the other in rank order, into the output.

    Raises:
        ShapeError: the output does not have size times as many elements as the input.
    """
    group = entered(group)
    if group is None:
        return None
    array = readable(input_tensor)
    what = f"{group.where} all_gather_into_tensor"
    gathered = np.empty_like(array, shape=(group.size, *array.shape), order="C")
    if array_of(output_tensor).size != gathered.size:
        store(output_tensor, gathered, what)  # raises
    work = group.communicator.of(array).all_gather_into(gathered, array, async_op)
    finish = lambda: store(output_tensor, gathered, what)  # noqa: E731
    return ended(work, [output_tensor], finish, async_op, what)


def all_gather(
    tensor_list: list[Any],
    tensor: Tensor | Array,
    group: ProcessGroup | None = None,
    async_op: bool = False,
) -> Work | None:
    """Fill the list's tensors, one per rank, with the ranks' tensors.

    Raises:
        ShapeError: the list does not have one tensor of the right size per rank.
    """
    group = entered(group)
    if group is None:
        return None
    what = f"{group.where} all_gather"
    _check_list(group, "all_gather", tensor_list)
    array = readable(tensor)
    rows = np.empty_like(array, shape=(group.size, *array.shape), order="C")
    work = group.communicator.of(array).all_gather_into(rows, array, async_op)
    return ended(work, list(tensor_list), _spread(tensor_list, rows, what), async_op, what)


def gather(
    tensor: Tensor | Array,
    gather_list: list[Any] | None = None,
    dst: int | None = None,
    group: ProcessGroup | None = None,
    async_op: bool = False,
    group_dst: int | None = None,
) -> Work | None:
    """Fill the list of rank `dst` (default 0), one tensor per rank, with the ranks' tensors.

    Raises:
        ShapeError: on `dst`, the list does not have one tensor of the right size per rank.
    """
    group = entered(group)
    if group is None:
        return None
    what = f"{group.where} gather"
    root = number_in(group, dst, group_dst, "gather")
    array = readable(tensor)
    if group.rank != root:
        work = group.communicator.of(array).gather(array, None, root, async_op)
        return ended(work, [], None, async_op, what)
    targets = gather_list or []
    _check_list(group, "gather", targets)
    rows = np.empty_like(array, shape=(group.size, *array.shape), order="C")
    work = group.communicator.of(array).gather(array, rows, root, async_op)
    return ended(work, list(targets), _spread(targets, rows, what), async_op, what)


def scatter(
    tensor: Tensor | Array,
    scatter_list: list[Any] | None = None,
    src: int | None = None,
    group: ProcessGroup | None = None,
    async_op: bool = False,
    group_src: int | None = None,
) -> Work | None:
    """Give each rank its tensor of the list of rank `src` (default 0).

    Raises:
        ShapeError: on `src`, the list does not have one tensor per rank, all like `tensor`.
    """
    group = entered(group)
    if group is None:
        return None
    root = number_in(group, src, group_src, "scatter")
    array, finish = writable(tensor)
    rows = None
    if group.rank == root:
        _check_list(group, "scatter", scatter_list or [])
        rows = _stacked(scatter_list or [], f"{group.where} scatter")
    work = group.communicator.of(array).scatter(array, rows, root, async_op)
    return ended(work, [tensor], finish, async_op, f"{group.where} scatter")


def reduce_scatter_tensor(
    output: Tensor | Array,
    input: Tensor | Array,
    op: ReduceOp | str = ReduceOp.SUM,
    group: ProcessGroup | None = None,
    async_op: bool = False,
) -> Work | None:
    """Reduce the input over ranks and give each rank its 1/size part, in rank order.

    Raises:
        ShapeError: the input does not have size times as many elements as the output.
    """
    group = entered(group)
    if group is None:
        return None
    source = readable(input)
    target, finish = writable(output)
    if source.size != group.size * target.size:
        raise ShapeError(
            f"{group.where} reduce_scatter_tensor: input of shape {source.shape} must have "
            f"{group.size} times the elements of the output of shape {target.shape}"
        )
    rows = source.reshape(group.size, *target.shape)
    work = group.communicator.of(target).reduce_scatter_into(target, rows, op, async_op)
    return ended(work, [output], finish, async_op, f"{group.where} reduce_scatter_tensor")


def reduce_scatter(
    output: Tensor | Array,
    input_list: list[Any],
    op: ReduceOp | str = ReduceOp.SUM,
    group: ProcessGroup | None = None,
    async_op: bool = False,
) -> Work | None:
    """Reduce the list's r-th tensors over ranks into the output of rank r.

    Raises:
        ShapeError: the list does not have one tensor per rank.
    """
    group = entered(group)
    if group is None:
        return None
    _check_list(group, "reduce_scatter", input_list)
    target, finish = writable(output)
    rows = _stacked(input_list, f"{group.where} reduce_scatter")
    work = group.communicator.of(target).reduce_scatter_into(target, rows, op, async_op)
    return ended(work, [output], finish, async_op, f"{group.where} reduce_scatter")


def all_to_all(
    output_tensor_list: list[Any],
    input_tensor_list: list[Any],
    group: ProcessGroup | None = None,
    async_op: bool = False,
) -> Work | None:
    """Send the r-th input to rank r, and receive the r-th output from it; sizes may differ.

    Raises:
        ShapeError: a list does not have one tensor per rank, or a size is not the sender's.
    """
    group = entered(group)
    if group is None:
        return None
    _check_list(group, "all_to_all", input_tensor_list)
    _check_list(group, "all_to_all", output_tensor_list)
    inputs = [readable(tensor) for tensor in input_tensor_list]
    pairs = [writable(tensor) for tensor in output_tensor_list]
    arrays = group.communicator.of(inputs[0])
    work = arrays.all_to_all([array for array, _ in pairs], inputs, async_op)
    finish = _all_of([back for _, back in pairs if back is not None])
    return ended(work, list(output_tensor_list), finish, async_op, f"{group.where} all_to_all")


def all_to_all_single(
    output: Tensor | Array,
    input: Tensor | Array,
    output_split_sizes: list[int] | None = None,
    input_split_sizes: list[int] | None = None,
    group: ProcessGroup | None = None,
    async_op: bool = False,
) -> Work | None:
    """Cut the input along its first dimension, send part r to rank r, join what is received.

    Args:
        output, input: of any number of rows.
        output_split_sizes: rows that come from each rank; default: equal parts.
        input_split_sizes: rows that go to each rank; default: equal parts.
        group, async_op: see `all_reduce`.

    Raises:
        ShapeError: the sizes do not add up to the rows, or equal parts do not exist.
    """
    group = entered(group)
    if group is None:
        return None
    source = readable(input)
    target, finish = writable(output)
    inputs = _cut(group, source, input_split_sizes, "input")
    outputs = _cut(group, target, output_split_sizes, "output")
    work = group.communicator.of(source).all_to_all(outputs, inputs, async_op)
    return ended(work, [output], finish, async_op, f"{group.where} all_to_all_single")


def barrier(
    group: ProcessGroup | None = None,
    async_op: bool = False,
    device_ids: Any = None,
    timeout: timedelta | float | None = None,
) -> Work | None:
    """Return once every rank has called it.

    Args:
        group, async_op: see `all_reduce`.
        device_ids: accepted for PyTorch scripts, without meaning: the host waits, not a GPU.
        timeout: of this barrier; default: that of the group.
    """
    group = entered(group)
    if group is None:
        return None
    work = Work(group.communicator.barrier(async_op or timeout is not None), [], None,
                f"{group.where} barrier")  # fmt: skip
    if async_op:
        return work
    work.wait(None if timeout is None else seconds(timeout))
    return None


class _Several:
    """The works of several collectives as one."""

    def __init__(self, works: list[Any]) -> None:
        self._works = works

    def test(self) -> bool:
        while self._works and self._works[0].test():
            del self._works[0]
        return not self._works

    def wait(self) -> None:
        for work in self._works:
            work.wait()
        self._works = []


def _all_of(functions: list[Callable[[], None]]) -> Callable[[], None] | None:
    def call() -> None:
        for function in functions:
            function()

    return call if functions else None


def _spread(targets: list[Any], rows: Array, what: str) -> Callable[[], None]:
    for target in targets:
        if array_of(target).size != rows[0].size:
            store(target, rows[0], what)  # raises
    return _all_of(
        [partial(store, target, row, what) for target, row in zip(targets, rows, strict=True)]
    ) or (lambda: None)


def _stacked(tensors: list[Any], what: str) -> Array:
    arrays = [array_of(tensor) for tensor in tensors]
    shapes = {array.shape for array in arrays}
    if len(shapes) > 1:
        raise ShapeError(f"{what} needs tensors of one shape, got {sorted(shapes)}")
    return np.stack(arrays)


def _check_list(group: ProcessGroup, what: str, tensors: list[Any]) -> None:
    if len(tensors) != group.size:
        raise ShapeError(
            f"{group.where} {what} needs a list of {group.size} tensors, got {len(tensors)}"
        )


def _cut(group: ProcessGroup, array: Array, sizes: list[int] | None, which: str) -> list[Array]:
    rows = array.shape[0] if array.ndim else 1
    if not sizes:
        if rows % group.size:
            raise ShapeError(
                f"{group.where} all_to_all_single: {rows} rows of the {which} cannot be cut into "
                f"{group.size} equal parts; pass {which}_split_sizes"
            )
        sizes = [rows // group.size] * group.size
    if len(sizes) != group.size or sum(sizes) != rows:
        raise ShapeError(
            f"{group.where} all_to_all_single: {which}_split_sizes {sizes} must be {group.size} "
            f"numbers that add up to the {rows} rows"
        )
    ends = np.cumsum(sizes).tolist()
    return [array[end - size : end] for end, size in zip(ends, sizes, strict=True)]


all_gather_single = all_gather_into_tensor
reduce_scatter_single = reduce_scatter_tensor
