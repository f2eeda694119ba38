"""What to start, as frozen values: the input and the output of every launcher."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field

from allgrad.launch.hosts import Host


@dataclass(frozen=True)
class MpiRuntime:
    """An MPI's ``mpiexec``.

    Attributes:
        mpiexec: absolute path.
        flavour: "mpich" (also Intel MPI and MVAPICH: Hydra's options) or "openmpi".
        version: first line of ``mpiexec --version`` that names a version.
    """

    mpiexec: str
    flavour: str
    version: str = ""


@dataclass(frozen=True)
class LaunchSpec:
    """One job, as the user asked for it.

    Attributes:
        nproc: number of ranks on all hosts together, at least 1.
        target: path of a script, or name of a module where ``module`` is true.
        args: arguments of the script.
        module: whether ``target`` is a module, as for ``python -m``.
        python: interpreter of the ranks.
        worker: path of ``worker.py``.
        threads_per_rank: number of threads that OpenMP and BLAS use in each rank; 0: each host
            divides its cores among its ranks.
        cores: number of cores that this process may use.
        bind: cores of each local rank; empty: ranks are not bound.
        env: additional variables of the ranks.
        mpi: the MPI to start with; None for one rank.
        root: whether the user is root, which Open MPI refuses unless told.
        launcher: "local", "mpiexec" or "srun".
        hosts: where the ranks go; empty: this host.
        ranks_per_host: how many go to each of them, in blocks of neighbouring ranks.
        remote_shell: program that runs a command on another host, in the manner of ssh; empty: the
            launcher's own choice.
        bind_cores: whether each host binds its ranks to cores of their own; ``bind`` is then empty.
        nodes: number of hosts, for an ``srun`` that makes its own allocation; 0: as Slurm likes.
        pmi: how ``srun`` connects the ranks: "pmi2", "pmix" ...; empty: as Slurm is configured.
    """

    nproc: int
    target: str
    args: tuple[str, ...] = ()
    module: bool = False
    python: str = "python"
    worker: str = "worker.py"
    threads_per_rank: int = 1
    cores: int = 1
    bind: tuple[tuple[int, ...], ...] = ()
    env: tuple[tuple[str, str], ...] = ()
    mpi: MpiRuntime | None = None
    root: bool = False
    launcher: str = "mpiexec"
    hosts: tuple[Host, ...] = ()
    ranks_per_host: tuple[int, ...] = ()
    remote_shell: str = ""
    bind_cores: bool = False
    nodes: int = 0
    pmi: str = ""

    @property
    def several_hosts(self) -> bool:
        """Whether ranks may be on other hosts than this one."""
        return bool(self.hosts) or self.launcher == "srun"

    @property
    def used_hosts(self) -> tuple[tuple[Host, int], ...]:
        """The hosts that get ranks, each with their number."""
        pairs = zip(self.hosts, self.ranks_per_host, strict=True)
        return tuple((host, ranks) for host, ranks in pairs if ranks > 0)

    def rank_argv(self) -> tuple[str, ...]:
        """Return the command of one rank."""
        target = ("-m", self.target) if self.module else (self.target,)
        return (self.python, self.worker, *target, *self.args)


@dataclass(frozen=True)
class Command:
    """A command ready to run.

    Attributes:
        argv: program and arguments.
        env: variables to set, on top of the user's environment.
        drop: variables to remove from it: those of a job around this one.
        rank_variable: in which the launcher gives each process its rank.
    """

    argv: tuple[str, ...]
    env: Mapping[str, str] = field(default_factory=dict)
    drop: tuple[str, ...] = ()
    rank_variable: str = "ALLGRAD_RANK"

    def environment(self, environ: Mapping[str, str]) -> dict[str, str]:
        """Return the whole environment of the command, made from that of the user."""
        kept = {name: value for name, value in environ.items() if name not in self.drop}
        return kept | dict(self.env)

    def shell(self) -> str:
        """Return the command as a line for the shell."""
        unset = [part for name in self.drop for part in ("-u", name)]
        sets = [f"{name}={value}" for name, value in self.env.items()]
        return shlex.join(["env", *unset, *sets, *self.argv])
