"""Which rank is this process, and of how many: read from the launcher's environment variables.

First stage of ``init_process_group``. A pure function of the environment: it starts no MPI, and may
import ``allgrad.errors`` only. Every launcher is one row of ``FAMILIES``.

Sources: Open MPI manual "Environment variables set by mpirun"; MPICH's Hydra and Intel MPI set the
PMI-1 names and ``MPI_LOCALRANKID``; srun(1) "OUTPUT ENVIRONMENT VARIABLES"; torchrun's manual.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace

from allgrad.errors import DistributedError


@dataclass(frozen=True)
class RankEnvironment:
    """Place of this process in its job, as its launcher declares it.

    Attributes:
        rank: number of this process, 0 <= rank < size.
        size: number of processes in the job.
        local_rank: number of this process among those of its host; None where none tells.
        local_size: number of processes on this host; None where none tells.
        node_rank: number of this host in the job; None where none tells.
        node_count: number of hosts in the job; None where none tells.
        launcher: "allgrad", "openmpi", "pmi", "mvapich", "torchrun", "slurm", or "none" (one rank).
    """

    rank: int
    size: int
    local_rank: int | None
    local_size: int | None
    node_rank: int | None
    node_count: int | None
    launcher: str


@dataclass(frozen=True)
class Family:
    """Variable names of one launcher; the first name that is set counts."""

    launcher: str
    rank: tuple[str, ...]
    size: tuple[str, ...]
    local_rank: tuple[str, ...] = ()
    local_size: tuple[str, ...] = ()
    node_rank: tuple[str, ...] = ()
    node_count: tuple[str, ...] = ()


ALLGRAD = Family(
    "allgrad",
    ("ALLGRAD_RANK",),
    ("ALLGRAD_WORLD_SIZE",),
    ("ALLGRAD_LOCAL_RANK",),
    ("ALLGRAD_LOCAL_WORLD_SIZE",),
    ("ALLGRAD_NODE_RANK",),
    ("ALLGRAD_NODE_COUNT",),
)
OPENMPI = Family(
    "openmpi",
    ("OMPI_COMM_WORLD_RANK",),
    ("OMPI_COMM_WORLD_SIZE",),
    ("OMPI_COMM_WORLD_LOCAL_RANK",),
    ("OMPI_COMM_WORLD_LOCAL_SIZE",),
)
MVAPICH = Family(
    "mvapich",
    ("MV2_COMM_WORLD_RANK",),
    ("MV2_COMM_WORLD_SIZE",),
    ("MV2_COMM_WORLD_LOCAL_RANK",),
    ("MV2_COMM_WORLD_LOCAL_SIZE",),
)
PMI = Family("pmi", ("PMI_RANK",), ("PMI_SIZE",), ("MPI_LOCALRANKID",), ("MPI_LOCALNRANKS",))
TORCHRUN = Family(
    "torchrun",
    ("RANK",),
    ("WORLD_SIZE",),
    ("LOCAL_RANK",),
    ("LOCAL_WORLD_SIZE",),
    ("GROUP_RANK",),
    ("GROUP_WORLD_SIZE",),
)
# Values of the step come first: SLURM_NTASKS may still be the allocation's.
SLURM = Family(
    "slurm",
    ("SLURM_PROCID",),
    ("SLURM_STEP_NUM_TASKS", "SLURM_NTASKS", "SLURM_NPROCS"),
    ("SLURM_LOCALID",),
    (),
    ("SLURM_NODEID",),
    ("SLURM_STEP_NUM_NODES", "SLURM_NNODES"),
)

# In the order of trust. Slurm is last: an mpiexec or torchrun started inside a Slurm step is the
# true launcher, and the step's variables are those of its parent.
FAMILIES = (ALLGRAD, OPENMPI, MVAPICH, PMI, TORCHRUN, SLURM)
# Each of these describes the job's own processes: two that disagree are a stale environment.
_MUST_AGREE = (OPENMPI, MVAPICH, PMI, TORCHRUN)


def discover(environ: Mapping[str, str] = os.environ) -> RankEnvironment:
    """Return rank and size of this process as its launcher declares them.

    Args:
        environ: environment variables; default those of this process.

    Returns:
        The place of this process; rank 0 of 1 with launcher "none" where no launcher is found. A
        Slurm batch shell is no rank: its ``SLURM_PROCID`` is 0 although nothing was started.

    Raises:
        DistributedError: a variable is not a whole number, one of a pair is missing, a rank is
            outside its size, or two launchers' variables contradict each other.

    Example:
        >>> discover({"PMI_RANK": "1", "PMI_SIZE": "2"}).rank
        1
        >>> discover({}).launcher
        'none'
    """
    found = [
        _read(family, environ) for family in _families(environ) if _is_present(family, environ)
    ]
    if not found:
        return RankEnvironment(0, 1, 0, 1, 0, 1, "none")
    if found[0].launcher != ALLGRAD.launcher:
        _check_agreement(found, environ)
    place = _add_places(found[0], found, environ)
    _check_range(place)
    return place


def _families(environ: Mapping[str, str]) -> tuple[Family, ...]:
    """The launchers in the order of trust; `allgrad run` sets torchrun's variables itself."""
    if "ALLGRAD_RANK_VARIABLE" not in environ:
        return FAMILIES
    return (*(family for family in FAMILIES if family is not TORCHRUN), TORCHRUN)


