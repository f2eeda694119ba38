"""Does srun connect the ranks of the MPI library that is installed?"""

from __future__ import annotations

from collections.abc import Iterator

from allgrad.launch.doctor.checks.ranks import PMI_OF
from allgrad.launch.doctor.facts import Facts
from allgrad.launch.doctor.finding import Finding, broken, warning


def _wanted(facts: Facts) -> str:
    return PMI_OF.get(facts.mpi.flavour, "pmi2")


def srun_without_pmi(facts: Facts) -> Iterator[Finding]:
    """Tasks of srun that got numbers, but no connection."""
    place, names = facts.place, facts.environ
    if place is None or place.launcher != "slurm" or place.size < 2:
        return
    if not any(name.startswith(("PMI_", "PMI2_", "PMIX_")) for name in names):
        yield broken(
            "srun_without_pmi",
            f"srun started {place.size} tasks without a connection for MPI (--mpi=none): each "
            "would be rank 0 of 1",
            f"srun --mpi={_wanted(facts)}, or export SLURM_MPI_TYPE={_wanted(facts)}",
        )


def plugin_missing(facts: Facts) -> Iterator[Finding]:
    """Slurm was built without what this MPI needs."""
    wanted, plugins = _wanted(facts), facts.slurm.plugins
    known = any(kind == wanted or kind.startswith(f"{wanted}_v") for kind in plugins)
    if facts.mpi.flavour and plugins and not known:
        other = "MPICH (pip install mpich), which takes pmi2" if wanted == "pmix" else "Open MPI"
        yield broken(
            "slurm_plugin_missing",
            f"{facts.mpi.library} needs `srun --mpi={wanted}`, but this Slurm offers "
            f"{', '.join(plugins)}",
            f"use {other}; or start by mpiexec in the batch script (`allgrad run --launcher "
            "mpiexec`); or ask the administrators for the plugin",
        )


def default_without_pmi(facts: Facts) -> Iterator[Finding]:
    """Without --mpi srun would not connect the ranks."""
    wanted, default = _wanted(facts), facts.slurm.default
    if not (facts.mpi.flavour and default) or facts.in_job or wanted not in facts.slurm.plugins:
        return
    if not default.startswith(wanted):
        yield warning(
            "srun_default_mpi",
            f"plain `srun` here means --mpi={default}, which does not connect {facts.mpi.library}",
            f"srun --mpi={wanted}, or export SLURM_MPI_TYPE={wanted}; `allgrad run` does so itself",
        )
