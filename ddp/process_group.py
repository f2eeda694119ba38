"""Which ranks there are; names as in ``torch.distributed``.

Stage of the flow: `environment` says who we are, this file opens the communicator that fits, and
everything above asks here. May import: `environment`, `failure`, `communicators`, `allgrad`.

Ranks may be threads of one process (`run_ranks`); then each thread has a default group of its own.
Otherwise there is one per process.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from allgrad.ddp import environment, failure
from allgrad.ddp.communicators.base import DEFAULT_TIMEOUT_S, Communicator
from allgrad.ddp.communicators.local import LocalCommunicator
from allgrad.ddp.communicators.thread import (
    ThreadCommunicator,
    ThreadWorld,
    current_thread_rank,
)
from allgrad.ddp.diagnosis import settings
from allgrad.errors import DistributedError, OptionError

if TYPE_CHECKING:
    from allgrad.ddp.tracing.record import Recorder

_log = logging.getLogger(__name__)

BACKENDS = ("mpi", "thread", "local")
_INSTALL = "pip install 'mpi4py>=4' mpich"


class ProcessGroup:
    """The ranks of one job, seen from this rank.

    Attributes:
        communicator: moves arrays between the ranks.
        place: what the launcher's variables say about this process.
        rank, size: this rank and the number of ranks.
        meetings: called by `meet`, in order.
    """

    def __init__(self, communicator: Communicator, place: environment.RankEnvironment) -> None:
        self.communicator = communicator
        self.place = place
        self.rank, self.size = communicator.rank, communicator.size
        self.meetings: list[Callable[[], None]] = []
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
            self.communicator.abort,
            rank=self.rank,
            size=self.size,
            on_leave=self.leave,
        )

    def leave(self) -> None:
        """This rank's program has ended: serve those that still make steps, then say so."""
        if self._open:
            self.meet()
        self.communicator.leave()

    def close(self) -> None:
        """Collective. Give the communicator back and restore the hooks."""
        self.meet()
        if self.recorder is not None:
            self.recorder.close()
        self._open = False
        self.communicator.close()
        if self._hooks is not None:
            self._hooks.uninstall()


_THREAD_DEFAULT = "default_group"  # among the belongings of a rank that is a thread
_process_default: list[ProcessGroup] = []  # empty, or the group of this process


def init_process_group(
    backend: str | None = None,
    init_method: str | None = None,
    timeout: timedelta | float | None = None,
    world_size: int = -1,
    rank: int = -1,
    *,
    shared_memory: bool | None = None,
    link: str | None = None,
) -> None:
    """Join the ranks of this job; every rank calls it once, before any collective.

    Rank and size come from the launcher: ``allgrad run``, ``mpiexec``, ``srun``, the threads of
    `run_ranks`, or nothing, which means one rank and needs no MPI.

    Args:
        backend: "mpi", "thread", "local", or None to take the one that fits the launcher.
        init_method: None or "env://"; there is nothing to choose, MPI finds the other ranks.
        timeout: a collective that takes longer raises DistributedError; seconds or a timedelta,
            default 600 s.
        world_size: if not -1, the number of ranks that there must be.
        rank: if not -1, the rank that this process must be.
        shared_memory: whether ranks of one host reduce in a shared-memory window; default: if all
            ranks are on one host.
        link: let collectives take as long as over such a link, e.g. "1gbit,50us" (see
            `communicators.link`); default: the variable ALLGRAD_LINK, else no link. All ranks must
            be on one host.

    Raises:
        OptionError: unknown backend or init_method; the message lists the known ones.
        DistributedError: already initialised; mpi4py is missing; or what MPI sees is not what the
            launcher announced (several jobs of one rank instead of one job, the wrong mpiexec).
    """
    if is_initialized():
        raise DistributedError(
            "init_process_group was called before; call destroy_process_group first"
        )
    if backend is not None and backend not in BACKENDS:
        raise OptionError.unknown("backend", backend, BACKENDS)
    if init_method not in (None, "env://"):
        raise OptionError.unknown("init_method", init_method, (None, "env://"))
    timeout_s = _seconds(timeout)
    threads = current_thread_rank()
    if backend == "thread" and threads is None:
        raise DistributedError(
            "backend 'thread' works inside ddp.run_ranks(function, size), or under "
            "`allgrad run --debug`; this thread is no rank"
        )
    if threads is not None and backend in (None, "thread"):
        place = _thread_place(*threads)
        thread = ThreadCommunicator(threads[0], threads[1], timeout_s, settings.from_environ())
        group = ProcessGroup(thread, place)
    else:
        place = environment.discover()
        communicator = _connect(backend, place, timeout_s, shared_memory)
        group = ProcessGroup(communicator, place)
    _check_expected(group, world_size, rank)
    link = link or os.environ.get("ALLGRAD_LINK")
    if link:
        from allgrad.ddp.communicators.link import linked  # noqa: PLC0415 - rarely used

        group.communicator = linked(group.communicator, link)
    _set_default(group)
    if group.size > 1 and threads is None:
        group.install_failure_hooks()
    if os.environ.get("ALLGRAD_TRACE") or os.environ.get("ALLGRAD_NVTX"):
        from allgrad.ddp.tracing.record import from_environment  # noqa: PLC0415 - rarely used

        group.recorder = from_environment(group.communicator)
    if threads is not None:
        _belongings(threads).setdefault("leaving", []).append(group.leave)
    _log.debug("%s joined by communicator %s", group.where, group.communicator.name)


