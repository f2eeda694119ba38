"""N ranks as N threads of one process: same collectives, same bits, one debugger.

Stage of the flow: the `SharedMemory` of threads, and `run_ranks`, which starts them. May import:
`base`, `shared`, `thread_job`, `allgrad.ddp.schedule`.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any, TypeVar

from allgrad.ddp.communicators import operations as ops
from allgrad.ddp.communicators.base import DEFAULT_TIMEOUT_S, Communicator, aligned_zeros
from allgrad.ddp.communicators.board import RING
from allgrad.ddp.communicators.memory import Bytes
from allgrad.ddp.communicators.shared import SLOTS, SharedMemoryCommunicator
from allgrad.ddp.communicators.splitting import adopt, agree
from allgrad.ddp.communicators.thread_job import RankStoppedError, ThreadJob, Waiter
from allgrad.ddp.diagnosis.settings import Settings
from allgrad.ddp.diagnosis.statement import Speaker
from allgrad.ddp.schedule import Schedule
from allgrad.errors import DistributedError

T = TypeVar("T")

_LOOK_AGAIN_S = 0.1  # a rank that waits looks for time-outs and failures so often


class _Round:
    """One `exchange`: the values given so far, and all of them once they are there."""

    def __init__(self) -> None:
        self.offers: dict[int, Any] = {}
        self.values: list[Any] | None = None


class ThreadWorld:
    """What the ranks of a job, or of a group of them, share.

    Args:
        size: number of ranks.
        schedule: decides which of them runs; None: all at once.

    Attributes:
        job: what all groups of these threads have in common.
        members: number in the job of each rank of this world.
    """

    def __init__(self, size: int, schedule: Schedule | None = None) -> None:
        self._set(ThreadJob(size, schedule), range(size))

    def _set(self, job: ThreadJob, members: Sequence[int]) -> None:
        self.job, self.members, self.size = job, tuple(members), len(members)
        self.waiters: dict[int, Waiter] = {}
        self._ticket = 0
        self._round = _Round()

    def subworld(self, rank: int, ranks: Sequence[int] | None) -> ThreadWorld | None:
        """Collective over this world. The world of a group of its ranks, the same for all of them.

        Args:
            rank: the caller.
            ranks: of the caller's group in ascending order, or None if it is in none.
        """
        mine = None
        if ranks and ranks[0] == rank:
            mine = ThreadWorld.__new__(ThreadWorld)
            mine._set(self.job, [self.members[i] for i in ranks])
        worlds = self.exchange(rank, mine)
        return worlds[ranks[0]] if ranks else None

    @property
    def error(self) -> tuple[int, BaseException] | None:
        """The first failure of the job, with its rank there."""
        return self.job.error

    def fail(self, rank: int, error: BaseException) -> None:
        """Record the first failure and wake everybody; rank -1 is nobody's."""
        self.job.fail(self.members[rank] if rank >= 0 else rank, error)

    def check(self, rank: int) -> None:
        """Raise in this rank if another one has failed."""
        self.job.check(self.members[rank])

    def ticket(self) -> int:
        """The number of events so far."""
        return self._ticket

    def notify(self) -> None:
        """An event: wake those that have waited for as many."""
        with self.job.lock:
            self._ticket += 1
            self.job.event()
            if self.waiters:
                self._wake()

    def _wake(self) -> None:
        # Under a schedule at every event: a rank that waits must see a failure without a clock.
        scheduled = self.job.schedule is not None
        for waiter in list(self.waiters.values()):
            if scheduled or self._ticket >= waiter.target:
                self.job.wake(waiter)

    def pause(
        self, rank: int, ticket: int, lag: int, describe: Callable[[], str], timeout_s: float
    ) -> None:
        """Return once there is a chance of news since `ticket`, or after the time-out.

        Args:
            rank: the caller.
            ticket: taken before `lag` was counted.
            lag: how many events at least must come before this rank can go on. With 64 ranks it
                is woken a few times per collective instead of 128 times.
            describe: what it waits for.
            timeout_s: in seconds.
        """
        target = ticket + lag
        waiter = Waiter(self, self.members[rank], target, describe)
        self.job.sleep(waiter, lambda: self._ticket < target, timeout_s)

    def exchange(self, rank: int, value: T) -> list[T]:
        """Give a value and return those of all ranks; doubles as a barrier."""
        self.job.point(self.members[rank], "exchange")
        with self.job.lock:
            mine = self._round
            mine.offers[rank] = value
            if len(mine.offers) == self.size:
                self._round = _Round()
                mine.values = [mine.offers[i] for i in range(self.size)]
                self.job.event()
                for waiter in list(self.waiters.values()):
                    self.job.wake(waiter)
        while mine.values is None:
            self.check(rank)
            waiter = Waiter(
                self, self.members[rank], float("inf"), lambda: self._missing(mine.offers)
            )
            self.job.sleep(waiter, lambda: mine.values is None, _LOOK_AGAIN_S)
        return mine.values

    def _missing(self, offers: dict[int, Any]) -> str:
        late = [self.members[i] for i in range(self.size) if i not in offers]
        return f"the allocation of shared memory, for {_names(late)}"


