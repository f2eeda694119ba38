"""Collectives and messages of picklable objects; names as in ``torch.distributed``.

Stage of the flow: between user code and a group's communicator, for small control data. May import:
`payload`, `messages`, `process_group`. Objects are pickled: take them from ranks you trust.
"""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np

from allgrad.ddp.communicators.base import Array
from allgrad.ddp.messages import RESERVED_TAG
from allgrad.ddp.payload import entered, joined, number_in
from allgrad.ddp.process_group import ProcessGroup
from allgrad.errors import ShapeError

_LENGTHS, _CONTENT = RESERVED_TAG + 20, RESERVED_TAG + 21


def all_gather_object(object_list: list[Any], obj: Any, group: ProcessGroup | None = None) -> None:
    """Fill the list, which has one place per rank, with the ranks' picklable objects.

    Raises:
        ShapeError: the list does not have one place per rank.
    """
    mine = entered(group)
    if mine is not None:
        _check_places(mine, "all_gather_object", object_list)
        object_list[:] = mine.communicator.all_gather_object(obj)


def gather_object(
    obj: Any,
    object_gather_list: list[Any] | None = None,
    dst: int | None = None,
    group: ProcessGroup | None = None,
    group_dst: int | None = None,
) -> None:
    """Fill the list of rank `dst` (default 0), one place per rank, with the ranks' objects.

    Raises:
        ShapeError: on `dst`, the list does not have one place per rank.
    """
    mine = entered(group)
    if mine is None:
        return
    c, root = mine.communicator, number_in(mine, dst, group_dst, "gather_object")
    if mine.rank == root:
        _check_places(mine, "gather_object", object_gather_list or [])
    data = _pickled(obj)
    lengths = c.all_gather(np.array(data.size, np.int64))
    padded = np.zeros(int(lengths.max()), np.uint8)
    padded[: data.size] = data
    rows = np.empty((mine.size, padded.size), np.uint8) if mine.rank == root else None
    c.gather(padded, rows, root)
    if rows is not None and object_gather_list is not None:
        pairs = zip(rows, lengths.tolist(), strict=True)
        object_gather_list[:] = [_unpickled(row[:length]) for row, length in pairs]


def broadcast_object(obj: Any, src: int = 0, group: ProcessGroup | None = None) -> Any:
    """Return the picklable object of rank `src` on every rank."""
    mine = entered(group)
    if mine is None:
        return obj
    root = number_in(mine, src, None, "broadcast_object")
    return mine.communicator.broadcast_object(obj, root)


def broadcast_object_list(
    object_list: list[Any],
    src: int | None = None,
    group: ProcessGroup | None = None,
    device: Any = None,
    group_src: int | None = None,
) -> None:
    """Replace the list's objects on every rank by those of rank `src` (default 0)."""
    mine = entered(group)
    if mine is not None:
        root = number_in(mine, src, group_src, "broadcast_object_list")
        object_list[:] = mine.communicator.broadcast_object(list(object_list), root)


def scatter_object_list(
    scatter_object_output_list: list[Any],
    scatter_object_input_list: list[Any] | None = None,
    src: int | None = None,
    group: ProcessGroup | None = None,
    group_src: int | None = None,
) -> None:
    """Put into the first place of each rank's output its object of the list of rank `src`.

    Raises:
        ShapeError: on `src`, the list does not have one object per rank; an output list is empty.
    """
    mine = entered(group)
    if mine is None:
        return
    c, root = mine.communicator, number_in(mine, src, group_src, "scatter_object_list")
    if not scatter_object_output_list:
        raise ShapeError(f"{mine.where} scatter_object_list needs an output list with a place")
    lengths = np.zeros(mine.size, np.int64)
    parts: list[Array] = []
    if mine.rank == root:
        _check_places(mine, "scatter_object_list", scatter_object_input_list or [])
        parts = [_pickled(obj) for obj in scatter_object_input_list or []]
        lengths[:] = [part.size for part in parts]
    c.broadcast(lengths, root)
    row = np.empty(int(lengths.max()), np.uint8)
    rows = np.zeros((mine.size, row.size), np.uint8) if mine.rank == root else None
    if rows is not None:
        for place, part in zip(rows, parts, strict=True):
            place[: part.size] = part
    c.scatter(row, rows, root)
    scatter_object_output_list[0] = _unpickled(row[: lengths[mine.rank]])


def send_object_list(
    object_list: list[Any],
    dst: int | None = None,
    group: ProcessGroup | None = None,
    device: Any = None,
    group_dst: int | None = None,
    use_batch: bool = False,
) -> None:
    """Send the objects of a list to one rank, which calls `recv_object_list`."""
    mine = joined(group)
    if mine is None:
        return
    c, peer = mine.communicator, number_in(mine, dst, group_dst, "send_object_list")
    parts = [_pickled(obj) for obj in object_list]
    lengths = np.array([len(parts), sum(part.size for part in parts)], np.int64)
    c.isend(lengths, peer, _LENGTHS).wait()
    sizes = np.array([part.size for part in parts], np.int64).view(np.uint8)
    c.isend(np.concatenate([sizes, *parts]), peer, _CONTENT).wait()


def recv_object_list(
    object_list: list[Any],
    src: int | None = None,
    group: ProcessGroup | None = None,
    device: Any = None,
    group_src: int | None = None,
    use_batch: bool = False,
) -> int:
    """Replace the list's objects by those that one rank sends; return its global number.

    Raises:
        ShapeError: the sender's list has another length.
    """
    mine = joined(group)
    if mine is None:
        return -1
    c, peer = mine.communicator, None
    if src is not None or group_src is not None:
        peer = number_in(mine, src, group_src, "recv_object_list")
    lengths = np.zeros(2, np.int64)
    work: Any = c.irecv(lengths, peer, _LENGTHS)
    work.wait()
    count, total = lengths.tolist()
    content = np.empty(8 * count + total, np.uint8)
    c.irecv(content, work.source, _CONTENT).wait()
    if count != len(object_list):
        raise ShapeError(
            f"{mine.where} recv_object_list: the list has {len(object_list)} places, rank "
            f"{mine.ranks[work.source]} sent {count} objects"
        )
    ends = np.cumsum(content[: 8 * count].view(np.int64)).tolist()
    data, start = content[8 * count :], 0
    for place, end in enumerate(ends):
        object_list[place] = _unpickled(data[start:end])
        start = end
    return int(mine.ranks[work.source])


def _pickled(obj: Any) -> Array:
    return np.frombuffer(pickle.dumps(obj, protocol=5), np.uint8)


def _unpickled(data: Array) -> Any:
    return pickle.loads(data.tobytes())


def _check_places(group: ProcessGroup, what: str, objects: list[Any]) -> None:
    if len(objects) != group.size:
        raise ShapeError(
            f"{group.where} {what} needs a list of {group.size} places, got {len(objects)}"
        )
