"""Ranks on the hosts of a Slurm allocation, as one step of ``srun``.

Source: srun(1) of Slurm 22.05. Options are given where an inherited SLURM_ variable of the batch
script would otherwise decide.
"""

from __future__ import annotations

import os
from collections.abc import Mapping

from allgrad.ddp.environment import SLURM
from allgrad.launch.hosts import in_step
from allgrad.launch.launchers.environment import rank_environment, stale_variables
from allgrad.launch.spec import Command, LaunchSpec

PROGRAM = "srun"
_TRANSPORTS = ("MPIR_CVAR_CH4_NETMOD", "UCX_TLS", "UCX_NET_DEVICES")  # what a user may have chosen


def command(spec: LaunchSpec, environ: Mapping[str, str]) -> Command:
    """Return the ``srun`` command that starts all ranks.

    Args:
        spec: what to start; its hosts are some of the allocation's, or all.
        environ: environment of the batch script or of the shell of ``salloc``.
    """
    options = (*_places(spec), *_resources(spec, environ))
    if spec.pmi:
        options += (f"--mpi={spec.pmi}",)
    # One failed rank ends the step, as it ends a job of mpiexec. Rank 0 alone reads our input.
    options += ("--kill-on-bad-exit=1", "--input=0")
    if in_step(environ):
        # `srun --pty bash` is a step, too, and holds what this one needs.
        options += ("--overlap",)
    # `sbatch --export=NONE` would let srun give nothing of this environment to the ranks.
    options += ("--export=ALL",)
    env = _transport(spec, environ) | rank_environment(spec, environ, SLURM.rank[0])
    drop = (*stale_variables(environ), *_step_options(environ))
    return Command((PROGRAM, *options, *spec.rank_argv()), env, drop, SLURM.rank[0])


def _places(spec: LaunchSpec) -> tuple[str, ...]:
    """How many ranks go where: in blocks, as every launcher here puts them."""
    if not spec.hosts:  # outside of an allocation: srun makes one for this step
        nodes: tuple[str, ...] = (f"--nodes={spec.nodes}",) if spec.nodes else ()
        if spec.nodes and spec.nproc % spec.nodes == 0:  # Slurm alone would fill the first one up
            nodes += (f"--ntasks-per-node={spec.nproc // spec.nodes}",)
        return (*nodes, f"--ntasks={spec.nproc}", "--distribution=block")
    used = spec.used_hosts
    counts = {ranks for _, ranks in used}
    size = (f"--nodes={len(used)}", f"--ntasks={spec.nproc}")
    if len(counts) == 1:
        names = ",".join(host.name for host, _ in used)
        each = (f"--ntasks-per-node={counts.pop()}", "--distribution=block")
        return (*size, *each, f"--nodelist={names}")
    # Slurm has no option for different numbers but a list that names a host once per rank.
    names = ",".join(host.name for host, ranks in used for _ in range(ranks))
    return (*size, "--distribution=arbitrary", f"--nodelist={names}")


def _transport(spec: LaunchSpec, environ: Mapping[str, str]) -> dict[str, str]:
    """Let the MPICH of pip (5.0.2) talk by OFI, which is as fast over TCP.

    With its default, UCX, it garbles now and then what ranks tell each other over PMI2 ("mpi/pmi2:
    value not properly terminated"), and MPI_Init fails; the cause is not known.
    """
    wheel = spec.mpi is not None and os.path.dirname(spec.mpi.mpiexec) == os.path.dirname(
        spec.python
    )
    if not wheel or spec.pmi != "pmi2" or any(name in environ for name in _TRANSPORTS):
        return {}
    return {_TRANSPORTS[0]: "ofi"}


def _resources(spec: LaunchSpec, environ: Mapping[str, str]) -> tuple[str, ...]:
    options: tuple[str, ...] = ()
    # From 22.05 on a step does not inherit what sbatch was given.
    cpus = environ.get("SLURM_CPUS_PER_TASK", "")
    if cpus.isdigit():
        options += (f"--cpus-per-task={cpus}",)
    if spec.bind_cores:
        options += ("--cpu-bind=cores",)
    return options


def _step_options(environ: Mapping[str, str]) -> tuple[str, ...]:
    """Variables of sbatch that srun reads as options and that would contradict ours."""
    names = ("SLURM_NTASKS_PER_NODE", "SLURM_DISTRIBUTION", "SLURM_HOSTFILE", "SLURM_EXPORT_ENV")
    return tuple(name for name in names if name in environ)
