"""How arrays of GPUs travel: by NCCL, or through main memory; and which GPU a rank takes.

Stage of the flow: asked by `Communicator.of` when the first array of a GPU comes. May import:
`base`, `local`, `allgrad.backend.arrays`; what needs CuPy only when it is opened.

Note [Two communicators]
    Every group has one communicator for arrays of main memory: step headers, tails, metrics,
    objects, and everything on the CPU. For arrays of GPUs it has a part, its `gpu_part`: NCCL's
    communicator, found with the help of the first one, or one that takes arrays through pinned main
    memory and the first one. ``communicator.of(array)`` is the one that serves an array. Purposes
    (`note`) and steps are told to the first one; the part asks it.
"""

from __future__ import annotations

import logging
import os
import socket
from collections import defaultdict
from collections.abc import Sequence
from typing import Any, NamedTuple

from allgrad.backend import arrays
from allgrad.ddp.communicators.base import Communicator, aligned_zeros
from allgrad.errors import DistributedError

_log = logging.getLogger("allgrad.ddp")

NCCL, STAGED = "nccl", "staged"
POLICIES = (NCCL, STAGED)
FIRST_WITH_SHARING = 23000  # NCCL 2.30
_OTHER_WAY = (
    "leave backend out, or use init_process_group('mpi'): arrays then travel through main memory"
)


class GpuFacts(NamedTuple):
    """What one rank knows of its GPU.

    Attributes:
        host: name of its host.
        gpu: bus number of the GPU that it uses, the same for all ranks that use this one.
        visible: GPUs that the rank sees.
        nccl: version of NCCL, e.g. 22809; 0: none.
        problem: why NCCL cannot be used here, a sentence; "" if it can.
        shares: whether NCCL was told that ranks share GPUs: NCCL_MULTI_RANK_GPU_ENABLE=1.
    """

    host: str
    gpu: str
    visible: int
    nccl: int
    problem: str
    shares: bool


def part_for(control: Communicator, array: Any) -> Communicator:
    """Collective where the first array of a GPU comes. See Note [Two communicators]."""
    if not arrays.on_device(array):
        return control
    part = control.gpu_part
    if part is None:
        part = control.gpu_part = open_part(control)
    return part


def open_part(control: Communicator) -> Communicator:
    """Collective. The communicator for arrays of GPUs that fits the ranks and `gpu_policy`.

    Raises:
        DistributedError: on all ranks, if NCCL was asked for and cannot be used.
    """
    from allgrad.ddp.communicators import gpu_base  # noqa: PLC0415 - needs CuPy

    if control.size == 1 and control.gpu_policy != NCCL:
        return gpu_base.LocalGpu(control.timeout_s)
    before, control.note = control.note, "the way of GPU arrays"
    facts = [GpuFacts(*row) for row in control.all_gather_object(tuple(gpu_base.look()))]
    control.note = before
    why_not = obstacle(facts)
    if control.gpu_policy == NCCL and why_not:
        raise DistributedError(f"{control.where} backend 'nccl' cannot be used: {why_not}")
    if control.gpu_policy == STAGED or why_not:
        if why_not and control.gpu_policy is None and control.rank == 0:
            _log.warning("arrays of GPUs travel through main memory, not by NCCL: %s", why_not)
        from allgrad.ddp.communicators.staged import StagedCommunicator  # noqa: PLC0415 - as above

        return StagedCommunicator(control)
    from allgrad.ddp.communicators.nccl import NcclCommunicator  # noqa: PLC0415 - as above

    return NcclCommunicator.open(control)


def split(parent: Communicator, part: Communicator | None, members: Sequence[int] | None) -> None:
    """Collective over `parent`, of which `part` was split off: the same with what GPUs have.

    Args:
        parent: the communicator of all.
        part: what `Communicator.split` returned.
        members: what it was given.
    """
    if part is not None:
        part.gpu_policy = parent.gpu_policy
    own: Any = parent.gpu_part
    if own is not None and own.name == NCCL:
        own.split_into(part, members)


def obstacle(facts: Sequence[GpuFacts]) -> str:
    """Why these ranks cannot use NCCL, and what to do; "" if they can.

    Example:
        >>> two = [GpuFacts("node1", gpu, 2, 22809, "", False) for gpu in ("0000:01", "0000:02")]
        >>> obstacle(two)
        ''
        >>> obstacle([two[0], two[0]])[:47]
        'host node1 has 2 GPUs, but ranks 0 and 1 use on'
    """
    problems: dict[str, list[int]] = defaultdict(list)
    for rank, fact in enumerate(facts):
        if fact.problem:
            problems[fact.problem].append(rank)
    if problems:
        told = "; ".join(f"{_ranks(ranks)}: {text}" for text, ranks in problems.items())
        return f"{told}. Or {_OTHER_WAY}"
    users: dict[tuple[str, str], list[int]] = defaultdict(list)
    for rank, fact in enumerate(facts):
        users[fact.host, fact.gpu].append(rank)
    crowded = [(place, ranks) for place, ranks in users.items() if len(ranks) > 1]
    able = all(fact.shares and fact.nccl >= FIRST_WITH_SHARING for fact in facts)
    if not crowded or able:
        return ""
    (host, _), ranks = crowded[0]
    return _too_few(facts, host, ranks)


def _too_few(facts: Sequence[GpuFacts], host: str, ranks: list[int]) -> str:
    there = [fact for fact in facts if fact.host == host]
    visible = max(fact.visible for fact in there)
    gpus = f"{visible} GPU" + ("s" if visible > 1 else "")
    if visible < len(there):
        return (
            f"host {host} has {gpus} for {len(there)} ranks, and NCCL wants one for each "
            f"({_ranks(ranks)} would share one). Start {visible} rank{'s' * (visible > 1)} there, "
            f"or {_OTHER_WAY}"
        )
    return (
        f"host {host} has {gpus}, but {_ranks(ranks)} use one and the same; NCCL wants one for "
        "each. Call cuda.set_device(ddp.get_local_rank()) before the first tensor, or leave the "
        f"choice to init_process_group; or {_OTHER_WAY}"
    )


def zeros_beside(communicator: Communicator, array: Any, size_bytes: int) -> Any:
    """Zeroed, aligned bytes of this rank's own, where the array lies."""
    if arrays.on_device(array):
        return communicator.of(array).allocate(size_bytes)
    return aligned_zeros(size_bytes)


def _ranks(ranks: Sequence[int]) -> str:
    if len(ranks) == 1:
        return f"rank {ranks[0]}"
    return f"ranks {', '.join(map(str, ranks[:-1]))} and {ranks[-1]}"


def index_of(local_rank: int | None, visible: int) -> int:
    """Which of the GPUs that a rank sees it takes: that of its number on its host.

    A rank that sees one GPU takes it: Slurm's ``--gpus-per-task=1``, or CUDA_VISIBLE_DEVICES for
    each rank, gives it its own. Where there are more ranks than GPUs, they take turns.

    Example:
        >>> [index_of(rank, 4) for rank in range(4)], index_of(3, 1), index_of(5, 4)
        ([0, 1, 2, 3], 0, 1)
    """
    return (local_rank or 0) % visible if visible > 0 else 0


def host_name() -> str:
    """The name of this host, for `GpuFacts`."""
    return socket.gethostname()


def told_to_share() -> bool:
    """Whether NCCL was told that ranks share a GPU."""
    return os.environ.get("NCCL_MULTI_RANK_GPU_ENABLE") == "1"
