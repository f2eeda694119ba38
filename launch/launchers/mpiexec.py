"""Ranks on this host or several through an MPI's ``mpiexec``: MPICH's Hydra and Open MPI's.

Sources: mpiexec.hydra(1) of MPICH 4 and 5; mpirun(1) and prte(1) of Open MPI 5.
"""

from __future__ import annotations

from collections.abc import Mapping

from allgrad.ddp.environment import OPENMPI, PMI
from allgrad.launch.launchers.environment import rank_environment, stale_variables
from allgrad.launch.spec import Command, LaunchSpec


def command(spec: LaunchSpec, environ: Mapping[str, str]) -> Command:
    """Return the ``mpiexec`` command that starts all ranks.

    Args:
        spec: what to start; its ``mpi`` is set.
        environ: environment of the user.
    """
    assert spec.mpi is not None
    openmpi = spec.mpi.flavour == "openmpi"
    variable = (OPENMPI if openmpi else PMI).rank[0]
    options, env = _openmpi(spec) if openmpi else _mpich(spec)
    argv = (spec.mpi.mpiexec, "-n", str(spec.nproc), *options, *spec.rank_argv())
    env = rank_environment(spec, environ, variable) | env
    return Command(argv, env, stale_variables(environ), variable)


def _mpich(spec: LaunchSpec) -> tuple[tuple[str, ...], dict[str, str]]:
    # In a batch job Hydra would ask Slurm, and spread the ranks over all hosts of the allocation.
    env = {"HYDRA_RMK": "user"}
    if not spec.hosts:
        return (), env
    hosts = ",".join(f"{host.name}:{ranks}" for host, ranks in spec.used_hosts)
    # In a batch job it would start its helpers by srun, which does not know hosts outside.
    launcher: tuple[str, ...] = ("-launcher", "ssh")
    if spec.remote_shell:
        launcher += ("-launcher-exec", spec.remote_shell)
    return ("-hosts", hosts, *launcher), env


def _openmpi(spec: LaunchSpec) -> tuple[tuple[str, ...], dict[str, str]]:
    # Open MPI binds each rank of a small job to one core, which would defeat threads_per_rank.
    options: tuple[str, ...] = ("--bind-to", "none")
    # Its one-sided component for UCX prints errors on hosts without fast networks, then works.
    # Without the other two it would spread the ranks over all hosts of a Slurm allocation.
    env = {"OMPI_MCA_osc": "^ucx", "PRTE_MCA_ras": "^slurm", "PRTE_MCA_plm": "^slurm"}
    if spec.hosts:
        hosts = ",".join(f"{host.name}:{ranks}" for host, ranks in spec.used_hosts)
        # Slots are the user's word; how many cores there are does not matter.
        options += ("--host", hosts, "--map-by", "slot:oversubscribe")
        if spec.remote_shell:
            options += ("--prtemca", "plm_ssh_agent", spec.remote_shell)
    elif spec.nproc > spec.cores:
        options += ("--oversubscribe",)
    if spec.root:
        env |= {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
    return options, env
