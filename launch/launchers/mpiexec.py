"""Ranks on this host or several through an MPI's ``mpiexec``: MPICH's Hydra and Open MPI's.

Sources: mpiexec.hydra(1) of MPICH 4 and 5; mpirun(1) and prte(1) of Open MPI 5.
"""

from __future__ import annotations

from collections.abc import Mapping

from allgrad.ddp.environment import OPENMPI, PMI
from allgrad.launch.hosts import slurm_hosts
from allgrad.launch.launchers.environment import rank_environment, stale_variables
from allgrad.launch.spec import Command, LaunchSpec

_EXPORTED = ("PATH", "LD_LIBRARY_PATH", "VIRTUAL_ENV", "XDG_CACHE_HOME")
_EXPORTED_PREFIXES = ("ALLGRAD_", "OMP_", "OPENBLAS_", "MKL_", "PYTHON", "MPI4PY_", "UCX_", "NCCL_")
_OF_THE_SUPERVISOR = {"ALLGRAD_SUPERVISOR", "ALLGRAD_TMPDIR", "ALLGRAD_EVENTS"}
_OF_THE_SUPERVISOR |= {"ALLGRAD_RESTART_COUNT", "TORCHELASTIC_RESTART_COUNT"}


def command(spec: LaunchSpec, environ: Mapping[str, str]) -> Command:
    """Return the ``mpiexec`` command that starts all ranks.

    Args:
        spec: what to start; its ``mpi`` is set.
        environ: environment of the user.
    """
    assert spec.mpi is not None
    openmpi = spec.mpi.flavour == "openmpi"
    variable = (OPENMPI if openmpi else PMI).rank[0]
    options, own = _openmpi(spec) if openmpi else _mpich(spec, environ)
    env = rank_environment(spec, environ, variable) | own
    if spec.hosts and spec.bind_cores:
        env["ALLGRAD_BIND_CORES"] = "1"
    if spec.hosts and openmpi:
        options += _exported(environ, env)
    argv = (spec.mpi.mpiexec, "-n", str(spec.nproc), *options, *spec.rank_argv())
    return Command(argv, env, stale_variables(environ), variable)


def _exported(environ: Mapping[str, str], env: Mapping[str, str]) -> tuple[str, ...]:
    """Name the variables for the other hosts: Open MPI takes there but its own by itself."""
    names = {n for n in environ if n in _EXPORTED or n.startswith(_EXPORTED_PREFIXES)}
    names |= {n for n in env if not n.startswith(("OMPI_", "PRTE_"))}
    return tuple(part for name in sorted(names | _OF_THE_SUPERVISOR) for part in ("-x", name))


def _mpich(spec: LaunchSpec, environ: Mapping[str, str]) -> tuple[tuple[str, ...], dict[str, str]]:
    # In a batch job Hydra would ask Slurm, and spread the ranks over all hosts of the allocation.
    env = {"HYDRA_RMK": "user"}
    if not spec.hosts:
        return (), env
    hosts = ",".join(f"{host.name}:{ranks}" for host, ranks in spec.used_hosts)
    # Hydra would take srun in every batch job, but Slurm only lets us onto hosts of the allocation.
    names = {host.name for host, _ in spec.used_hosts}
    allocated = names <= {host.name for host in slurm_hosts(environ)}
    launcher: tuple[str, ...] = (
        "-launcher",
        "slurm" if allocated and not spec.remote_shell else "ssh",
    )
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