def _seconds(timeout: timedelta | float | None) -> float:
    if timeout is None:
        return DEFAULT_TIMEOUT_S
    seconds = timeout.total_seconds() if isinstance(timeout, timedelta) else float(timeout)
    if not seconds > 0:
        raise OptionError(f"timeout {timeout!r}: expected seconds > 0 or a timedelta")
    return seconds


def _thread_place(world: Any, rank: int) -> environment.RankEnvironment:
    return environment.RankEnvironment(rank, world.size, rank, world.size, 0, 1, "threads")


def _connect(
    backend: str | None,
    place: environment.RankEnvironment,
    timeout_s: float,
    shared_memory: bool | None,
) -> Communicator:
    if backend == "local" or (backend is None and place.size == 1):
        if place.size > 1:
            raise DistributedError(
                f"backend 'local' is for one rank, but the launcher {place.launcher!r} started "
                f"{place.size}; leave backend out"
            )
        return LocalCommunicator(timeout_s)
    try:
        from allgrad.ddp.communicators import mpi  # noqa: PLC0415 - one rank needs no MPI
    except (ImportError, RuntimeError) as error:  # RuntimeError: mpi4py without an MPI library
        raise DistributedError(
            f"[rank {place.rank}/{place.size}] cannot load MPI ({error}); run: {_INSTALL}"
        ) from error
    comm, one_host = mpi.world()
    _check_world(place, comm.Get_rank(), comm.Get_size(), mpi.library())
    if comm.Get_size() == 1:
        return LocalCommunicator(timeout_s)
    if shared_memory and not one_host:
        raise DistributedError(
            f"[rank {place.rank}/{place.size}] shared_memory=True, but the ranks are on several "
            "hosts; leave it out"
        )
    if one_host and shared_memory is not False:
        from allgrad.ddp.communicators.shm import ShmCommunicator  # noqa: PLC0415 - as above

        return ShmCommunicator(comm, timeout_s, settings.from_environ())
    return mpi.MpiCommunicator(comm, timeout_s, settings.from_environ())


def _check_world(place: environment.RankEnvironment, rank: int, size: int, library: str) -> None:
    """MPI started with the wrong launcher gives N jobs of one rank, and each would look fine."""
    if place.launcher == "none" or (place.rank, place.size) == (rank, size):
        return
    raise DistributedError(
        f"the launcher {place.launcher!r} announced rank {place.rank} of {place.size}, but "
        f"{library} sees rank {rank} of {size}: launcher and MPI library do not belong together. "
        "Start with `allgrad run -n N script.py`, with the mpiexec of this MPI library, or under "
        "Slurm with `srun --mpi=pmi2` (MPICH) or `srun --mpi=pmix` (Open MPI)"
    )


def _check_expected(group: ProcessGroup, world_size: int, rank: int) -> None:
    if world_size not in (-1, group.size) or rank not in (-1, group.rank):
        raise DistributedError(
            f"{group.where} init_process_group was told rank={rank}, world_size={world_size} "
            f"(-1: any), but the launcher {group.place.launcher!r} started rank {group.rank} of "
            f"{group.size}"
        )


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


def met(group: ProcessGroup | None) -> ProcessGroup:
    """The group, or the default one, after `ProcessGroup.meet`: for collectives of the user's."""
    group = group or default_group()
    group.meet()
    return group


def destroy_process_group() -> None:
    """Collective. Leave the group; afterwards `init_process_group` may be called again."""
    default_group().close()
    _set_default(None)


def get_rank(group: ProcessGroup | None = None) -> int:
    """This rank, 0 to `get_world_size` - 1."""
    return (group or default_group()).rank


def get_world_size(group: ProcessGroup | None = None) -> int:
    """Number of ranks."""
    return (group or default_group()).size


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


def get_backend(group: ProcessGroup | None = None) -> str:
    """Name of the communicator: "local", "thread", "shm" (MPI on one host) or "mpi"."""
    return (group or default_group()).communicator.name
