"""Does each process learn its rank, and do all meet in one MPI job?"""

from __future__ import annotations

from collections.abc import Iterator

from allgrad.ddp.environment import discover
from allgrad.errors import DistributedError, LaunchError
from allgrad.launch.doctor.checks.mpi import NAMES
from allgrad.launch.doctor.facts import Facts
from allgrad.launch.doctor.finding import Finding, broken
from allgrad.launch.hosts import slurm_hosts

PMI_OF = {"mpich": "pmi2", "openmpi": "pmix"}


def contradicting_variables(facts: Facts) -> Iterator[Finding]:
    """The variables of launchers are no place in a job."""
    try:
        discover(facts.environ)
    except DistributedError as error:
        yield broken(
            "contradicting_variables",
            f"variables of launchers contradict each other: {error}",
            "unset those that are left over, or start from a new shell",
        )


def stale_environment(facts: Facts) -> Iterator[Finding]:
    """Variables of a job that has ended, or that this process does not belong to."""
    if facts.stale:
        why = "; ".join(f"{name}: {reason}" for name, reason in facts.stale.items())
        prefixes = sorted({name.partition("_")[0] for name in facts.stale})
        yield broken(
            "stale_environment",
            f"the environment is that of another job: {why}",
            "start from a new shell, or `unset` the variables: "
            f"unset $(env | grep -oE '^({'|'.join(prefixes)})_[A-Z0-9_]+')",
        )


def no_launcher(facts: Facts) -> Iterator[Finding]:
    """Several processes side by side, and none has been told that there are others."""
    if facts.twins > 1 and not facts.in_job:
        yield broken(
            "all_are_rank_0",
            f"{facts.twins} processes run this command side by side, and each believes to be rank "
            "0 of 1: what started them sets no variables that say otherwise",
            "start them by `allgrad run -n N`, mpiexec or srun",
        )


def launcher_of_another_mpi(facts: Facts) -> Iterator[Finding]:
    """The launcher speaks a language that the MPI library does not understand."""
    spoken = _spoken(facts)
    flavour = facts.mpi.flavour
    if not facts.in_job or facts.stale or spoken is None or flavour not in PMI_OF:
        return
    if flavour == spoken:
        return
    kind = "PMIx" if spoken == "openmpi" else "PMI"
    yield broken(
        "wrong_srun_mpi" if _by_srun(facts) else "launcher_of_another_mpi",
        f"the ranks were started for {kind}, but mpi4py loads {NAMES[flavour]} "
        f"({facts.mpi.path}), which does not connect that way: each is rank 0 of 1",
        f"srun --mpi={PMI_OF[flavour]}"
        if _by_srun(facts)
        else f"start with {NAMES[flavour]}'s mpiexec (`allgrad run` does), or set MPI4PY_LIBMPI to "
        f"the libmpi.so of {NAMES[spoken]}",
    )


def _by_srun(facts: Facts) -> bool:
    own = ("OMPI_COMM_WORLD_RANK", "HYDI_CONTROL_FD", "PRTE_LAUNCHED")
    return "SLURM_PROCID" in facts.environ and not any(name in facts.environ for name in own)


def _spoken(facts: Facts) -> str | None:
    """The MPI that the launcher's variables are for; None where several could be."""
    if "PMIX_RANK" in facts.environ or "OMPI_COMM_WORLD_RANK" in facts.environ:
        # MPICH may be built for PMIx; then PMI_RANK is not needed, and the world tells.
        return None if "PMI_RANK" in facts.environ else "openmpi"
    return "mpich" if "PMI_RANK" in facts.environ else None


def separate_worlds(facts: Facts) -> Iterator[Finding]:
    """MPI has started, and sees another job than the launcher announced."""
    place, world = facts.place, facts.world
    if place is None or not facts.in_job or world.size == 0:
        return
    if (world.rank, world.size) == (place.rank, place.size):
        return
    flavour = PMI_OF.get(facts.mpi.flavour, "pmi2")
    fix = {
        "slurm": f"srun --mpi={flavour}",
        "torchrun": f"allgrad run -n {place.size} script.py, which sets RANK, WORLD_SIZE and "
        "LOCAL_RANK, too; or, with MPICH, set MASTER_ADDR and MASTER_PORT as torchrun does",
    }.get(place.launcher, f"start with the mpiexec of {facts.mpi.library or 'this MPI'}")
    yield broken(
        "separate_worlds",
        f"the launcher ({place.launcher}) started rank {place.rank} of {place.size}, but MPI sees "
        f"rank {world.rank} of {world.size}: every process believes to be alone",
        fix,
    )


def mpi_does_not_start(facts: Facts) -> Iterator[Finding]:
    """MPI was asked to start and failed."""
    if facts.world.problem:
        yield broken(
            "mpi_does_not_start",
            f"MPI does not start: {facts.world.problem}",
            "mend what is listed above first; then look whether a firewall or a missing network "
            "device keeps the ranks apart: UCX_TLS=tcp,self FI_PROVIDER=tcp restrict MPICH to TCP, "
            "`--mca pml ob1 --mca btl self,sm,tcp` Open MPI",
        )


def more_ranks_than_slots(facts: Facts) -> Iterator[Finding]:
    """An allocation of Slurm takes so many ranks and no more."""
    try:
        hosts = slurm_hosts(facts.environ)
    except LaunchError as error:
        yield broken("contradicting_variables", str(error), "unset what an outer job has left")
        return
    slots = sum(host.slots for host in hosts)
    if hosts and facts.total_ranks > slots:
        listed = ", ".join(f"{host.name}:{host.slots}" for host in hosts[:4])
        yield broken(
            "more_ranks_than_slots",
            f"{facts.total_ranks} ranks, but the allocation has {slots} slots ({listed}"
            f"{', ...' if len(hosts) > 4 else ''})",
            f"-n {slots}, or ask for more: sbatch --ntasks={facts.total_ranks}",
        )
