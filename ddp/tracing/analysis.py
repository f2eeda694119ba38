"""What a step waited for: pure functions over the events of all ranks.

May import: `model`. Everything here follows from four rules:

* Communication of a rank is under way from a bucket's launch until it is done. What of it lies in
  the wait at the end of backward is exposed; the rest is hidden behind backward.
* A bucket is on the wire only once the last rank has launched it. A wait while some bucket is on
  the wire is a wait for the wire (or for the reduction, where ranks share memory).
* A wait while nothing is on the wire is a wait for the rank whose bucket is ready last: "late".
* Why a rank is late: of the things that it did since the step began (batch, forward, backward,
  spans of the user, other code), the one that took it longest in comparison with the rank that
  was first.
"""

from __future__ import annotations

from dataclasses import dataclass

from allgrad.ddp.tracing.model import Event, Interval, RankStep, common, length, union

_NOTHING = 0.02  # a wait of less than this share of the step is not worth a sentence
_PHASES = {
    "data": "data wait",
    "forward": "forward",
    "backward": "backward",
    "optimizer": "optimizer",
}


@dataclass(frozen=True)
class RankFigures:
    """How long one rank did what in a step; seconds."""

    step_s: float
    data_s: float
    forward_s: float
    backward_s: float
    optimizer_s: float
    communication_s: float
    exposed_s: float
    late_s: float
    reducing_s: float

    @property
    def wire_s(self) -> float:
        """Exposed, with a bucket on the wire."""
        return self.exposed_s - self.late_s


@dataclass(frozen=True)
class StepFigures:
    """The three numbers of a step, and what they come from.

    Attributes:
        index: number of the step.
        hidden_share: of the communication's time, what lay behind backward; mean over ranks.
        exposed_s: the rest; mean over ranks.
        step_s: from its begin to its end; mean over ranks.
        waits_for: what the step waits for, in words.
        waits_s: how long.
        ranks: by rank.
    """

    index: int
    hidden_share: float
    exposed_s: float
    step_s: float
    waits_for: str
    waits_s: float
    ranks: dict[int, RankFigures]

    def sentence(self) -> str:
        """One line for people."""
        return (
            f"step {self.index}: {self.step_s * 1e3:.1f} ms; "
            f"{self.hidden_share:.0%} of communication hidden, {self.exposed_s * 1e3:.2f} ms "
            f"exposed; waits for {self.waits_for}"
        )


@dataclass(frozen=True)
class _Lateness:
    """The longest wait for one rank."""

    rank: int
    bucket: int
    wait_s: float
    cause: str


def analyse(index: int, steps: dict[int, RankStep]) -> StepFigures:
    """The figures of one step.

    Args:
        index: number of the step.
        steps: the step of every rank, with times of one clock.
    """
    wire = _on_the_wire(steps)
    ranks = {rank: _figures(step, wire) for rank, step in steps.items()}
    communication = _mean([f.communication_s for f in ranks.values()])
    exposed = _mean([f.exposed_s for f in ranks.values()])
    step_s = _mean([f.step_s for f in ranks.values()])
    waits_for, waits = _waits_for(steps, ranks, step_s)
    hidden = 1 - exposed / communication if communication > 0 else 0.0
    return StepFigures(index, max(0.0, hidden), exposed, step_s, waits_for, waits, ranks)


def _mean(values: list[float]) -> float:
    return sum(values) / len(values) if values else 0.0


def _spans(events: list[Event]) -> list[Interval]:
    return union((e.begin_s, e.end_s) for e in events)


def _launches(steps: dict[int, RankStep]) -> dict[int, dict[int, Event]]:
    """Per bucket, the event of each rank."""
    found: dict[int, dict[int, Event]] = {}
    for rank, step in steps.items():
        for event in step.of("bucket"):
            found.setdefault(int(event.details["bucket"]), {})[rank] = event
    return found


def _on_the_wire(steps: dict[int, RankStep]) -> list[Interval]:
    """When some bucket had been launched by all ranks and was not done on all."""
    busy = []
    for events in _launches(steps).values():
        if len(events) == len(steps):
            last = max(e.begin_s for e in events.values())
            busy.append((last, max(e.end_s for e in events.values())))
    return union(busy)


