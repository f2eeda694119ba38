"""A trace as values: ranks, their steps, the events of these; times in seconds of rank 0's clock.

Imports nothing of allgrad but the description of an event.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, NamedTuple


class Event(NamedTuple):
    """Something that lasted; see `allgrad.timeline.Timeline.add` for the categories."""

    name: str
    category: str
    begin_s: float
    end_s: float
    details: dict[str, Any] = {}  # noqa: RUF012 - never changed

    @property
    def duration_s(self) -> float:
        return self.end_s - self.begin_s


@dataclass
class RankStep:
    """One step of one rank; see `allgrad.timeline.Step`."""

    index: int
    begin_s: float
    end_s: float
    events: list[Event] = field(default_factory=list)
    dropped: int = 0

    def of(self, *categories: str) -> list[Event]:
        """The events of these categories, by their begin."""
        return sorted((e for e in self.events if e.category in categories), key=lambda e: e.begin_s)

    def total_s(self, category: str) -> float:
        """Time covered by events of the category; what overlaps counts once."""
        return length(union((e.begin_s, e.end_s) for e in self.of(category)))


@dataclass
class RankTrace:
    """What one rank recorded.

    Attributes:
        rank, host: who, and where.
        clock_error_s: how wrong the times may be, compared with rank 0.
        steps: in order; numbers may be missing.
    """

    rank: int
    host: str
    clock_error_s: float
    steps: list[RankStep]


@dataclass
class Trace:
    """All ranks that left something, by rank; `size` is how many there were."""

    size: int
    ranks: list[RankTrace]

    def common_steps(self) -> list[int]:
        """Numbers of the steps that all ranks of the trace have."""
        sets = [{step.index for step in rank.steps} for rank in self.ranks]
        return sorted(set.intersection(*sets)) if sets else []

    def step(self, index: int) -> dict[int, RankStep]:
        """The step of every rank that has it."""
        return {r.rank: s for r in self.ranks for s in r.steps if s.index == index}


Interval = tuple[float, float]


def union(intervals: Iterable[Interval]) -> list[Interval]:
    """The same time as intervals that do not overlap, in order.

    Example:
        >>> union([(3, 4), (0, 2), (1, 2.5)])
        [(0, 2.5), (3, 4)]
    """
    merged: list[Interval] = []
    for begin, end in sorted(intervals):
        if merged and begin <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
        elif end > begin:
            merged.append((begin, end))
    return merged


def common(left: list[Interval], right: list[Interval]) -> list[Interval]:
    """Time in both; each a result of `union`.

    Example:
        >>> common([(0, 2), (3, 5)], [(1, 4)])
        [(1, 2), (3, 4)]
    """
    found = []
    for begin, end in left:
        for other_begin, other_end in right:
            low, high = max(begin, other_begin), min(end, other_end)
            if high > low:
                found.append((low, high))
    return found


def length(intervals: list[Interval]) -> float:
    """Seconds in all."""
    return sum(end - begin for begin, end in intervals)
