"""Groups of some of the ranks; names as in ``torch.distributed``.

Stage of the flow: beside `process_group`, whose default group owns the groups made here. May
import: `process_group`, ``allgrad.errors``.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Any

from allgrad.ddp import gpus, spellings
from allgrad.ddp.communicators import gpu
from allgrad.ddp.process_group import GroupMember, ProcessGroup, default_group, member_of, seconds
from allgrad.errors import DistributedError, OptionError


def new_group(
    ranks: Sequence[int] | None = None,
    timeout: timedelta | float | None = None,
    backend: str | None = None,
    pg_options: Any = None,
    use_local_synchronization: bool = False,
    group_desc: str | None = None,
    device_id: Any = None,
    sort_ranks: bool = True,
) -> Any:
    """Collective over all ranks. A group of some of them.

    Args:
        ranks: numbers in the default group, the same list on every rank; default: all of them.
        timeout: of the group's collectives; default: as the default group.
        backend: only for `get_backend`; default: as the default group.
        use_local_synchronization: must be False: the ranks that are not members call it, too.
        group_desc: a name for messages.
        sort_ranks: number the members in ascending order; False: in the order of the list.
        pg_options, device_id: accepted for PyTorch scripts, without meaning.

    Returns:
        ProcessGroup; on ranks that are no members ``GroupMember.NON_GROUP_MEMBER``, with which
        every collective does nothing.

    Raises:
        DistributedError: ranks name different lists, or none that is a rank.
    """
    default = default_group()
    if use_local_synchronization:
        raise OptionError(
            f"{default.where} new_group(use_local_synchronization=True) is not there: call "
            "new_group on all ranks, with False"
        )
    members = list(range(default.size)) if ranks is None else [int(rank) for rank in ranks]
    if sort_ranks:
        members.sort()
    _check_ranks(default, members)
    made = _split(default, default, [members], timeout, backend, group_desc)
    return GroupMember.NON_GROUP_MEMBER if made is None else made


def new_subgroups(
    group_size: int | None = None,
    group: ProcessGroup | None = None,
    timeout: timedelta | float | None = None,
    backend: str | None = None,
    pg_options: Any = None,
    group_desc: str | None = None,
) -> tuple[Any, list[Any]]:
    """Collective. Cut the ranks into groups of consecutive ones.

    Args:
        group_size: ranks per group; default: the ranks per host.
        group: the ranks to cut; default: all.
        timeout, backend, pg_options, group_desc: see `new_group`.

    Returns:
        This rank's group, and all groups; those of others are ``GroupMember.NON_GROUP_MEMBER``.

    Raises:
        DistributedError: the number of ranks is no multiple of the size.
    """
    default = default_group()
    if group_size is None:
        group_size = default.place.local_size or default.size
    whole = default.ranks if group is None else group.ranks
    if group_size < 1 or len(whole) % group_size:
        raise DistributedError(
            f"{default.where} new_subgroups: {len(whole)} ranks cannot be cut into groups of "
            f"{group_size}; pass a group_size that divides {len(whole)}"
        )
    lists = [whole[i : i + group_size] for i in range(0, len(whole), group_size)]
    return new_subgroups_by_enumeration(lists, timeout, backend, pg_options, group_desc)


def new_subgroups_by_enumeration(
    ranks_per_subgroup_list: Sequence[Sequence[int]],
    timeout: timedelta | float | None = None,
    backend: str | None = None,
    pg_options: Any = None,
    group_desc: str | None = None,
) -> tuple[Any, list[Any]]:
    """Collective over all ranks. Several groups at once, which must not overlap.

    Args:
        ranks_per_subgroup_list: the ranks of each group, the same on every rank.
        timeout, backend, pg_options, group_desc: see `new_group`.

    Returns:
        This rank's group (or None), and all groups, as `new_group` gives them.

    Raises:
        DistributedError: groups overlap, or hold numbers that are no ranks.
    """
    default = default_group()
    lists = [sorted(int(rank) for rank in ranks) for ranks in ranks_per_subgroup_list]
    flat = [rank for ranks in lists for rank in ranks]
    _check_ranks(default, flat)
    made = _split(default, default, lists, timeout, backend, group_desc)
    groups = [made if default.rank in ranks else GroupMember.NON_GROUP_MEMBER for ranks in lists]
    return made, groups


def split_group(
    parent_pg: ProcessGroup | None = None,
    split_ranks: Sequence[Sequence[int]] | None = None,
    timeout: timedelta | float | None = None,
    pg_options: Any = None,
    group_desc: str | None = None,
    backend: str | None = None,
) -> ProcessGroup | None:
    """Collective over the parent. The part of it that this rank belongs to, or None.

    Args:
        parent_pg: default: the default group.
        split_ranks: the ranks of each part, by their numbers in the parent.
        timeout, pg_options, group_desc, backend: see `new_group`.

    Raises:
        DistributedError: parts overlap, or hold numbers that are no ranks.
    """
    parent = member_of(parent_pg)
    if parent is None:
        return None
    lists = [list(ranks) for ranks in split_ranks or ()]
    _check_ranks(parent, [rank for ranks in lists for rank in ranks])
    return _split(default_group(), parent, lists, timeout, backend, group_desc)


def get_process_group_ranks(group: ProcessGroup | None) -> list[int]:
    """The numbers of the group's ranks in the default group, in the group's order."""
    mine = member_of(group)
    if mine is None:
        raise DistributedError("get_process_group_ranks: this rank is not in the group")
    return list(mine.ranks)


def get_group_rank(group: ProcessGroup, global_rank: int) -> int:
    """The number in the group of a rank of the default group.

    Raises:
        DistributedError: it is not in the group.
    """
    ranks = get_process_group_ranks(group)
    if global_rank not in ranks:
        raise DistributedError(f"rank {global_rank} is not in the group of the ranks {ranks}")
    return ranks.index(global_rank)


def get_global_rank(group: ProcessGroup, group_rank: int) -> int:
    """The number in the default group of a rank of the group.

    Raises:
        DistributedError: the group has no such rank.
    """
    ranks = get_process_group_ranks(group)
    if not 0 <= group_rank < len(ranks):
        raise DistributedError(f"group rank {group_rank} is none of 0 to {len(ranks) - 1}")
    return ranks[group_rank]


def get_pg_count() -> int:
    """How many groups there are, the default one included."""
    return 1 + len(default_group().groups)


def _split(
    default: ProcessGroup,
    parent: ProcessGroup,
    lists: list[list[int]],
    timeout: timedelta | float | None,
    backend: str | None,
    name: str | None,
) -> ProcessGroup | None:
    parent.meet()
    asked = spellings.backend_of(backend) or parent.backend
    gpus.check_backend(asked if backend else None)
    mine = next((ranks for ranks in lists if parent.rank in ranks), None)
    communicator = parent.communicator.split(mine)
    gpu.split(parent.communicator, communicator, mine)
    default.groups_made += 1
    if communicator is None:
        return None
    if timeout is not None:
        communicator.timeout_s = seconds(timeout)
    group = ProcessGroup(communicator, default.place, asked, name or f"group {default.groups_made}")
    default.groups.append(group)
    return group


def _check_ranks(group: ProcessGroup, ranks: list[int]) -> None:
    bad = [rank for rank in ranks if not 0 <= rank < group.size]
    twice = sorted({rank for rank in ranks if ranks.count(rank) > 1})
    if bad or twice or not ranks:
        problem = f"{bad} are no ranks" if bad else f"{twice} come twice" if twice else "none given"
        raise DistributedError(
            f"{group.where} ranks {ranks}: {problem}; expected different ranks of 0 to "
            f"{group.size - 1}"
        )