def _figures(step: RankStep, wire: list[Interval]) -> RankFigures:
    waits = _spans(step.of("wait"))
    exposed = length(waits)
    return RankFigures(
        step_s=step.end_s - step.begin_s,
        data_s=step.total_s("data"),
        forward_s=step.total_s("forward"),
        backward_s=step.total_s("backward") - exposed,
        optimizer_s=step.total_s("optimizer"),
        communication_s=length(_spans(step.of("bucket"))),
        exposed_s=exposed,
        late_s=exposed - length(common(waits, wire)),
        reducing_s=sum(e.details.get("in_backward_s", 0.0) for e in step.of("wait")),
    )


def _waits_for(
    steps: dict[int, RankStep], ranks: dict[int, RankFigures], step_s: float
) -> tuple[str, float]:
    """The longest of the waits of a step, in words, and its seconds."""
    figures = list(ranks.values())
    data = _mean([f.data_s for f in figures])
    wire = _mean([f.wire_s for f in figures])
    reducing = _mean([f.reducing_s for f in figures])
    candidates = [
        (data, f"the data loader ({_ms(data)} ms)"),
        (wire, f"the wire ({_ms(wire)} ms after backward)"),
        (reducing, f"the reduction on this core ({_ms(reducing)} ms during backward)"),
    ]
    late = _lateness(steps, ranks)
    if late is not None:
        text = (
            f"rank {late.rank}, which arrives {_ms(late.wait_s)} ms late in bucket "
            f"{late.bucket}: {late.cause}"
        )
        candidates.append((late.wait_s, text))
    waits, text = max(candidates)
    if waits < _NOTHING * step_s:
        return "nothing: computation takes all of it", waits
    return text, waits


def _ms(seconds: float) -> str:
    return f"{seconds * 1e3:.1f}"


def _lateness(steps: dict[int, RankStep], ranks: dict[int, RankFigures]) -> _Lateness | None:
    """Which rank the others waited for longest, in which bucket, and why."""
    if len(steps) < 2:
        return None
    worst = None
    for bucket, events in _launches(steps).items():
        if len(events) < len(steps):
            continue
        # when it was ready: an early rank may have to wait for the others before it launches
        ready = {rank: e.begin_s - e.details.get("queued_s", 0.0) for rank, e in events.items()}
        order = sorted(ready, key=lambda rank: ready[rank])
        first, last = order[0], order[-1]
        gap = (ready[first], max(e.begin_s for e in events.values()))
        waited = [length(common(_spans(steps[rank].of("wait")), [gap])) for rank in order[:-1]]
        wait = min(max(waited), max(ranks[rank].late_s for rank in order[:-1]))
        if wait > 0 and (worst is None or wait > worst.wait_s):
            cause = _cause(steps[first], ready[first], steps[last], ready[last])
            worst = _Lateness(last, bucket, wait, cause)
    return worst


def _cause(early: RankStep, early_ready_s: float, late: RankStep, late_ready_s: float) -> str:
    """What the late rank did for longer than the early one before its bucket was ready."""
    more = {
        words: _until(late, category, late_ready_s) - _until(early, category, early_ready_s)
        for category, words in _PHASES.items()
    }
    for event in late.of("user"):
        if not _inside(event, late.of("data", "forward", "backward")):
            name = f"span {event.name!r}"
            more[name] = _until(late, "user", late_ready_s, event.name) - _until(
                early, "user", early_ready_s, event.name
            )
    in_all = (late_ready_s - late.begin_s) - (early_ready_s - early.begin_s)
    more["code outside of forward and backward"] = in_all - sum(more.values())
    more["the end of the step before"] = late.begin_s - early.begin_s
    return max(more, key=lambda words: more[words])


def _until(step: RankStep, category: str, until_s: float, name: str | None = None) -> float:
    """Seconds of the category, or of its events of that name, before a moment."""
    events = [e for e in step.of(category) if name in (None, e.name)]
    return length(common(_spans(events), [(step.begin_s, until_s)]))


def _inside(event: Event, others: list[Event]) -> bool:
    return any(o.begin_s <= event.begin_s and event.end_s <= o.end_s for o in others)
