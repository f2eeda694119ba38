"""A rank without MPI: shared memory by mapped files, so that a dead rank does not end the others.

Started as ``python mapped_ranks.py FOLDER RANK SIZE FAILURE CALL``; rank 1 executes FAILURE between
a collective and CALL, the others print what they are told in CALL.
"""

from __future__ import annotations

import ctypes  # noqa: F401 - used by failures
import mmap
import os
import signal  # noqa: F401 - used by failures
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from allgrad.ddp.communicators.memory import Bytes
from allgrad.ddp.communicators.shared import SharedMemoryCommunicator
from allgrad.ddp.diagnosis.process import Identity, identity
from allgrad.errors import DistributedError


class MappedMemory:
    """Files in a folder that all ranks map."""

    def __init__(self, folder: Path, rank: int, size: int) -> None:
        self.folder, self.rank, self.size = folder, rank, size
        self._count = 0
        (folder / f"pid{rank}.tmp").write_text(" ".join(map(str, identity())))
        (folder / f"pid{rank}.tmp").rename(folder / f"pid{rank}")
        self._processes = [Identity(*map(int, self._read(r).split())) for r in range(size)]

    def _read(self, rank: int) -> str:
        path = self.folder / f"pid{rank}"
        while not path.exists():
            time.sleep(0.005)
        return path.read_text()

    def allocate(self, size_bytes: int) -> tuple[None, list[Bytes]]:
        self._count += 1
        parts = []
        for rank in range(self.size):
            with open(self.folder / f"memory{self._count}-{rank}", "a+b") as file:
                if os.path.getsize(file.name) < size_bytes:
                    file.truncate(size_bytes)
                parts.append(np.frombuffer(mmap.mmap(file.fileno(), size_bytes), np.uint8))
        return None, parts

    def free(self, handle: Any) -> None:
        return None

    def fence(self) -> None:
        return None

    def ticket(self) -> int:
        return 0

    def notify(self) -> None:
        return None

    def pause(self, polls: int, ticket: int) -> bool:
        time.sleep(1e-4)
        return True

    def now(self) -> float:
        return time.monotonic()

    def speakers(self, mine: Any) -> None:
        return None

    def process_of(self, rank: int) -> Identity:
        return self._processes[rank]

    def abort(self, code: int) -> None:
        os._exit(code)

    def close(self) -> None:
        return None


class _Communicator(SharedMemoryCommunicator):
    def split(self, ranks: Any) -> None:
        raise NotImplementedError


def main(folder: str, rank_text: str, size: str, failure: str, call: str) -> None:
    rank = int(rank_text)
    c = _Communicator(MappedMemory(Path(folder), rank, int(size)), "shm", 60.0)
    x = np.ones(1000, np.float32)
    c.all_reduce(x)
    begin = time.monotonic()
    if rank == 1:
        exec(failure)
    try:
        eval(call)
    except DistributedError as error:
        sys.stdout.write(f"{time.monotonic() - begin:.3f} {error}\n")
        sys.stdout.flush()
    os._exit(0)


if __name__ == "__main__":
    main(*sys.argv[1:])