def _is_present(family: Family, environ: Mapping[str, str]) -> bool:
    rank, size = _first(family.rank, environ), _first(family.size, environ)
    if family is SLURM:
        # The batch shell has SLURM_PROCID=0 and SLURM_NTASKS=n but belongs to no step of srun.
        return rank is not None and _is_slurm_step(environ)
    if family is TORCHRUN:
        # RANK alone is too common a name to mean anything.
        return rank is not None and size is not None
    return rank is not None or size is not None


def _is_slurm_step(environ: Mapping[str, str]) -> bool:
    step = environ.get("SLURM_STEP_ID", environ.get("SLURM_STEPID", ""))
    return step.isdigit() and int(step) < 0xFFFFFFF0  # above: batch, extern and interactive shells


def _first(names: tuple[str, ...], environ: Mapping[str, str]) -> str | None:
    """Return the first of the names that is set."""
    return next((name for name in names if environ.get(name, "") != ""), None)


def _integer(names: tuple[str, ...], environ: Mapping[str, str]) -> int | None:
    name = _first(names, environ)
    if name is None:
        return None
    text = environ[name]
    if re.fullmatch(r"\d+", text.strip()) is None:
        raise DistributedError(
            f"environment variable {name}={text!r}: expected a whole number >= 0; unset it, "
            "or start the script with `allgrad run` or mpiexec, which set it"
        )
    return int(text)


def _read(family: Family, environ: Mapping[str, str]) -> RankEnvironment:
    rank, size = _integer(family.rank, environ), _integer(family.size, environ)
    if rank is None or size is None:
        given, missing = (family.size, family.rank) if rank is None else (family.rank, family.size)
        raise DistributedError(
            f"{_first(given, environ)} is set but {missing[0]} is not: the environment holds half "
            f"of what the launcher {family.launcher!r} sets; unset the one or set both"
        )
    return RankEnvironment(
        rank,
        size,
        _integer(family.local_rank, environ),
        _integer(family.local_size, environ),
        _integer(family.node_rank, environ),
        _integer(family.node_count, environ),
        family.launcher,
    )


def _check_agreement(found: list[RankEnvironment], environ: Mapping[str, str]) -> None:
    families = {family.launcher: family for family in _MUST_AGREE}
    peers = [place for place in found if place.launcher in families]
    for other in peers[1:]:
        if (other.rank, other.size) == (peers[0].rank, peers[0].size):
            continue
        described = [
            f"{_first(families[p.launcher].rank, environ)}={p.rank} and "
            f"{_first(families[p.launcher].size, environ)}={p.size}"
            for p in (peers[0], other)
        ]
        raise DistributedError(
            f"two launchers contradict each other: {described[0]}, but {described[1]}; one pair is "
            "left over from an outer job: unset it, or set ALLGRAD_RANK and ALLGRAD_WORLD_SIZE"
        )


def _add_places(
    place: RankEnvironment, others: list[RankEnvironment], environ: Mapping[str, str]
) -> RankEnvironment:
    """Fill in what only other variables of the same job tell: where the ranks are.

    ``srun --mpi=pmi2`` tells it by Slurm's names, ``allgrad run`` by those of torchrun.
    """
    for other in others:
        if (other.rank, other.size) != (place.rank, place.size):
            continue
        local_size = other.local_size
        if local_size is None and other.launcher == SLURM.launcher:
            local_size = _slurm_local_size(other, environ)
        place = fill_in(place, other.local_rank, local_size, other.node_rank, other.node_count)
    return place


def fill_in(
    place: RankEnvironment,
    local_rank: int | None,
    local_size: int | None,
    node_rank: int | None,
    node_count: int | None,
) -> RankEnvironment:
    """Fill in where the rank is, as far as the launcher does not say it."""
    return replace(
        place,
        local_rank=local_rank if place.local_rank is None else place.local_rank,
        local_size=local_size if place.local_size is None else place.local_size,
        node_rank=node_rank if place.node_rank is None else place.node_rank,
        node_count=node_count if place.node_count is None else place.node_count,
    )


def _slurm_local_size(step: RankEnvironment, environ: Mapping[str, str]) -> int | None:
    """Read this host's entry of a list such as "2(x3),1" (three hosts of two tasks, one of one)."""
    name = _first(("SLURM_STEP_TASKS_PER_NODE", "SLURM_TASKS_PER_NODE"), environ)
    if name is None or step.node_rank is None:
        return None
    counts: list[int] = []
    for part in environ[name].split(","):
        match = re.fullmatch(r"(\d+)(?:\(x(\d+)\))?", part.strip())
        if match is None:
            raise DistributedError(
                f"environment variable {name}={environ[name]!r}: expected counts such as '2(x3),1'"
            )
        counts += [int(match[1])] * int(match[2] or 1)
    return counts[step.node_rank] if step.node_rank < len(counts) else None


def _check_range(place: RankEnvironment) -> None:
    pairs = (
        ("rank", place.rank, "size", place.size),
        ("local rank", place.local_rank, "local size", place.local_size),
        ("node rank", place.node_rank, "node count", place.node_count),
    )
    for what, index, total_name, total in pairs:
        if index is not None and total is not None and index >= total:
            raise DistributedError(
                f"launcher {place.launcher!r} gives {what} {index} and {total_name} {total}: "
                f"expected {what} < {total_name}; the environment mixes two jobs, unset the old one"
            )
    if place.local_size is not None and place.local_size > place.size:
        raise DistributedError(
            f"launcher {place.launcher!r} gives local size {place.local_size}, more than size "
            f"{place.size}; the environment mixes two jobs, unset the old one"
        )
