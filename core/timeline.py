"""What one rank did and when: events of the steps of training, for whoever draws them.

The lowest layer, standard library only: the data loader, the engine, the optimizers and `ddp` all
write here. Off, which is the default, each of them pays one look at a thread-local:

    timeline = active()
    if timeline is not None:
        timeline.add("batch", "data", begin, perf_counter())

Ranks may be threads of one process, so each thread has a timeline of its own, or none. Times are
seconds of `time.perf_counter`. Only the step under way is held here; each finished step goes to the
sink (`allgrad.ddp.tracing` writes files and draws).

Note [Steps of a timeline]
    A step ends with the step of an optimizer. Where several optimizers take turns, it is the one
    that stepped first; a script without an optimizer calls `end_step` itself, and then that counts.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import perf_counter
from typing import Any, NamedTuple

# A step of thousands of small ops has some ten thousand events; a program that never ends a step
# must not fill the memory.
MOST_EVENTS = 100_000

# (name, category, begin, end, details); seconds of perf_counter
Event = tuple[str, str, float, float, dict[str, Any]]


class Step(NamedTuple):
    """One step of one rank.

    Attributes:
        index: number of the step since recording began, from 0.
        begin_s, end_s: the end of the step before, and its own; perf_counter seconds.
        events: in the order in which they ended.
        dropped: events beyond `MOST_EVENTS`, which were not kept.
    """

    index: int  # type: ignore[assignment]  # not the method of tuples
    begin_s: float
    end_s: float
    events: list[Event]
    dropped: int


class Timeline:
    """Collects the events of one thread, step by step.

    Args:
        sink: called with each finished `Step` that was recorded.
        first, last: record the steps first <= index < last only; None: without end.

    Attributes:
        recording: whether the step under way is recorded.
        step: index of the step under way.
        names: names of parameters by ``id``, for events of backward; `ddp` fills it.
    """

    def __init__(
        self, sink: Callable[[Step], None], first: int = 0, last: int | None = None
    ) -> None:
        self._sink, self._first, self._last = sink, first, last
        self._owner: object | None = None
        self._inside = False
        self.names: dict[int, str] = {}
        self.step = 0
        self._restart(perf_counter())

    def _restart(self, now: float) -> None:
        self.recording = self._first <= self.step and (self._last is None or self.step < self._last)
        self._events: list[Event] = []
        self._begin_s, self._dropped = now, 0

    def add(self, name: str, category: str, begin_s: float, end_s: float, **details: Any) -> None:
        """Record what lasted from `begin_s` to `end_s`.

        Args:
            name: what a reader sees on the bar.
            category: "data", "forward", "layer", "backward", "node", "bucket", "wait",
                "communication", "optimizer" or "user".
            begin_s, end_s: seconds of `time.perf_counter`.
            **details: numbers, text, or lists of them.
        """
        if self.recording:
            if len(self._events) < MOST_EVENTS:
                self._events.append((name, category, begin_s, end_s, details))
            else:
                self._dropped += 1

    def begin(self, name: str) -> float:
        """Say that something begins; give the result to `end`. Calls nest."""
        return perf_counter()

    def end(self, begin_s: float, name: str, category: str, **details: Any) -> None:
        """Record what began with `begin`."""
        self.add(name, category, begin_s, perf_counter(), **details)

    def end_step(self, owner: object = None) -> None:
        """The step is over.

        Args:
            owner: the optimizer; see Note [Steps of a timeline]. None: the user says so.
        """
        if self._owner is None or owner is None:
            self._owner = "user" if owner is None else owner
        if owner is not None and owner is not self._owner:
            return
        now = perf_counter()
        self._hand_over(now)
        self.step += 1
        self._restart(now)

    @contextmanager
    def optimizer_step(self, optimizer: object) -> Iterator[None]:
        """Around the step of an optimizer, which may call that of its base class inside."""
        if self._inside:
            yield
            return
        self._inside = True
        name = f"{type(optimizer).__name__}.step"
        begin = self.begin(name)
        try:
            yield
        finally:
            self._inside = False
            self.end(begin, name, "optimizer")
            self.end_step(optimizer)

    def _hand_over(self, now: float) -> None:
        if self.recording and self._events:
            self._sink(Step(self.step, self._begin_s, now, self._events, self._dropped))

    def flush(self) -> None:
        """Hand over what the unfinished step has so far; recording goes on with an empty one."""
        now = perf_counter()
        self._hand_over(now)
        self._restart(now)


class _OfThread(threading.local):
    timeline: Timeline | None = None


_of_thread = _OfThread()


def active() -> Timeline | None:
    """The timeline of this thread, or None if nothing is recorded."""
    return _of_thread.timeline


def activate(timeline: Timeline | None) -> Timeline | None:
    """Record this thread's events in `timeline` from now on (None: no more); return the one before.

    A timeline that is taken off keeps its unfinished step until `flush`.
    """
    before, _of_thread.timeline = _of_thread.timeline, timeline
    return before


@contextmanager
def span(name: str, category: str = "user", **details: Any) -> Iterator[None]:
    """Show what the block does on the timeline; without one, do nothing.

    Args:
        name: what a reader sees on the bar.
        category: see `Timeline.add`.
        **details: numbers, text, or lists of them.

    Example:
        >>> from allgrad import timeline
        >>> with timeline.span("augment"):
        ...     pass
    """
    timeline = _of_thread.timeline
    if timeline is None:
        yield
        return
    begin = timeline.begin(name)
    try:
        yield
    finally:
        timeline.end(begin, name, category, **details)
