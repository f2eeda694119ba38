"""What one rank computes in a step, read from a trace: all that does not depend on other ranks.

May import: `tracing`, numpy, `allgrad.errors`. The time that a rank of the trace spent on
communication is taken out: the wait at the end of backward, and the calls between the ops of
backward that push communication on. What is left is the rank's own clock: when which gradient was
ready, and how long the ops are between which communication could be looked at.
"""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from allgrad.ddp.tracing.model import Event, RankStep, Trace, common, length, union
from allgrad.errors import OptionError

_WARM_UP = 2  # the first steps allocate, plan and learn the order of the gradients


@dataclass(frozen=True)
class Gradient:
    """The gradient of one parameter: it is ready after op `node` of backward."""

    name: str
    size_bytes: int
    dtype: str
    node: int


@dataclass(frozen=True)
class Profile:
    """What one rank computes in a step; seconds without any communication.

    Attributes:
        before_s: from the step's begin to that of backward: batch, forward, loss.
        nodes_s: per op of backward, in order, the time since the op before it.
        rest_s: from the last op to the end of backward.
        after_s: from there to the end of the step: the optimizer.
        gradients: in the order in which they become ready.
        buffer_bytes: of buffers such as a batch norm's running mean, which follow each step.
        steps_s: all that a rank computes in a step, for every recorded step of every rank.
    """

    before_s: float
    nodes_s: tuple[float, ...]
    rest_s: float
    after_s: float
    gradients: tuple[Gradient, ...]
    buffer_bytes: int
    steps_s: tuple[float, ...]

    @property
    def backward_s(self) -> float:
        """Seconds of backward."""
        return sum(self.nodes_s) + self.rest_s

    @property
    def compute_s(self) -> float:
        """Seconds of a step of one rank alone."""
        return self.before_s + self.backward_s + self.after_s

    @property
    def gradient_bytes(self) -> int:
        """Of all gradients."""
        return sum(gradient.size_bytes for gradient in self.gradients)

    def scaled(self, factor: float) -> Profile:
        """The same on cores that need `factor` times as long (or with so much larger batches)."""
        return Profile(
            self.before_s * factor,
            tuple(s * factor for s in self.nodes_s),
            self.rest_s * factor,
            self.after_s * factor,
            self.gradients,
            self.buffer_bytes,
            tuple(s * factor for s in self.steps_s),
        )

    def slowest_of(self, ranks: int) -> float:
        """Seconds by which the slowest of so many ranks is behind a usual one, in a usual step.

        If the times of ranks vary independently as the recorded ones did: the quantile of which
        the largest of `ranks` draws is the median.
        """
        usual, late = np.quantile(self.steps_s, [0.5, 0.5 ** (1 / ranks)])
        return float(late - usual)


@dataclass(frozen=True)
class _Step:
    """One recorded step on the rank's own clock."""

    names: tuple[str, ...]
    before_s: float
    nodes_s: tuple[float, ...]
    rest_s: float
    after_s: float
    nodes: tuple[Event, ...]
    buffer_bytes: int

    @property
    def compute_s(self) -> float:
        return self.before_s + sum(self.nodes_s) + self.rest_s + self.after_s


def profile_of(trace: Trace) -> Profile:
    """What a rank of the trace computes in a usual step; of the slowest rank.

    Args:
        trace: recorded on any number of ranks, of which each had the cores that it will have.

    Raises:
        OptionError: the trace has no step with a backward of a wrapped model.
    """
    ranks = [_steps_of(rank.steps) for rank in trace.ranks]
    ranks = [steps for steps in ranks if steps]
    if not ranks:
        raise OptionError(
            "the trace has no finished step with a backward whose parameters have names; record "
            "some steps of a model in DistributedDataParallel (one rank is enough): "
            "allgrad run -n 1 --trace DIR script.py"
        )
    slowest = max(ranks, key=lambda steps: statistics.median(s.compute_s for s in steps))
    every = tuple(step.compute_s for steps in ranks for step in steps)
    return _usual(slowest, every)


def _steps_of(steps: Sequence[RankStep]) -> list[_Step]:
    """The steps that have the ops which most of them have."""
    settled = steps[_WARM_UP:] if len(steps) > 2 * _WARM_UP else steps
    found = [step for step in map(_measure, settled) if step is not None]
    if not found:
        return []
    usual = Counter(step.names for step in found).most_common(1)[0][0]
    return [step for step in found if step.names == usual]


def _measure(step: RankStep) -> _Step | None:
    backwards = step.of("backward")
    if not backwards:
        return None
    backward = backwards[-1]  # the earlier ones of a step are not synchronised
    nodes = [e for e in step.of("node") if e.begin_s >= backward.begin_s]
    if not any(node.details.get("parameters") for node in nodes):
        return None
    talking = union((e.begin_s, e.end_s) for e in step.of("wait", "communication"))

    def alone(begin_s: float, end_s: float) -> float:
        return max(0.0, end_s - begin_s - length(common(talking, [(begin_s, end_s)])))

    ends = [backward.begin_s, *(node.end_s for node in nodes)]
    forwards = step.of("forward")
    return _Step(
        tuple(node.name for node in nodes),
        alone(step.begin_s, backward.begin_s),
        tuple(alone(a, b) for a, b in pairwise(ends)),
        alone(ends[-1], backward.end_s),
        alone(backward.end_s, step.end_s),
        tuple(nodes),
        max((int(e.details.get("buffer_bytes", 0)) for e in forwards), default=0),
    )


def _usual(steps: list[_Step], every: tuple[float, ...]) -> Profile:
    """Medians over the steps; of backward per op, scaled so that the sum is the median sum."""

    def median(values: Sequence[float]) -> float:
        return float(statistics.median(values))

    table = np.array([step.nodes_s for step in steps])
    per_node = np.median(table, axis=0)
    scale = np.median(table.sum(axis=1)) / max(per_node.sum(), 1e-12)
    first = steps[0]
    return Profile(
        median([s.before_s for s in steps]),
        tuple(float(s) for s in per_node * scale),
        median([s.rest_s for s in steps]),
        median([s.after_s for s in steps]),
        _gradients(first.nodes),
        first.buffer_bytes,
        every,
    )


def _gradients(nodes: Sequence[Event]) -> tuple[Gradient, ...]:
    """A parameter that several ops use is ready after the last of them."""
    ready: dict[str, Gradient] = {}
    for index, node in enumerate(nodes):
        for name, (size_bytes, dtype) in node.details.get("parameters", {}).items():
            ready.pop(name, None)
            ready[name] = Gradient(name, int(size_bytes), str(dtype), index)
    return tuple(ready.values())
