"""N ranks as N threads of one process: same collectives, same bits, one debugger.

Stage of the flow: the `SharedMemory` of threads, and `run_ranks`, which starts them. May import:
`base`, `shared`.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, TypeVar

from allgrad.ddp.communicators.base import DEFAULT_TIMEOUT_S, aligned_zeros
from allgrad.ddp.communicators.shared import Bytes, SharedMemoryCommunicator
from allgrad.errors import DistributedError

T = TypeVar("T")


class ThreadWorld:
    """What the ranks of one `run_ranks` call share."""

    def __init__(self, size: int) -> None:
        self.size = size
        self._condition = threading.Condition()
        self._ticket = 0
        self._offers: dict[int, Any] = {}
        self._taken = 0
        self.error: tuple[int, BaseException] | None = None

    def ticket(self) -> int:
        return self._ticket

    def notify(self) -> None:
        with self._condition:
            self._ticket += 1
            self._condition.notify_all()

    def wait_for_news(self, ticket: int, timeout_s: float) -> None:
        """Return once somebody has notified since `ticket` was taken, or after the time-out."""
        with self._condition:
            self._condition.wait_for(lambda: self._ticket != ticket, timeout_s)

    def fail(self, rank: int, error: BaseException) -> None:
        """Record the first failure and wake everybody."""
        with self._condition:
            if self.error is None:
                self.error = (rank, error)
            self._ticket += 1
            self._condition.notify_all()

    def check(self, rank: int) -> None:
        if self.error is not None and self.error[0] != rank:
            failed, error = self.error
            who = f"[rank {failed}/{self.size}]" if failed >= 0 else "the program"
            raise DistributedError(
                f"[rank {rank}/{self.size}] stopped because another rank failed: "
                f"{who} {type(error).__name__}: {error}"
            ) from error

    def exchange(self, rank: int, value: T) -> list[T]:
        """Give a value and return those of all ranks; doubles as a barrier."""
        with self._condition:
            # the round before this one must have been taken by all
            self._wait(rank, lambda: rank not in self._offers)
            self._offers[rank] = value
            self._condition.notify_all()
            self._wait(rank, lambda: len(self._offers) == self.size)
            values = [self._offers[i] for i in range(self.size)]
            self._taken += 1
            if self._taken == self.size:
                self._taken = 0
                self._offers = {}
            self._condition.notify_all()
            return values

    def _wait(self, rank: int, ready: Callable[[], bool]) -> None:
        self._condition.wait_for(lambda: ready() or self.error is not None)
        self.check(rank)


class _ThreadMemory:
    """Plain memory of the process, seen by one rank of a ThreadWorld."""

    def __init__(self, world: ThreadWorld, rank: int) -> None:
        self.world, self.rank, self.size = world, rank, world.size

    def allocate(self, size_bytes: int) -> tuple[None, list[Bytes]]:
        return None, list(self.world.exchange(self.rank, aligned_zeros(size_bytes)))

    def free(self, handle: Any) -> None:
        return None  # the garbage collector frees what nobody holds

    def fence(self) -> None:
        return None  # the interpreter lock orders loads and stores of threads

    def ticket(self) -> int:
        return self.world.ticket()

    def notify(self) -> None:
        self.world.notify()

    def pause(self, polls: int, ticket: int) -> bool:
        self.world.check(self.rank)
        self.world.wait_for_news(ticket, timeout_s=0.02)
        return True

    def abort(self, code: int) -> None:
        self.world.fail(self.rank, SystemExit(code))

    def close(self) -> None:
        return None


class _RankOfThread(threading.local):
    """Which rank of which world the calling thread is, if any."""

    def __init__(self) -> None:
        self.place: tuple[ThreadWorld, int] | None = None
        self.communicators: list[SharedMemoryCommunicator] = []


_this_thread = _RankOfThread()


class ThreadCommunicator(SharedMemoryCommunicator):
    """One rank of a `ThreadWorld`; construct it inside that rank's thread."""

    def __init__(self, world: ThreadWorld, rank: int, timeout_s: float = DEFAULT_TIMEOUT_S) -> None:
        super().__init__(_ThreadMemory(world, rank), "thread", timeout_s)
        _this_thread.communicators.append(self)


def current_thread_rank() -> tuple[ThreadWorld, int] | None:
    """(world, rank) inside a function that `run_ranks` runs, otherwise None."""
    return _this_thread.place


def run_ranks(function: Callable[[], T], size: int) -> list[T]:
    """Run `function` once per rank, each in a thread of its own; return their results by rank.

    Inside, ``allgrad.ddp.init_process_group()`` finds the rank by itself. `SystemExit` with
    code 0 or None is a normal end.

    Args:
        function: called without arguments; `get_rank()` tells the calls apart.
        size: number of ranks, at least 1.

    Raises:
        The first exception of any rank, after all ranks have ended: ranks waiting in a collective
        are woken with a DistributedError that names the rank that failed.
    """
    world = ThreadWorld(size)
    results: list[Any] = [None] * size

    def body(rank: int) -> None:
        _this_thread.place = (world, rank)
        try:
            results[rank] = function()
        except SystemExit as end:
            if end.code not in (None, 0):
                world.fail(rank, end)
                return
        except BaseException as error:  # noqa: BLE001 - raised again by run_ranks
            error.add_note(f"[rank {rank}/{size}]")
            world.fail(rank, error)
            return
        for communicator in _this_thread.communicators:
            communicator.leave()

    threads = [
        threading.Thread(target=body, args=(rank,), name=f"rank {rank}", daemon=True)
        for rank in range(size)
    ]
    for thread in threads:
        thread.start()
    try:
        for thread in threads:
            thread.join()
    except KeyboardInterrupt as interrupt:
        world.fail(-1, interrupt)  # wakes the ranks that wait for each other
        raise
    if world.error is not None:
        raise world.error[1]
    return results
