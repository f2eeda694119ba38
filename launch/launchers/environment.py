"""Environment variables that every launcher gives its ranks, and those it takes away."""

from __future__ import annotations

from collections.abc import Mapping

from allgrad.ddp.environment import FAMILIES, SLURM
from allgrad.launch.spec import LaunchSpec
from allgrad.launch.worker_link import THREAD_VARIABLES


def rank_environment(
    spec: LaunchSpec, environ: Mapping[str, str], rank_variable: str
) -> dict[str, str]:
    """Return the variables that the ranks of a job get.

    Args:
        spec: the job.
        environ: environment of the user; what is set there on purpose stays.
        rank_variable: in which the launcher gives each process its rank.
    """
    env = {"ALLGRAD_RANK_VARIABLE": rank_variable}
    if spec.threads_per_rank:
        env |= dict.fromkeys(THREAD_VARIABLES, str(spec.threads_per_rank))
    if spec.hosts:
        # By this, and what it finds on its host, the worker decides about threads and cores.
        env["MASTER_ADDR"] = environ.get("MASTER_ADDR", spec.used_hosts[0][0].name)
        env["ALLGRAD_RANKS_PER_HOST"] = ",".join(str(ranks) for _, ranks in spec.used_hosts)
    if spec.bind:
        env["ALLGRAD_BIND"] = ";".join(",".join(map(str, cores)) for cores in spec.bind)
    # A crash inside a library (SIGSEGV) then shows the Python line that led there.
    env["PYTHONFAULTHANDLER"] = environ.get("PYTHONFAULTHANDLER", "1")
    return env | dict(spec.env)


def stale_variables(environ: Mapping[str, str]) -> tuple[str, ...]:
    """Return the names by which an outer job would mislead the ranks of a new one.

    Slurm's stay: users name files by ``SLURM_JOB_ID``, and ``discover`` trusts them last.

    Example:
        >>> stale_variables({"PMI_RANK": "0", "PMIX_RANK": "0", "HOME": "/root"})
        ('PMIX_RANK', 'PMI_RANK')
    """
    families = [family for family in FAMILIES if family is not SLURM]
    names = {
        name
        for family in families
        for group in (family.rank, family.size, family.local_rank, family.local_size)
        for name in (*group, *family.node_rank, *family.node_count)
    }
    prefixes = ("PMI_", "PMIX_", "OMPI_COMM_WORLD_", "HYDI_")
    ours = ("ALLGRAD_SUPERVIS", "ALLGRAD_BIND", "ALLGRAD_RANKS_PER_HOST")
    return tuple(
        sorted(name for name in environ if name in names or name.startswith(prefixes + ours))
    )