class _ThreadMemory:
    """Plain memory of the process, seen by one rank of a ThreadWorld."""

    def __init__(self, world: ThreadWorld, rank: int) -> None:
        self.world, self.rank, self.size = world, rank, world.size
        self.lag: Callable[[], int] = lambda: 1
        self.describe: Callable[[], str] = lambda: "a collective"

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
        self.world.job.point(self.world.members[self.rank], "post")

    def pause(self, polls: int, ticket: int) -> bool:
        world = self.world
        world.check(self.rank)
        lag = self.lag()
        if lag > 0:
            world.pause(self.rank, ticket, lag, self.describe, _LOOK_AGAIN_S)
        return True

    def now(self) -> float:
        return self.world.job.hold.now()

    def speakers(self, mine: Speaker) -> list[Speaker] | None:
        return self.world.exchange(self.rank, mine)

    def process_of(self, rank: int) -> None:
        return None  # the rank's end is seen by the job

    def abort(self, code: int) -> None:
        self.world.fail(self.rank, SystemExit(code))

    def close(self) -> None:
        return None


class ThreadCommunicator(SharedMemoryCommunicator):
    """One rank of a `ThreadWorld`; construct it inside that rank's thread."""

    def __init__(
        self,
        world: ThreadWorld,
        rank: int,
        timeout_s: float = DEFAULT_TIMEOUT_S,
        diagnosis: Settings = Settings(),  # noqa: B008 - immutable
    ) -> None:
        memory = _ThreadMemory(world, rank)
        super().__init__(memory, "thread", timeout_s, diagnosis)
        self._world, self._diagnosis = world, diagnosis
        self._job, self._number = world.job, world.members[rank]
        self._awaited: ops.Operation | None = None
        memory.lag, memory.describe = self._lag, self._describe_wait
        world.job.belongings[self._number].setdefault("communicators", []).append(self)

    def progress(self) -> None:
        self._job.point(self._number, "look")
        super().progress()

    def _wait(self, operation: ops.Operation) -> None:
        self._awaited = operation
        try:
            super()._wait(operation)
        finally:
            self._awaited = None

    def check_failure(self) -> None:
        try:
            super().check_failure()
        except DistributedError as error:
            raise RankStoppedError(str(error)) from None  # the rank that failed has said why

    def fail(self, error: DistributedError) -> None:
        self._world.fail(self.rank, error)

    def split(self, ranks: Sequence[int] | None) -> Communicator | None:
        members = agree(self, ranks)
        world = self._world.subworld(self.rank, members)
        if world is None or members is None:
            return None
        part = ThreadCommunicator(world, members.index(self.rank), self.timeout_s, self._diagnosis)
        return adopt(self, part, members)

    def _lag(self) -> int:
        """How many ranks at least must post something before this one can do anything."""
        if self._mailbox.active:
            return 1  # any event may be a message
        board, lags = self._board, []
        if self._to_stage:
            sequence = self._to_stage[0].sequence
            free = max(self._slot_used[sequence % SLOTS], sequence - RING)
            lags.append(len(board.not_done(free)))
        if self._to_consume:
            head = self._to_consume[0]
            if head.root is None:
                lags.append(len(board.not_ready(head.sequence)))
            else:
                lags.append(0 if board.is_ready(head.root, head.sequence) else 1)
        if self._awaited is not None and self._awaited.consumed:
            lags.append(len(board.not_done(self._awaited.sequence)))
        return min(lags, default=1)

    def _describe_wait(self) -> str:
        operation = self._awaited
        if operation is None or self._mailbox.awaited is not None:
            return str(self._mailbox.awaited or "a collective")
        late, verb = self._late(operation)
        note = f" for {self.note}" if self.note else ""
        step = f" of step {self.step}" if self.step else ""
        what = ops.describe_signature(operation.signature)
        return f"{what}{note}{step}, which {_names(late)} have not {verb}"


