"""Which ranks there are; names as in ``torch.distributed``.

Stage of the flow: `connecting` opens the communicator that fits, and everything above asks here.
May import: `environment`, `failure`, `gpus`, `spellings`, `connecting`, `communicators`, `allgrad`.

Ranks may be threads of one process (`run_ranks`); then each thread has a default group of its own.
Otherwise there is one per process.
"""

from __future__ import annotations

import importlib.util
import logging
import os
import threading
from collections.abc import Callable
from datetime import timedelta
from typing import TYPE_CHECKING, Any, ClassVar

from allgrad.ddp import connecting, environment, failure, gpus, spellings
from allgrad.ddp.communicators.base import DEFAULT_TIMEOUT_S, Communicator, ReduceOp
from allgrad.ddp.communicators.thread import ThreadWorld, current_thread_rank
from allgrad.errors import DistributedError, OptionError

if TYPE_CHECKING:
    from allgrad.ddp.tracing.record import Recorder

_log = logging.getLogger(__name__)


class ProcessGroup:
    """The ranks of one job, or some of them, seen from one of them.

    Attributes:
        communicator: moves arrays between the ranks.
        place: what the launcher's variables say about this process.
        rank, size: this rank's number in the group, and the number of ranks.
        ranks: what the group's ranks are called in the default group.
        backend: name that the user gave, or that of the communicator.
        name: for messages; "default" or "group 1, 2, ...".
        meetings: called by `meet`, in order.
        groups: those made by `new_group` and not yet destroyed; only the default group has some.
    """

    def __init__(
        self,
        communicator: Communicator,
        place: environment.RankEnvironment,
        backend: str | None = None,
        name: str = "default",
    ) -> None:
        self.communicator = communicator
        self.place = place
        self.rank, self.size = communicator.rank, communicator.size
        self.ranks = list(communicator.members or range(communicator.size))
        self.backend = communicator.name if backend is None else backend
        self.name = name
        self.meetings: list[Callable[[], None]] = []
        self.groups: list[ProcessGroup] = []
        self.groups_made = 0
        self.recorder: Recorder | None = None
        self._hooks: failure.FailureHooks | None = None
        self._open = True

    @property
    def where(self) -> str:
        """The prefix of every message: "[rank r/size]"."""
        return self.communicator.where

    def meet(self) -> None:
        """Called before every collective of the user's; ranks without batches serve others here."""
        for meeting in list(self.meetings):
            meeting()

    def install_failure_hooks(self) -> None:
        """From now on an exception or a non-zero sys.exit of this rank ends all ranks."""
        self._hooks = failure.install(
            self.communicator.abort, rank=self.rank, size=self.size, on_leave=self.leave
        )

    def leave(self) -> None:
        """This rank's program has ended: serve those that still make steps, then say so."""
        for group in (*self.groups, self):
            if group._open:
                group.meet()
            group.communicator.leave()

    def close(self) -> None:
        """Collective. Give the communicators back, of all groups, and restore the hooks."""
        for group in list(self.groups):
            group.close()
        self.groups.clear()
        self.meet()
        if self.recorder is not None:
            self.recorder.close()
        self._open = False
        if self.communicator.gpu_part is not None:
            self.communicator.gpu_part.close()
        self.communicator.close()
        if self._hooks is not None:
            self._hooks.uninstall()


class GroupMember:
    """The default group, and what `new_group` gives to ranks that are not in the group."""

    WORLD: ClassVar[ProcessGroup | None] = None  # as an argument `group=`: the default group
    NON_GROUP_MEMBER: ClassVar[Any] = object()


class _CurrentWorld(type):
    @property
    def WORLD(cls) -> ProcessGroup | None:  # noqa: N802 - PyTorch's name
        return default_group() if is_initialized() else None


class group(metaclass=_CurrentWorld):  # noqa: N801 - PyTorch's name
    """`group.WORLD` is the default group, or None before `init_process_group`."""


_THREAD_DEFAULT = "default_group"  # among the belongings of a rank that is a thread
_process_default: list[ProcessGroup] = []  # empty, or the group of this process


