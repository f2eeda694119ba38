"""Groups of a communicator's ranks: what all of them must agree on before one is split off.

Stage of the flow: below the communicators. May import: `base`, `allgrad.errors`.
"""

from __future__ import annotations

from collections.abc import Sequence

from allgrad.ddp.communicators.base import Communicator, check_members
from allgrad.errors import DistributedError


def agree(communicator: Communicator, ranks: Sequence[int] | None) -> list[int] | None:
    """Collective. The caller's group, once all ranks have come and named fitting groups.

    Raises:
        DistributedError: on all ranks, if two members of a group name different lists.
    """
    error: str | None = None
    members: list[int] | None = None
    try:
        members = check_members(communicator, ranks)
    except DistributedError as wrong:
        error = str(wrong)
    named = communicator.all_gather_object((members, error))
    for rank, (group, wrong_there) in enumerate(named):
        if wrong_there is not None:
            raise DistributedError(wrong_there if rank == communicator.rank else
                                   f"{communicator.where} split: {wrong_there}")  # fmt: skip
        for member in group or ():
            if named[member][0] != group:
                raise DistributedError(
                    f"{communicator.where} split: rank {rank} names the group {group}, its member "
                    f"rank {member} {named[member][0]}; all members must name the same ranks in "
                    "the same order"
                )
    return members


def adopt(parent: Communicator, child: Communicator, members: list[int]) -> Communicator:
    """Let the messages of a split-off communicator name its ranks as the parent does."""
    child.home = parent.home or (parent.rank, parent.size)
    known = parent.members or tuple(range(parent.size))
    child.members = tuple(known[rank] for rank in members)
    return child
