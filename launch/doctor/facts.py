"""What one process sees of its environment: frozen values, which travel between ranks as JSON.

Gathered once (`gather`); every check is a function of these and looks at nothing else. An empty
string or tuple means that there is none, or that it is not known.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, is_dataclass
from typing import Any

from allgrad.ddp.environment import RankEnvironment, discover
from allgrad.errors import AllgradError, DistributedError

MIB = 1 << 20


@dataclass(frozen=True)
class Software:
    """Python and what is installed beside it.

    Attributes:
        executable, version: of Python; ``prefix`` its environment.
        packages: versions by name of the distribution; those that are missing are not in it.
        onednn: path of the oneDNN library that loads, ``onednn_version`` such as "3.8.1".
        onednn_problem: why none loads.
    """

    executable: str = ""
    version: str = ""
    prefix: str = ""
    packages: Mapping[str, str] = field(default_factory=dict)
    onednn: str = ""
    onednn_version: str = ""
    onednn_problem: str = ""


@dataclass(frozen=True)
class Mpi:
    """The MPI library that mpi4py loads, and the ``mpiexec`` that starts ranks.

    Attributes:
        library: its own words, such as "MPICH Version: 5.0.2"; ``path`` its file.
        flavour: "mpich" (all of MPICH's ABI), "openmpi", or "" for another or none.
        problem: why it does not load.
        mpiexec: path of the one `allgrad run` takes, with flavour and version.
        mpiexec_problem: why there is none, or none that is usable.
    """

    library: str = ""
    path: str = ""
    flavour: str = ""
    problem: str = ""
    mpiexec: str = ""
    mpiexec_flavour: str = ""
    mpiexec_version: str = ""
    mpiexec_problem: str = ""


@dataclass(frozen=True)
class Host:
    """The machine.

    Attributes:
        name: its hostname.
        addresses: that the hostname stands for.
        name_problem: why it stands for none.
        cores: number of cores of the machine.
        affinity: those that this process may use.
        quota: how many cores a container's limit leaves; 0: no limit.
        memory_bytes: of the machine.
        load: processes that wanted to run in the last minute.
    """

    name: str = ""
    addresses: tuple[str, ...] = ()
    name_problem: str = ""
    cores: int = 1
    affinity: tuple[int, ...] = (0,)
    quota: float = 0.0
    memory_bytes: int = 0
    load: float = 0.0


@dataclass(frozen=True)
class Folder:
    """A folder, and why nothing can be written there."""

    path: str = ""
    free_bytes: int = 0
    total_bytes: int = 0
    problem: str = ""


@dataclass(frozen=True)
class Limits:
    """Limits of the process; -1: none.

    Attributes:
        open_files: file descriptors that may be open at once.
        locked_bytes: memory that may be locked, which RDMA needs.
    """

    open_files: int = -1
    locked_bytes: int = -1


@dataclass(frozen=True)
class Interface:
    """A network interface.

    Attributes:
        virtual: whether it leads nowhere outside: a bridge or a tunnel of containers or machines.
    """

    name: str
    up: bool = True
    addresses: tuple[str, ...] = ()
    virtual: bool = False

    @property
    def is_loopback(self) -> bool:
        """Whether it leads to this host only."""
        return self.name == "lo" or any(a.startswith("127.") for a in self.addresses)


@dataclass(frozen=True)
class Gpus:
    """NVIDIA's GPUs, as the driver's library tells.

    Attributes:
        driver: its version.
        names: of the GPUs, whatever CUDA_VISIBLE_DEVICES says.
        problem: why the driver's library does not answer.
        present: whether the system has devices of NVIDIA, with or without a driver.
    """

    driver: str = ""
    names: tuple[str, ...] = ()
    problem: str = ""
    present: bool = False


@dataclass(frozen=True)
class Slurm:
    """Slurm's client programs.

    Attributes:
        version: such as "22.05.8".
        plugins: kinds of ``srun --mpi``.
        default: the kind without that option.
        problem: why srun does not answer.
    """

    version: str = ""
    plugins: tuple[str, ...] = ()
    default: str = ""
    problem: str = ""


@dataclass(frozen=True)
class World:
    """What MPI says about this process once it has started; a size of 0: not asked.

    Attributes:
        problem: why it could not start.
        clock_s: what to add to this host's time to get that of rank 0.
    """

    rank: int = 0
    size: int = 0
    problem: str = ""
    clock_s: float = 0.0


@dataclass(frozen=True)
class Facts:
    """Everything that one process knows.

    Attributes:
        ranks: that are asked for (``-n``) where no launcher has started this process.
        environ: variables of launchers, MPI, threads, GPUs and networks.
        stale: variables that lead nowhere any more, each with the reason.
        twins: how many processes run the same command beside this one, this one included.
        segments: shared memory that killed jobs of MPICH have left.
        rdma: names of InfiniBand devices.
    """

    ranks: int = 1
    environ: Mapping[str, str] = field(default_factory=dict)
    stale: Mapping[str, str] = field(default_factory=dict)
    twins: int = 1
    software: Software = Software()
    mpi: Mpi = Mpi()
    host: Host = Host()
    shared_memory: Folder = Folder()
    temporary: Folder = Folder()
    current: Folder = Folder()
    limits: Limits = Limits()
    segments: tuple[str, ...] = ()
    interfaces: tuple[Interface, ...] = ()
    rdma: tuple[str, ...] = ()
    gpus: Gpus = Gpus()
    slurm: Slurm = Slurm()
    world: World = World()

    @property
    def place(self) -> RankEnvironment | None:
        """Rank and size as the launcher declares them; None where its variables make no sense."""
        try:
            return discover(self.environ)
        except DistributedError:
            return None

    @property
    def in_job(self) -> bool:
        """Whether a launcher has started several of us."""
        return self.place is not None and self.place.size > 1

    @property
    def total_ranks(self) -> int:
        """Ranks of the job, or those that are asked for."""
        return self.place.size if self.place is not None and self.in_job else self.ranks

    @property
    def ranks_here(self) -> int:
        """How many of the ranks are on this host, as far as that is known."""
        if self.place is not None and self.in_job:
            return self.place.local_size or self.place.size
        return self.ranks

    @property
    def several_hosts(self) -> bool:
        """Whether the job, or the allocation around us, has several hosts."""
        nodes = self.environ.get("SLURM_JOB_NUM_NODES", self.environ.get("SLURM_NNODES", "1"))
        count = self.place.node_count if self.place is not None and self.in_job else None
        if count is None and self.in_job and self.place is not None:
            here = self.place.local_size
            return here is not None and here < self.place.size
        return (count or (int(nodes) if nodes.isdigit() else 1)) > 1

    @property
    def cores_here(self) -> float:
        """Cores that the processes of this host may use, as this one sees it."""
        count = float(len(self.host.affinity)) or 1.0
        return min(count, self.host.quota) if self.host.quota > 0 else count

    def to_json(self) -> str:
        """The facts as text."""
        return json.dumps(asdict(self))

    @staticmethod
    def from_json(text: str) -> Facts:
        """Facts from text. Another version's fields are left out, or have their defaults.

        Raises:
            AllgradError: it is no text of `to_json`.
        """
        data = json.loads(text)
        if not isinstance(data, dict):
            raise AllgradError(f"facts: expected an object of JSON, got {text[:40]!r}")
        facts = _build(Facts, data)
        assert isinstance(facts, Facts)
        return facts


def _build(kind: Any, data: Mapping[str, Any]) -> Any:
    """An instance of a dataclass from what `asdict` made of it."""
    blank = Interface("") if kind is Interface else kind()
    values = {}
    for entry in fields(kind):
        if entry.name not in data:
            continue
        value, default = data[entry.name], getattr(blank, entry.name)
        if entry.name == "interfaces":
            value = tuple(_build(Interface, each) for each in value)
        elif is_dataclass(default):
            value = _build(type(default), value)
        elif isinstance(default, tuple):
            value = tuple(value)
        values[entry.name] = value
    return kind(**values)