def init_process_group(
    backend: str | None = None,
    init_method: str | None = None,
    timeout: timedelta | float | None = None,
    world_size: int = -1,
    rank: int = -1,
    store: Any = None,
    group_name: str = "",
    pg_options: Any = None,
    device_id: Any = None,
    *,
    shared_memory: bool | None = None,
    hierarchical: bool | None = None,
    link: str | None = None,
) -> None:
    """Join the ranks of this job; every rank calls it once, before any collective.

    Rank and size come from the launcher: ``allgrad run``, ``mpiexec``, ``srun``, torchrun, the
    threads of `run_ranks`, or nothing, which means one rank and needs no MPI. Only torchrun's ranks
    look for each other, at ``MASTER_ADDR``; what ``tcp://`` or a store say is checked against the
    launcher.

    Args:
        backend: None, "gloo" or "mpi" take the communicator of the CPU that fits the launcher
            ("mpi" asks MPI even where no launcher is known); "thread" and "local" are only that;
            they take tensors of GPUs through main memory. "nccl" connects the GPUs of all ranks
            now, one for each; "cpu:gloo,cuda:nccl" when the first tensor of a GPU comes. With None
            those travel by NCCL where there is one GPU for each rank, else through main memory.
        init_method: None, "env://", "tcp://host:port" or "file://..."; the last two need rank and
            world_size.
        timeout: a collective that takes longer raises DistributedError; seconds or a timedelta,
            default 600 s.
        world_size: if not -1, the number of ranks that there must be.
        rank: if not -1, the rank that this process must be.
        store: as init_method; not used otherwise.
        group_name, pg_options: accepted for PyTorch scripts, without meaning.
        device_id: the GPU that this rank uses; default: of those it sees, that of its number on its
            host.
        shared_memory: whether ranks of one host reduce in a shared-memory window; default: if all
            ranks are on one host.
        hierarchical: with several hosts, whether ranks of one host reduce in shared memory before
            hosts talk to each other; default: if a host has more than one rank.
        link: let collectives take as long as over such a link, e.g. "1gbit,50us" (see
            `communicators.link`); default: the variable ALLGRAD_LINK, else no link. All ranks must
            be on one host.

    Raises:
        OptionError: unknown backend or init_method; the message lists the known ones.
        DistributedError: already initialised; mpi4py is missing; "nccl" without NCCL or without
            one GPU for each rank (says how many of each there are); or what MPI sees is not
            what the launcher announced or the arguments say (several jobs of one rank instead of
            one job, the wrong mpiexec, torchrun).
    """
    if is_initialized():
        raise DistributedError(
            "init_process_group was called before; call destroy_process_group first"
        )
    asked, cpu_backend = spellings.backend_of(backend), spellings.cpu_backend_of(backend)
    gpus.check_backend(asked)
    world_size, rank = spellings.expected_place(init_method, world_size, rank, store)
    communicator, place = connecting.connect(
        cpu_backend, seconds(timeout), shared_memory, hierarchical, link
    )
    communicator.gpu_policy = spellings.gpu_policy_of(backend)
    group = ProcessGroup(communicator, place, asked)
    if world_size not in (-1, group.size) or rank not in (-1, group.rank):
        raise DistributedError(f"{group.where} {spellings.no_launcher(place, rank, world_size)}")
    _set_default(group)
    gpus.prefer_own(local_rank_here, device_id)
    if group.size > 1 and current_thread_rank() is None:
        group.install_failure_hooks()
    if os.environ.get("ALLGRAD_TRACE") or os.environ.get("ALLGRAD_NVTX"):
        from allgrad.ddp.tracing.record import from_environment  # noqa: PLC0415 - rarely used

        group.recorder = from_environment(group.communicator)
    threads = current_thread_rank()
    if threads is not None:
        _belongings(threads).setdefault("leaving", []).append(group.leave)
    if asked == "nccl":
        gpus.connect(communicator)
    _log.debug("%s joined by communicator %s", group.where, group.communicator.name)


def local_rank_here() -> int | None:
    """This rank's number among those of its host; None where nobody says."""
    threads = current_thread_rank()
    if threads is not None:
        return threads[1]
    return _process_default[0].place.local_rank if _process_default else None


def seconds(timeout: timedelta | float | None) -> float:
    """Seconds of an argument `timeout`; None is the default."""
    if timeout is None:
        return DEFAULT_TIMEOUT_S
    seconds = timeout.total_seconds() if isinstance(timeout, timedelta) else float(timeout)
    if not seconds > 0:
        raise OptionError(f"timeout {timeout!r}: expected seconds > 0 or a timedelta")
    return seconds


def _belongings(threads: tuple[ThreadWorld, int]) -> dict[str, Any]:
    """Of the rank, not of the thread: threads that it has started find its group, too."""
    world, rank = threads
    return world.job.belongings[rank]


def _set_default(group: ProcessGroup | None) -> None:
    threads = current_thread_rank()
    if threads is not None:
        _belongings(threads)[_THREAD_DEFAULT] = group
    else:
        _process_default[:] = [] if group is None else [group]


def is_initialized() -> bool:
    """Whether `init_process_group` was called in this process (or rank thread)."""
    threads = current_thread_rank()
    if threads is not None:
        return _belongings(threads).get(_THREAD_DEFAULT) is not None
    return bool(_process_default)


def default_group() -> ProcessGroup:
    """The group that `init_process_group` made.

    Raises:
        DistributedError: there is none.
    """
    threads = current_thread_rank()
    group: ProcessGroup | None
    if threads is not None:
        group = _belongings(threads).get(_THREAD_DEFAULT)
    else:
        group = _process_default[0] if _process_default else None
    if group is None:
        stray = threads is None and threading.current_thread() is not threading.main_thread()
        raise DistributedError(
            "no process group: call allgrad.ddp.init_process_group() first"
            + ("; this thread is no rank, collectives belong into the thread of the rank"
               if stray else "")
        )  # fmt: skip
    return group


