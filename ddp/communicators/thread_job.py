"""What the rank threads of one job have in common: who waits for what, and who failed first.

Stage of the flow: below `thread.py`. May import: `hold`, `allgrad.ddp.schedule`, `allgrad.errors`.

A rank that waits sleeps until enough has happened for it to have a chance (`ThreadWorld.pause`):
with many ranks, waking all of them at each event would take longer than their work. Where all ranks
wait nothing can happen any more: that is a deadlock, and it is explained instead of timed out.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable
from typing import Any

from allgrad.ddp.communicators.hold import Hold
from allgrad.ddp.schedule import Schedule
from allgrad.errors import DistributedError

# Without a schedule: all ranks have waited for so long without an event. Nothing can come then, but
# events must have had the time to be seen.
_QUIET_S = 1.0


class RankStoppedError(DistributedError):
    """Raised in a rank because another one failed; never the first failure of a job."""


class Waiter:
    """One rank that waits.

    Attributes:
        rank: number in the job.
        target: number of events of its world from which it has a chance.
        describe: what it waits for, in words.
        main: whether it is the rank's own thread, not one that the rank has started.
    """

    __slots__ = ("asleep", "describe", "main", "rank", "target", "thread", "wake", "world")

    def __init__(self, world: Any, rank: int, target: float, describe: Callable[[], str]) -> None:
        self.world, self.rank, self.target, self.describe = world, rank, target, describe
        self.wake = threading.Lock()
        self.wake.acquire()
        self.asleep = True
        self.thread = threading.get_ident()
        self.main = world.job.threads.get(rank) == self.thread


class ThreadJob:
    """All rank threads of one `run_ranks`.

    Attributes:
        size: number of ranks.
        schedule: decides which rank runs, or None: they run as the operating system lets them.
        hold: stops the ranks for a debugger.
        error: (rank, exception) of the first failure; rank -1 is the job as a whole.
        belongings: what each rank has once, by name: its default group, its communicators.
        lock: held while any of this changes, or the events of a world.
    """

    def __init__(self, size: int, schedule: Schedule | None = None) -> None:
        self.size, self.schedule, self.hold = size, schedule, Hold()
        self.error: tuple[int, BaseException] | None = None
        self.belongings: list[dict[str, Any]] = [{} for _ in range(size)]
        self.lock = threading.Lock()
        self.live = size
        self.threads: dict[int, int] = {}  # of each rank
        self._blocked: dict[int, Waiter] = {}  # by thread
        self._events = 0
        self._rechecked = -1
        self._quiet = (0, 0.0)  # number of events, since when it has stood there

    # ---- events ----------------------------------------------------------------------------

    def event(self) -> None:
        """Something has happened in one of the worlds. With the lock held."""
        self._events += 1

    def wake(self, waiter: Waiter) -> None:
        """Let a waiter look again. With the lock held."""
        if waiter.asleep:
            waiter.asleep = False
            self._blocked.pop(waiter.thread, None)
            waiter.world.waiters.pop(waiter.thread, None)
            if self.schedule is not None and waiter.main:
                self.schedule.ready(waiter.rank)
            else:
                waiter.wake.release()

    def fail(self, rank: int, error: BaseException) -> None:
        """Record the first failure and wake everybody."""
        with self.lock:
            self._fail(rank, error)

    def _fail(self, rank: int, error: BaseException) -> None:
        if self.error is None:
            self.error = (rank, error)
        self._wake_all()

    def _wake_all(self) -> None:
        for waiter in list(self._blocked.values()):
            self.wake(waiter)

    def check(self, rank: int) -> None:
        """Raise in this rank if another one has failed."""
        if self.error is not None and self.error[0] != rank:
            failed, error = self.error
            who = f"[rank {failed}/{self.size}]" if failed >= 0 else "the job"
            raise RankStoppedError(
                f"[rank {rank}/{self.size}] stopped because another rank failed: "
                f"{who} {type(error).__name__}: {error}"
            ) from error

    # ---- waiting ---------------------------------------------------------------------------

    def point(self, rank: int, what: str) -> None:
        """A moment at which this rank may be made to wait: for a debugger, for its turn."""
        self.hold.pass_by(rank)
        if self.schedule is not None:
            self.schedule.point(rank, what)

    def sleep(self, waiter: Waiter, still: Callable[[], bool], timeout_s: float) -> None:
        """Wait until somebody wakes the waiter, or `timeout_s` has passed.

        Args:
            waiter: made by this thread.
            still: asked with the lock held; False means that there is nothing to wait for.
            timeout_s: in seconds; a schedule knows no time, there it does not count.
        """
        came_from_prompt = self.hold.lend(waiter.rank)
        scheduled = self.schedule is not None and waiter.main
        with self.lock:
            if self.error is not None or not still():
                return
            self._blocked[waiter.thread] = waiter
            waiter.world.waiters[waiter.thread] = waiter
            if scheduled:
                self._look_for_deadlock(waiter)
        if scheduled:
            assert self.schedule is not None
            self.schedule.block(waiter.rank)
        elif not waiter.wake.acquire(timeout=timeout_s):
            self._after_timeout(waiter)
        if came_from_prompt:
            self.hold.come_back(waiter.rank)
        else:
            self.hold.pass_by(waiter.rank)

    def _after_timeout(self, waiter: Waiter) -> None:
        with self.lock:
            if not waiter.asleep:
                return
            now = time.monotonic()
            everybody = self._all_wait() and self.hold.at_prompt is None
            if not everybody or self._quiet[0] != self._events:
                self._quiet = (self._events, now)
            elif now - self._quiet[1] > _QUIET_S:
                self._fail(-1, self._deadlock())
            self.wake(waiter)

    def _all_wait(self) -> bool:
        return sum(waiter.main for waiter in self._blocked.values()) >= self.live

    def _look_for_deadlock(self, waiter: Waiter) -> None:
        """Under a schedule. Where the last rank falls asleep, let all look once more, then fail."""
        assert self.schedule is not None
        self.schedule.sleeps(waiter.rank)
        if not self._all_wait():
            return
        if self._rechecked != self._events:
            self._rechecked = self._events
            self._wake_all()
        else:
            self._fail(-1, self._deadlock())

    def _deadlock(self) -> DistributedError:
        waiters = sorted(self._blocked.values(), key=lambda waiter: waiter.rank)
        frames = sys._current_frames()
        lines = [
            f"  rank {w.rank} waits in {w.describe()}{user_line(frames.get(w.thread))}"
            for w in waiters
        ]
        ended = self.size - self.live
        more = f"; {ended} of {self.size} ranks have ended" if ended else ""
        return DistributedError(
            "deadlock: every rank waits for another one, so nothing can happen any more"
            f"{more}\n" + "\n".join(lines) + "\nAll ranks must call the same collectives in the "
            "same order; does a branch depend on the rank?"
        )

    # ---- the life of a rank ----------------------------------------------------------------

    def begin_rank(self, rank: int) -> None:
        """In the rank's thread, before anything else."""
        self.threads[rank] = threading.get_ident()
        if self.schedule is not None:
            self.schedule.begin(rank)

    def end_rank(self, rank: int) -> None:
        """In the rank's thread, when it has nothing more to do."""
        self.hold.end_session(rank)
        with self.lock:
            self.live -= 1
            self._events += 1
            if self.schedule is not None:
                self._wake_all()  # those that wait for this rank must see that it has gone
        if self.schedule is not None:
            self.schedule.end(rank)


def user_line(frame: Any) -> str:
    """Where a thread is outside of this package: " at train.py:12 in main", or nothing."""
    while frame is not None:
        module = frame.f_globals.get("__name__", "")
        if module.partition(".")[0] not in ("allgrad", "threading", "contextlib"):
            code = frame.f_code
            return f" at {code.co_filename}:{frame.f_lineno} in {code.co_name}"
        frame = frame.f_back
    return ""
