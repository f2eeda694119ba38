"""From a backend's name and a place in a job to the communicator that fits.

Stage of the flow: inside `init_process_group`. May import: `environment`, `segments`,
`spellings`, `torchrun`, `communicators`, ``allgrad.errors``.
"""

from __future__ import annotations

import os
from types import ModuleType

from allgrad.ddp import environment, segments, spellings, torchrun
from allgrad.ddp.communicators.base import Communicator
from allgrad.ddp.communicators.local import LocalCommunicator
from allgrad.ddp.communicators.thread import ThreadCommunicator, current_thread_rank
from allgrad.ddp.diagnosis import settings
from allgrad.errors import DistributedError

_INSTALL = "pip install 'mpi4py>=4' mpich"


def connect(
    backend: str | None,
    timeout_s: float,
    shared_memory: bool | None,
    hierarchical: bool | None,
    link: str | None,
) -> tuple[Communicator, environment.RankEnvironment]:
    """Open the communicator of all ranks of this job; also say what the launcher says.

    Raises:
        DistributedError: see `init_process_group`.
    """
    threads = current_thread_rank()
    if backend == "thread" and threads is None:
        raise DistributedError(
            "backend 'thread' works inside ddp.run_ranks(function, size), or under "
            "`allgrad run --debug`; this thread is no rank"
        )
    communicator: Communicator
    if threads is not None and backend != "local":
        world, rank = threads
        place = environment.RankEnvironment(rank, world.size, rank, world.size, 0, 1, "threads")
        communicator = ThreadCommunicator(world, rank, timeout_s, settings.from_environ())
    else:
        place = environment.discover()
        communicator, place = _of_processes(backend, place, timeout_s, shared_memory, hierarchical)
    link = link or os.environ.get("ALLGRAD_LINK")
    if link:
        from allgrad.ddp.communicators.link import linked  # noqa: PLC0415 - rarely used

        communicator = linked(communicator, link)
    return communicator, place


def _of_processes(
    backend: str | None,
    place: environment.RankEnvironment,
    timeout_s: float,
    shared_memory: bool | None,
    hierarchical: bool | None,
) -> tuple[Communicator, environment.RankEnvironment]:
    if backend == "local" or (backend != "mpi" and place.size == 1):
        if place.size > 1:
            raise DistributedError(
                f"backend 'local' is for one rank, but the launcher {place.launcher!r} started "
                f"{place.size}; leave backend out"
            )
        return LocalCommunicator(timeout_s), place
    with torchrun.meeting(place, os.environ, timeout_s):
        mpi = _load_mpi(place)
    comm, one_host = mpi.world()
    check_world(place, comm.Get_rank(), comm.Get_size(), mpi.library())
    if not place.local_rank:
        segments.remove_stale()
    if shared_memory and not one_host:
        raise DistributedError(
            f"[rank {place.rank}/{place.size}] shared_memory=True, but the ranks are on several "
            "hosts; leave it out"
        )
    hosts = [[*range(comm.Get_size())]] if one_host else mpi.hosts_of(comm)
    place = _with_hosts(place, comm.Get_rank(), comm.Get_size(), hosts)
    if not one_host and hierarchical is not False and max(len(host) for host in hosts) > 1:
        from allgrad.ddp.communicators.hierarchical import (  # noqa: PLC0415 - as above
            HierarchicalCommunicator,
        )

        flat = mpi.MpiCommunicator(comm, timeout_s, settings.from_environ())
        return HierarchicalCommunicator(flat, hosts), place
    communicator = mpi.open_communicator(comm, timeout_s, shared_memory, settings.from_environ())
    return communicator, place


def _load_mpi(place: environment.RankEnvironment) -> ModuleType:
    """Import what starts MPI."""
    try:
        from allgrad.ddp.communicators import mpi  # noqa: PLC0415 - one rank needs no MPI
    except (ImportError, RuntimeError) as error:  # RuntimeError: mpi4py without an MPI library
        raise DistributedError(
            f"[rank {place.rank}/{place.size}] cannot load MPI ({error}); run: {_INSTALL}"
        ) from error
    return mpi


def _with_hosts(
    place: environment.RankEnvironment, rank: int, size: int, hosts: list[list[int]]
) -> environment.RankEnvironment:
    """Where the rank is, by what MPI sees, as far as the launcher does not say it."""
    node = next(i for i, ranks in enumerate(hosts) if rank in ranks)
    seen = (hosts[node].index(rank), len(hosts[node]), node, len(hosts))
    if place.launcher == "none":  # MPI was asked for where no launcher is known
        return environment.RankEnvironment(rank, size, *seen, "none")
    return environment.fill_in(place, *seen)


def check_world(place: environment.RankEnvironment, rank: int, size: int, library: str) -> None:
    """MPI started with the wrong launcher gives N jobs of one rank, and each would look fine."""
    if place.launcher == "none" or (place.rank, place.size) == (rank, size):
        return
    raise DistributedError(spellings.wrong_launcher(place, rank, size, library))