def member_of(group: ProcessGroup | None) -> ProcessGroup | None:
    """The group of an argument ``group=``; None where this rank is not in it."""
    if group is None:
        return default_group()
    return None if group is GroupMember.NON_GROUP_MEMBER else group


def met(group: ProcessGroup | None) -> ProcessGroup:
    """The group, or the default one, after `ProcessGroup.meet`: for collectives of the user's."""
    group = group or default_group()
    group.meet()
    return group


def destroy_process_group(group: ProcessGroup | None = None) -> None:
    """Collective. Leave the group; of the default group, all groups.

    Afterwards `init_process_group` may be called again.
    """
    default = default_group()
    mine = member_of(group)
    if mine is None:
        return
    mine.close()
    if mine is default:
        _set_default(None)
        if current_thread_rank() is None:
            gpus.prefer_own(None)
    elif mine in default.groups:
        default.groups.remove(mine)


def get_rank(group: ProcessGroup | None = None) -> int:
    """This rank's number in the group, 0 to `get_world_size` - 1; -1 if it is not in the group."""
    mine = member_of(group)
    return -1 if mine is None else mine.rank


def get_world_size(group: ProcessGroup | None = None) -> int:
    """Number of ranks; -1 if this rank is not in the group."""
    mine = member_of(group)
    return -1 if mine is None else mine.size


def get_local_rank(group: ProcessGroup | None = None) -> int:
    """This rank's number among those of its host.

    Raises:
        DistributedError: the launcher does not say.
    """
    place = (group or default_group()).place
    if place.local_rank is None:
        raise DistributedError(
            f"the launcher {place.launcher!r} does not say the rank within the host; "
            "`allgrad run`, mpiexec and srun do"
        )
    return place.local_rank


def get_node_rank(group: ProcessGroup | None = None) -> int:
    """The number of this rank's host among those of the job."""
    return (group or default_group()).place.node_rank or 0


def get_node_count(group: ProcessGroup | None = None) -> int:
    """Number of hosts of the job, by the launcher; where it does not say, by what MPI sees."""
    return (group or default_group()).place.node_count or 1


def get_node_local_rank(fallback_rank: int | None = None) -> int:
    """This rank's number among those of its host, also before `init_process_group`.

    Args:
        fallback_rank: the answer where the launcher does not say.

    Raises:
        DistributedError: it does not say, and there is no fallback.
    """
    threads = current_thread_rank()
    local = threads[1] if threads is not None else environment.discover().local_rank
    if local is None:
        local = fallback_rank
    if local is None:
        raise DistributedError(
            "the launcher does not say the rank within the host; pass fallback_rank, or start "
            "with `allgrad run`, mpiexec or srun"
        )
    return local


def get_backend(group: ProcessGroup | None = None) -> str:
    """The backend that `init_process_group` was asked for, otherwise the communicator's name.

    So ``get_backend() == "gloo"`` is true in a script that asked for gloo. A script that names
    none gets "local", "thread", "shm" (MPI on one host), "hierarchical" or "mpi", the way of
    tensors of the CPU; those of GPUs may travel by NCCL all the same.
    """
    mine = member_of(group)
    if mine is None:
        raise DistributedError("get_backend: this rank is not in the group")
    return mine.backend


def is_available() -> bool:
    """Whether there are collectives: always."""
    return True


def is_mpi_available() -> bool:
    """Whether mpi4py is installed; loading its MPI library may still fail."""
    return importlib.util.find_spec("mpi4py") is not None


def is_gloo_available() -> bool:
    """Whether "gloo" can be asked for: always; it means the communicator of the CPU that fits."""
    return True


def is_nccl_available() -> bool:
    """Whether CuPy finds the library NCCL, and there is a GPU."""
    return gpus.nccl_problem() == ""


def is_backend_available(backend: str) -> bool:
    """Whether `init_process_group` takes that backend."""
    name = backend.lower()
    return (
        name in ("gloo", "thread", "local")
        or (name == "mpi" and is_mpi_available())
        or (name == "nccl" and is_nccl_available())
    )


def is_torchelastic_launched() -> bool:
    """Whether torchrun has started this process (then MPI does not connect it to others)."""
    return "TORCHELASTIC_RUN_ID" in os.environ


def is_launched() -> bool:
    """Whether a launcher, or `run_ranks`, has given this process a rank."""
    return current_thread_rank() is not None or environment.discover().launcher != "none"


def supports_complex(reduceOp: ReduceOp | str) -> bool:  # noqa: N803 - PyTorch's name
    """Whether complex numbers can be reduced this way."""
    return ReduceOp.parse(reduceOp) in (ReduceOp.SUM, ReduceOp.AVG, ReduceOp.PRODUCT)
