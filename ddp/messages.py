"""Messages between two ranks; names and arguments as in ``torch.distributed``.

Stage of the flow: between user code and a group's communicator. May import: `payload`,
`process_group`, `communicators`, `work`, `allgrad`.

Messages have no place in the order of collectives: ranks that take no part need not call anything.
Those between two ranks with one tag arrive in the order in which they were sent.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from datetime import timedelta
from typing import Any

import numpy as np

from allgrad import Tensor
from allgrad.ddp.communicators.base import Array, MessageError
from allgrad.ddp.payload import array_of, changed, entered, joined, number_in, readable, writable
from allgrad.ddp.process_group import ProcessGroup, seconds
from allgrad.ddp.work import Work
from allgrad.errors import DistributedError, OptionError

RESERVED_TAG = 1 << 22  # from here on tags are ours
_ARRIVED, _ANSWER = RESERVED_TAG + 10, RESERVED_TAG + 11


def isend(
    tensor: Tensor | Array,
    dst: int | None = None,
    group: ProcessGroup | None = None,
    tag: int = 0,
    group_dst: int | None = None,
) -> Work | None:
    """Start to send a tensor, which must stay as it is until the Work is done.

    Args:
        tensor: Tensor or numpy array.
        dst: the receiver, by its number in the default group.
        group: default: the default group.
        tag: 0 to 4194303; only a receive with the same tag takes the message.
        group_dst: the receiver by its number in the group, instead of `dst`.

    Returns:
        Work; None on a rank that is not in the group.
    """
    mine = joined(group)
    if mine is None:
        return None
    _check_tag(mine, tag)
    peer = number_in(mine, dst, group_dst, "send")
    array = readable(tensor)
    work = mine.communicator.of(array).isend(array, peer, tag)
    return Work(work, [tensor], None, f"{mine.where} send to rank {mine.ranks[peer]}")


def irecv(
    tensor: Tensor | Array,
    src: int | None = None,
    group: ProcessGroup | None = None,
    tag: int = 0,
    group_src: int | None = None,
) -> Work | None:
    """Start to receive into a tensor; without `src` and `group_src` from whoever comes first.

    See `isend`; ``work.source_rank()`` tells the sender's number in the group.
    """
    mine = joined(group)
    if mine is None:
        return None
    _check_tag(mine, tag)
    peer = None
    if src is not None or group_src is not None:
        peer = number_in(mine, src, group_src, "recv")
    array, finish = writable(tensor)
    work = mine.communicator.of(array).irecv(array, peer, tag)
    changed([tensor])
    whom = "any rank" if peer is None else f"rank {mine.ranks[peer]}"
    return Work(work, [tensor], finish, f"{mine.where} recv from {whom}")


def send(
    tensor: Tensor | Array,
    dst: int | None = None,
    group: ProcessGroup | None = None,
    tag: int = 0,
    group_dst: int | None = None,
) -> None:
    """Send a tensor; see `isend`. Returns when the tensor may be changed."""
    work = isend(tensor, dst, group, tag, group_dst)
    if work is not None:
        work.wait()


def recv(
    tensor: Tensor | Array,
    src: int | None = None,
    group: ProcessGroup | None = None,
    tag: int = 0,
    group_src: int | None = None,
) -> int:
    """Receive into a tensor; see `irecv`. Returns the sender's number in the default group.

    Raises:
        DistributedError: the sender has ended, or nothing came within the time-out.
        ShapeError: what came has another size.
    """
    mine = joined(group)
    work = irecv(tensor, src, group, tag, group_src)
    if work is None or mine is None:
        return -1
    work.wait()
    return mine.ranks[work.source_rank()]


class P2POp:
    """One message of `batch_isend_irecv`.

    Args:
        op: `isend` or `irecv`.
        tensor, peer, group, tag, group_peer: the arguments of that function.
    """

    def __init__(
        self,
        op: Callable[..., Any],
        tensor: Tensor | Array,
        peer: int | None = None,
        group: ProcessGroup | None = None,
        tag: int = 0,
        group_peer: int | None = None,
    ) -> None:
        if op not in (isend, irecv):
            raise OptionError(f"P2POp: op must be isend or irecv of allgrad.ddp, came {op!r}")
        self.op, self.tensor, self.peer, self.group = op, tensor, peer, group
        self.tag, self.group_peer = tag, group_peer


def batch_isend_irecv(p2p_op_list: Sequence[P2POp]) -> list[Work]:
    """Start all messages of a list, in any order between the ranks; their Works, in order."""
    groups = [(joined(o.group), o.tensor) for o in p2p_op_list]
    parts = [g.communicator.of(array_of(tensor)) for g, tensor in groups if g is not None]
    with ExitStack() as together:
        for part in dict.fromkeys(parts):
            together.enter_context(part.together())
        works = [o.op(o.tensor, o.peer, o.group, o.tag, o.group_peer) for o in p2p_op_list]
    return [work for work in works if work is not None]


def monitored_barrier(
    group: ProcessGroup | None = None,
    timeout: timedelta | float | None = None,
    wait_all_ranks: bool = False,
) -> None:
    """A barrier whose error names the ranks that have not come.

    Args:
        group: default: the default group.
        timeout: seconds or a timedelta; default: that of the group.
        wait_all_ranks: accepted for PyTorch scripts: all missing ranks are named anyway.

    Raises:
        DistributedError: on all ranks that have come.
    """
    mine = entered(group)
    if mine is None or mine.size == 1:
        return
    limit_s = mine.communicator.timeout_s if timeout is None else seconds(timeout)
    missing = _collect(mine, limit_s) if mine.rank == 0 else _report(mine, limit_s)
    if missing:
        names = ", ".join(str(mine.ranks[rank]) for rank in missing)
        raise DistributedError(
            f"{mine.where} monitored_barrier: not there after {limit_s:g} s: "
            f"{'rank' if len(missing) == 1 else 'ranks'} {names}"
        )


def _collect(group: ProcessGroup, limit_s: float) -> list[int]:
    """Rank 0: who has not come in time; tell those that have."""
    c, empty = group.communicator, np.empty(0, np.uint8)
    works: list[Any] = [c.irecv(empty, rank, _ARRIVED) for rank in range(1, group.size)]
    end = c.now() + limit_s
    missing = []
    for rank, work in enumerate(works, 1):
        try:
            work.wait(max(0.01, end - c.now()))
        except MessageError:
            missing.append(rank)
    answer = np.zeros(group.size, np.uint8)
    answer[missing] = 1
    for rank in range(1, group.size):
        if rank not in missing:
            c.isend(answer, rank, _ANSWER).wait()
    return missing


def _report(group: ProcessGroup, limit_s: float) -> list[int]:
    c, answer = group.communicator, np.zeros(group.size, np.uint8)
    c.isend(np.empty(0, np.uint8), 0, _ARRIVED).wait()
    work: Any = c.irecv(answer, 0, _ANSWER)
    try:
        work.wait(2 * limit_s + 1)  # rank 0 may come late itself, and then waits for others
    except MessageError:
        return [0]
    return [int(rank) for rank in np.flatnonzero(answer)]


def _check_tag(group: ProcessGroup, tag: int) -> None:
    if not 0 <= tag < RESERVED_TAG:
        raise OptionError(f"{group.where} tag {tag}: expected 0 to {RESERVED_TAG - 1}")
