"""Seeded interleavings of ranks that run as threads: one at a time, the same for the same seed.

Stage of the flow: beside the communicator of threads (`communicators/thread.py`), which calls
`point` at its calls and `block` where it waits. May import: `allgrad.moments`, `allgrad.errors`.

Threads that run freely show one interleaving, mostly the same one. Under a `Schedule` exactly one
rank runs, until it comes to a switch point: a call of the communicator, a look whether a collective
is done, a gradient that is ready, a batch of a `DataLoader`, or `yield_point` in the user's code.
There a generator of the seed decides who goes on. So a seed is an interleaving that can be had
again, and a few hundred seeds are a search for races.

Half of the seeds walk at random; the others give the ranks random priorities that change at a few
random points, which finds races that need a rank to be far behind.

Source: Burckhardt, Kothari, Musuvathi, Nagarakatte 2010, "A randomized scheduler with probabilistic
guarantees of finding bugs" (ASPLOS), section 3: priorities and change points.
"""

from __future__ import annotations

import gc
import random
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

from allgrad.moments import listen, moment

_STUBBORN = 100  # points in a row after which a rank that keeps its turn goes to the end


class Switch(NamedTuple):
    """One decision: `rank` came to the point `what`, and `next` runs after it."""

    rank: int
    what: str
    next: int


def yield_point(what: str = "yield") -> None:
    """A place in the user's code at which another rank may run; without a schedule nothing.

    Args:
        what: its name in the trace.
    """
    moment(what)


class Schedule:
    """Decides which of several rank threads runs.

    Args:
        seed: of the decisions, >= 0.

    Attributes:
        trace: the decisions so far; the same for every run of the same program and seed.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.trace: list[Switch] = []
        self._random = random.Random(seed)
        self._walk = self._random.random() < 0.5
        # how often a walk leaves a rank that could go on, or a priority changes
        self._often = self._random.choice((1.0, 0.5, 0.1) if self._walk else (0.1, 0.03, 0.01))
        self._lock = threading.Lock()
        self._turns: dict[int, threading.Lock] = {}
        self._threads: dict[int, int] = {}
        self._ready: set[int] = set()
        self._priorities: list[int] = []
        self._current = -1
        self._stubborn = 0

    @contextmanager
    def running(self, size: int) -> Iterator[None]:
        """Around the threads of `size` ranks; the schedule starts anew.

        Within, cyclic garbage is not collected: when that happens depends on more than the seed,
        and memory that is given back is a decision of all ranks.
        """
        again = Schedule(self.seed)
        self.trace, self._random = again.trace, again._random
        self._turns = {rank: threading.Lock() for rank in range(size)}
        for turn in self._turns.values():
            turn.acquire()
        self._threads, self._ready = {}, set()
        self._priorities = list(range(size))
        self._random.shuffle(self._priorities)
        self._current, self._stubborn = -1, 0
        collecting = gc.isenabled()
        gc.collect(1)  # of a schedule before; going through all that a program holds takes longer
        gc.disable()
        try:
            yield
        finally:
            if collecting:
                gc.enable()

    # ---- called by the thread of a rank ----------------------------------------------------

    def begin(self, rank: int) -> None:
        """The thread of `rank` has started; returns when it is its turn."""
        listen(lambda what: self.point(rank, what))
        with self._lock:
            self._threads[rank] = threading.get_ident()
            self._ready.add(rank)
            if len(self._ready) == len(self._turns):  # all are there: the first decision
                self._give("begin")
        self._turns[rank].acquire()

    def end(self, rank: int) -> None:
        """The thread of `rank` runs no more."""
        listen(None)
        with self._lock:
            self._ready.discard(rank)
            del self._threads[rank]
            if self._ready:
                self._give("end")

    def point(self, rank: int, what: str) -> None:
        """The running rank has come to a switch point; returns when it is its turn again.

        Threads that a rank has started by itself have no turns; they run as they like.
        """
        if self._threads.get(rank) != threading.get_ident():
            return
        with self._lock:
            chosen = self._give(what)
        if chosen != rank:
            self._turns[rank].acquire()

    def sleeps(self, rank: int) -> None:
        """The running rank is about to `block`."""
        with self._lock:
            self._ready.discard(rank)

    def ready(self, rank: int) -> None:
        """A sleeping rank may have its turn again."""
        with self._lock:
            self._ready.add(rank)

    def block(self, rank: int) -> None:
        """Let others run; returns when this rank is ready and has its turn."""
        with self._lock:
            chosen = self._give("wait")
        if chosen != rank:
            self._turns[rank].acquire()

    # ---- decisions -------------------------------------------------------------------------

    def _give(self, what: str) -> int:
        """Choose who runs next and let it run. With the lock held."""
        before = self._current
        chosen = self._choose(before)
        self.trace.append(Switch(before, what, chosen))
        self._stubborn = self._stubborn + 1 if chosen == before else 0
        self._current = chosen
        if chosen != before:
            self._turns[chosen].release()
        return chosen

    def _choose(self, before: int) -> int:
        ready = sorted(self._ready)
        if len(ready) == 1:
            return ready[0]
        goes_on = before in self._ready
        if goes_on and self._stubborn >= _STUBBORN:  # it may wait for another one, by looking
            ready.remove(before)
            goes_on = False
            self._to_the_end(before)
        change = self._random.random() < self._often
        if self._walk:
            return before if goes_on and not change else self._random.choice(ready)
        if goes_on and change:
            self._to_the_end(before)
        return max(ready, key=lambda rank: self._priorities[rank])

    def _to_the_end(self, rank: int) -> None:
        self._priorities[rank] = min(self._priorities) - 1


class FoundFailure(NamedTuple):
    """A seed under which a program fails, and how."""

    seed: int
    error: BaseException
    trace: list[Switch]


def search(function: Callable[[], Any], size: int, seeds: Iterable[int]) -> FoundFailure | None:
    """Run `function` as `size` ranks under one seed after the other until it fails.

    Args:
        function: called once per rank and seed; whatever the ranks share must start anew in it.
        size: number of ranks.
        seeds: in this order, for instance ``range(200)``.

    Returns:
        The first seed that fails, to be had again by ``run_ranks(function, size, schedule=seed)``;
        None if all went well.
    """
    from allgrad.ddp.communicators.thread import run_ranks  # noqa: PLC0415 - it imports this file

    for seed in seeds:
        schedule = Schedule(seed)
        try:
            run_ranks(function, size, schedule=schedule)
        except Exception as error:  # noqa: BLE001 - whatever the program raises is what is looked for
            return FoundFailure(seed, error, schedule.trace)
    return None