class _RankOfThread(threading.local):
    """Which rank of which world the calling thread is, if any."""

    place: tuple[ThreadWorld, int] | None = None


_this_thread = _RankOfThread()


def current_thread_rank() -> tuple[ThreadWorld, int] | None:
    """(world, rank) inside a function that `run_ranks` runs, otherwise None."""
    return _this_thread.place


@contextmanager
def as_rank(place: tuple[ThreadWorld, int] | None) -> Iterator[None]:
    """Within the block this thread counts as that rank: a thread which a rank has started."""
    before, _this_thread.place = _this_thread.place, place
    try:
        yield
    finally:
        _this_thread.place = before


class RankThreads:
    """The threads of a job's ranks.

    Args:
        world: of all ranks.
        body: called with the rank in each thread; what it raises has failed the job, except
            `SystemExit` with code 0 or None.
        stack_bytes: size of each thread's stack; 0 is the system's default.
    """

    def __init__(
        self, world: ThreadWorld, body: Callable[[int], Any], stack_bytes: int = 0
    ) -> None:
        self.results: list[Any] = [None] * world.size
        self.threads = [
            threading.Thread(target=self._run, args=(rank,), name=f"rank {rank}", daemon=True)
            for rank in range(world.size)
        ]
        self._world, self._body, self._stack_bytes = world, body, stack_bytes

    def start(self) -> None:
        """Start all threads."""
        before = threading.stack_size(self._stack_bytes)
        try:
            for thread in self.threads:
                thread.start()
        finally:
            threading.stack_size(before)

    def _run(self, rank: int) -> None:
        world = self._world
        _this_thread.place = (world, rank)
        try:
            world.job.begin_rank(rank)
            self._call(rank)
        finally:
            world.job.end_rank(rank)

    def _call(self, rank: int) -> None:
        world = self._world
        try:
            self.results[rank] = self._body(rank)
        except SystemExit as end:
            if end.code not in (None, 0):
                world.fail(rank, end)
                return
        except BaseException as error:  # noqa: BLE001 - the job's end tells
            world.fail(rank, error)
            return
        belongings = world.job.belongings[rank]
        try:
            for leave in belongings.get("leaving", ()):
                leave()
        except BaseException as error:  # noqa: BLE001 - as above
            world.fail(rank, error)
            return
        for communicator in belongings.get("communicators", ()):
            communicator.leave()

    def join(self) -> None:
        """Wait for the end of all ranks; Ctrl-C wakes those that wait for each other."""
        try:
            for thread in self.threads:
                thread.join()
        except KeyboardInterrupt as interrupt:
            self._world.fail(-1, interrupt)
            raise


def run_ranks(
    function: Callable[[], T], size: int, *, schedule: Schedule | int | None = None
) -> list[T]:
    """Run `function` once per rank, each in a thread of its own; return their results by rank.

    Inside, ``allgrad.ddp.init_process_group()`` finds the rank by itself. `SystemExit` with
    code 0 or None is a normal end.

    Args:
        function: called without arguments; `get_rank()` tells the calls apart.
        size: number of ranks, at least 1.
        schedule: a `Schedule` or its seed: one rank runs at a time, the same way for the same
            seed. None: the threads run freely.

    Raises:
        The first exception of any rank, after all ranks have ended: ranks waiting in a collective
        are woken with a DistributedError that names the rank that failed.
    """
    if isinstance(schedule, int):
        schedule = Schedule(schedule)
    world = ThreadWorld(size, schedule)

    def body(rank: int) -> T:
        try:
            return function()
        except BaseException as error:
            error.add_note(f"[rank {rank}/{size}]")
            raise

    threads = RankThreads(world, body)
    with nullcontext() if schedule is None else schedule.running(size):
        threads.start()
        threads.join()
    if world.error is not None:
        raise world.error[1]
    return threads.results


def _names(ranks: Sequence[int]) -> str:
    return ("rank " if len(ranks) == 1 else "ranks ") + ", ".join(map(str, ranks))
