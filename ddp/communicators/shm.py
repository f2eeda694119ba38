"""Ranks that are processes of one host: collectives over MPI shared-memory windows.

Stage of the flow: the `SharedMemory` of processes. MPI starts the ranks and makes the windows;
the data then moves by loads and stores. May import: numpy, `shared`, and mpi4py by way of
`mpi.py`.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from allgrad.ddp.communicators.base import ALIGNMENT_BYTES, DEFAULT_TIMEOUT_S, Communicator
from allgrad.ddp.communicators.memory import Bytes
from allgrad.ddp.communicators.mpi import MPI, end_all, split_off
from allgrad.ddp.communicators.shared import SharedMemoryCommunicator
from allgrad.ddp.diagnosis.forked import mark_in_children
from allgrad.ddp.diagnosis.process import Identity, identity
from allgrad.ddp.diagnosis.settings import Settings
from allgrad.ddp.diagnosis.statement import Speaker

# A poll takes about 1 us. Spin only as long as ranks in step need; then offer the core and the
# interpreter lock between polls, which costs 1 us where nobody wants them, and where two ranks
# compete for a core decides the speed (1 KB on a busy machine: 158 us with 300 polls, 26 us
# with 16); after about 3 ms sleep, which takes 0.1 ms to wake from.
_SPIN_POLLS = 16
_YIELD_POLLS = 1_500
_SLEEP_S = 1e-4


class _WindowMemory:
    """Shared windows of an MPI communicator whose ranks are on one host."""

    def __init__(self, comm: MPI.Intracomm) -> None:
        self._comm = comm
        self.rank, self.size = comm.Get_rank(), comm.Get_size()
        self._fence_window: MPI.Win | None = None
        cores = set().union(*comm.allgather(os.sched_getaffinity(0)))
        self._processes = [Identity(*who) for who in comm.allgather(tuple(identity()))]
        self._spin_polls = _SPIN_POLLS if len(cores) >= self.size else 0

    def allocate(self, size_bytes: int) -> tuple[MPI.Win, list[Bytes]]:
        # non-contiguous: each rank's part starts on a page of its own, near its own core
        info = MPI.Info.Create({"alloc_shared_noncontig": "true"})
        window = MPI.Win.Allocate_shared(
            size_bytes + ALIGNMENT_BYTES, 1, info=info, comm=self._comm
        )
        info.Free()
        window.Lock_all()
        parts = []
        for rank in range(self.size):
            segment: Any = window.Shared_query(rank)[0]
            whole = np.frombuffer(segment, np.uint8)
            # every process maps the pages at an address of its own, so align by page offset;
            # mappings are page-aligned, hence the shift is the same in all of them
            shift = -whole.ctypes.data % ALIGNMENT_BYTES
            parts.append(whole[shift : shift + size_bytes])
        parts[self.rank][:] = 0
        if self._fence_window is None:
            self._fence_window = window
        window.Sync()
        self._comm.Barrier()
        window.Sync()
        return window, parts

    def free(self, handle: MPI.Win) -> None:
        if handle is self._fence_window:
            self._fence_window = None
        handle.Unlock_all()
        handle.Free()

    def fence(self) -> None:
        # MPI_Win_sync is a full memory barrier in MPICH and Open MPI, whichever window it names
        if self._fence_window is not None:
            self._fence_window.Sync()

    def ticket(self) -> int:
        return 0

    def notify(self) -> None:
        return None  # the others poll

    def pause(self, polls: int, ticket: int) -> bool:
        if polls <= self._spin_polls:
            return False
        if polls <= _YIELD_POLLS:
            self.fence()  # an MPI call lets other Python threads run
            os.sched_yield()
            return False
        time.sleep(_SLEEP_S)
        return True

    def now(self) -> float:
        return time.monotonic()

    def speakers(self, mine: Speaker) -> None:
        return None

    def process_of(self, rank: int) -> Identity:
        return self._processes[rank]

    def abort(self, code: int) -> None:
        end_all(code)

    def close(self) -> None:
        self._comm.Free()


class ShmCommunicator(SharedMemoryCommunicator):
    """All ranks of an MPI communicator on one host.

    Args:
        comm: an intracommunicator whose ranks share memory; owned and freed by `close`.
        timeout_s: a collective that takes longer raises DistributedError.
        diagnosis: what ranks keep ready for the case that something is wrong.
    """

    def __init__(
        self,
        comm: Any,
        timeout_s: float = DEFAULT_TIMEOUT_S,
        diagnosis: Settings = Settings(),  # noqa: B008 - immutable
    ) -> None:
        super().__init__(_WindowMemory(comm), "shm", timeout_s, diagnosis)
        self._comm, self._diagnosis = comm, diagnosis
        mark_in_children(self)

    def split(self, ranks: Sequence[int] | None) -> Communicator | None:
        return split_off(self, self._comm, ranks, self._diagnosis)
