"""What ranks need in order to share memory: the seam below the shared-memory communicator.

Stage of the flow: below `shared`; provided by `shm.py` (MPI shared-memory windows) and `thread.py`.
May import: numpy, `diagnosis.process`, `diagnosis.statement`.
"""

from __future__ import annotations

import weakref
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from allgrad.ddp.diagnosis.process import Identity
from allgrad.ddp.diagnosis.statement import Speaker

Bytes = NDArray[np.uint8]


class SharedMemory(Protocol):
    """What ranks need in order to share memory; everything else is built on it."""

    rank: int
    size: int

    def allocate(self, size_bytes: int) -> tuple[Any, list[Bytes]]:
        """Collective. A handle for `free` and one zeroed, 64-byte aligned array per rank."""

    def free(self, handle: Any) -> None:
        """Collective. No view of the memory may be alive on any rank."""

    def fence(self) -> None:
        """Order this rank's earlier loads and stores before its later ones."""

    def ticket(self) -> int:
        """Taken before looking for news, given to `pause` if there was none."""

    def notify(self) -> None:
        """Tell the others that there is news."""

    def pause(self, polls: int, ticket: int) -> bool:
        """Wait a little, the longer the more `polls` have found nothing; True if it slept."""

    def now(self) -> float:
        """Seconds of the clock of time-outs; it stands still while a debugger holds the ranks."""

    def speakers(self, mine: Speaker) -> list[Speaker] | None:
        """Collective. What speaks for each rank, if all are threads of this process."""

    def process_of(self, rank: int) -> Identity | None:
        """The rank's process, if ranks are processes."""

    def abort(self, code: int) -> None:
        """End all ranks."""

    def close(self) -> None:
        """Collective. Give back what is left."""


class Window:
    """One collective allocation; remembers, without keeping it alive, what the user holds."""

    def __init__(self, handle: Any, parts: list[Bytes], owner: weakref.ref[Bytes]) -> None:
        self.handle, self.parts, self.owner = handle, parts, owner
