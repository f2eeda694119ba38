"""Which launcher starts how many ranks where: decided from options and environment alone.

Note [Which launcher]
``--launcher auto``, from the top:

* ``-H`` or ``--hostfile``: mpiexec, which reaches the hosts by ssh.
* Inside a Slurm allocation with ``srun``: srun, on all its tasks unless ``-n``, ``--nnodes`` or
  ``--nproc-per-node`` say otherwise. Where it has one node and more ranks are asked for than it has
  tasks, mpiexec: the ranks share the cores of the only task.
* One rank: this process's own child, without MPI. Otherwise mpiexec, on this host.

Not in an allocation is who runs inside a step of several tasks: there each task is a rank already.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import dataclass

from allgrad.errors import LaunchError
from allgrad.launch.hosts import Host, in_step, parse_hosts, place, read_hostfile, slurm_hosts


@dataclass(frozen=True)
class Placement:
    """Where the ranks of a job go.

    Attributes:
        launcher: "local", "mpiexec" or "srun".
        nproc: number of ranks in all.
        hosts: see `LaunchSpec`.
        ranks_per_host: see `LaunchSpec`.
        nodes: for srun outside of an allocation, which makes one; 0: as Slurm likes.
    """

    launcher: str
    nproc: int
    hosts: tuple[Host, ...] = ()
    ranks_per_host: tuple[int, ...] = ()
    nodes: int = 0


def choose(
    options: argparse.Namespace,
    environ: Mapping[str, str],
    *,
    srun: bool,
    without: frozenset[str] = frozenset(),
) -> Placement:
    """Decide. See Note [Which launcher].

    Args:
        options: of ``allgrad run``.
        environ: the environment.
        srun: whether there is such a program.
        without: names of hosts that were lost.

    Raises:
        LaunchError: options contradict each other, or there are more ranks than slots.
    """
    hosts = tuple(host for host in _named(options) if host.name not in without)
    allocated = () if hosts or _is_a_task(environ) else slurm_hosts(environ)
    allocated = tuple(host for host in allocated if host.name not in without)
    launcher = options.launcher
    if launcher == "auto":
        launcher = _automatic(options, hosts, allocated, srun)
    if launcher == "local":
        return _local(options, hosts)
    if launcher == "srun":
        return _srun(options, hosts, allocated, srun, bool(without))
    if not hosts and len(allocated) > 1 and options.launcher == "mpiexec":
        hosts = allocated
    return _on_hosts("mpiexec", options, hosts, bool(without)) if hosts else _here(options)


def _is_a_task(environ: Mapping[str, str]) -> bool:
    """Whether this process is one of several tasks that srun started."""
    tasks = environ.get("SLURM_STEP_NUM_TASKS", "1")
    return in_step(environ) and tasks.isdigit() and int(tasks) > 1


def _named(options: argparse.Namespace) -> tuple[Host, ...]:
    """The hosts of the command line."""
    if options.hosts is not None and options.hostfile is not None:
        raise LaunchError("-H and --hostfile both name hosts; give one of them")
    slots = options.nproc_per_node or 1
    if options.hosts is not None:
        return parse_hosts(options.hosts, slots)
    return () if options.hostfile is None else read_hostfile(options.hostfile, slots)


def _automatic(
    options: argparse.Namespace, hosts: tuple[Host, ...], allocated: tuple[Host, ...], srun: bool
) -> str:
    if hosts:
        return "mpiexec"
    if allocated and srun and options.nproc != 1:
        tasks = sum(host.slots for host in allocated)
        asked = options.nproc or options.nproc_per_node or 0
        if len(allocated) > 1 or (asked <= tasks and tasks > 1):
            return "srun"
    several = (options.nproc or options.nproc_per_node or 1) > 1 or (options.nnodes or 1) > 1
    return "mpiexec" if several else "local"


def _local(options: argparse.Namespace, hosts: tuple[Host, ...]) -> Placement:
    asked = options.nproc or options.nproc_per_node or 1
    if asked > 1 or hosts or (options.nnodes or 1) > 1:
        raise LaunchError(
            "--launcher local starts one rank on this host, without MPI; for more leave --launcher "
            "out, or take --launcher threads"
        )
    return Placement("local", 1)


def _srun(
    options: argparse.Namespace,
    hosts: tuple[Host, ...],
    allocated: tuple[Host, ...],
    srun: bool,
    without: bool,
) -> Placement:
    if not srun:
        raise LaunchError("--launcher srun: there is no srun on PATH; is Slurm installed here?")
    if hosts or allocated:
        return _on_hosts("srun", options, hosts or allocated, without)
    nodes, per_node = options.nnodes or 0, options.nproc_per_node
    if options.nproc is None and per_node is not None and not nodes:
        nodes = 1
    count = options.nproc or (nodes * per_node if per_node else nodes or 1)
    return Placement("srun", count, nodes=nodes)


def _on_hosts(
    launcher: str, options: argparse.Namespace, hosts: tuple[Host, ...], without: bool
) -> Placement:
    nodes = options.nnodes  # after a loss, as many as are left
    if nodes is not None and not without and nodes > len(hosts):
        raise LaunchError(
            f"--nnodes {nodes}, but there are {len(hosts)} hosts: "
            f"{', '.join(host.name for host in hosts)}"
        )
    hosts = hosts[:nodes]
    ranks = place(hosts, options.nproc, options.nproc_per_node)
    return Placement(launcher, sum(ranks), hosts, ranks)


def _here(options: argparse.Namespace) -> Placement:
    if (options.nnodes or 1) > 1:
        raise LaunchError(
            f"--nnodes {options.nnodes} needs to know which hosts: -H node1:4,node2:4, --hostfile "
            "FILE, or a Slurm allocation around this process"
        )
    nproc, per_node = options.nproc, options.nproc_per_node
    if nproc is not None and per_node is not None and nproc > per_node:
        raise LaunchError(
            f"-n {nproc} with --nproc-per-node {per_node} needs several hosts: name them by -H, "
            "--hostfile, or a Slurm allocation around this process"
        )
    return Placement("mpiexec", nproc or per_node or 1)
