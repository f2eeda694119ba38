"""How long communication took and how much of it backward hid: sums, and events of a timeline.

May import: `bucket`, `communicators.base`, `allgrad.timeline`.
"""

from __future__ import annotations

from collections import deque
from time import perf_counter
from typing import Any, NamedTuple

from allgrad.ddp.bucket import Bucket
from allgrad.ddp.communicators.base import Work
from allgrad.timeline import active


class UnderWay(NamedTuple):
    """A collective of a backward between launch and completion; `note` says what it is."""

    work: Work
    launched_s: float
    note: str
    bucket: Bucket | None = None


class GpuTimes:
    """Times of collectives that a GPU has done, read when they are there.

    Attributes:
        used: whether there was any collective of a GPU.
    """

    def __init__(self) -> None:
        self.used = False
        self._waiting: deque[list[Any]] = deque()  # per timed step its works
        self._step: list[Any] = []
        self._steps = 0
        self._took_s = self._stood_s = 0.0

    def add(self, work: Any) -> None:
        """One more of the step that ends next."""
        self.used = True
        if work.timed:
            self._step.append(work)

    def end_step(self) -> None:
        """A step has ended on the host; look which ones have on the GPU."""
        if self._step:
            self._waiting.append(self._step)
            self._step = []
        while self._waiting:
            times = [work.times() for work in self._waiting[0]]
            if None in times:
                return
            self._waiting.popleft()
            self._steps += 1
            self._took_s += sum(took for took, _ in times)
            self._stood_s += sum(stood for _, stood in times)

    def sums(self, steps: int) -> tuple[float, float]:
        """Seconds of communication, and of it exposed, of so many steps like those timed."""
        self.end_step()
        scale = steps / self._steps if self._steps else 0.0
        return self._took_s * scale, self._stood_s * scale


class CommunicationTimer:
    """Sums over the synchronised backward runs of one rank.

    Attributes:
        steps: synchronised backward runs.
        bytes_per_step: gradient bytes that are reduced in each.
        buckets: collectives that these travel in.
        collectives: all collectives since the start, those of set-up not counted.
        communication_s: time during which at least one bucket was between launch and completion.
        exposed_s: time spent at the end of backward, when no gradient was left to compute.
        in_backward_s: time that the backward thread spent in communication calls before its end;
            in it gradients are reduced on this core.
    """

    def __init__(self) -> None:
        self.bytes_per_step = 0
        self.buckets = 0
        self.reset()

    def reset(self) -> None:
        """Start the sums anew."""
        self.steps = self.collectives = 0
        self.communication_s = self.exposed_s = self.in_backward_s = 0.0
        self._covered_until = self._in_backward_before = 0.0
        self._gpu = GpuTimes()

    def completed(self, one: UnderWay) -> None:
        """A collective was seen to be done; they come in order of launch, and may overlap."""
        now = perf_counter()
        start = max(one.launched_s, self._covered_until)
        if getattr(one.work, "on_gpu", False):
            self._gpu.add(one.work)
        elif now > start and not self._gpu.used:
            self.communication_s += now - start
            self._covered_until = now
        timeline = active()
        if timeline is None:
            return
        bucket = one.bucket
        if bucket is None:
            timeline.add(one.note, "bucket", one.launched_s, now, bucket=self.buckets + 1)
            return
        timeline.add(
            one.note,
            "bucket",
            one.launched_s,
            now,
            bucket=bucket.index + 1,
            bytes=bucket.whole.nbytes,
            queued_s=max(0.0, one.launched_s - bucket.ready_s),
            names=bucket.names,
        )

    def pushed(self, begin_s: float) -> None:
        """This core has worked for communication, amid backward, since `begin_s`."""
        now = perf_counter()
        self.in_backward_s += now - begin_s
        timeline = active()
        if timeline is not None:
            timeline.add("communication", "communication", begin_s, now)

    def end_step(self, begin_s: float) -> None:
        """A backward run has ended; since `begin_s` no gradient was left to compute."""
        now = perf_counter()
        self.steps += 1
        if self._gpu.used:
            self._gpu.end_step()
        else:
            self.exposed_s += now - begin_s
        timeline = active()
        if timeline is not None:
            reducing = self.in_backward_s - self._in_backward_before
            timeline.add("exposed", "wait", begin_s, now, in_backward_s=reducing)
        self._in_backward_before = self.in_backward_s

    def report(self) -> dict[str, float | int]:
        """The sums; `hidden_share` is 1 - exposed / communication, 0 if there was none.

        On GPUs some steps are timed, by the GPU, and stand for all; those of graphs are not.
        """
        if self._gpu.used:
            self.communication_s, self.exposed_s = self._gpu.sums(self.steps)
        hidden = 0.0
        if self.communication_s > 0:
            hidden = max(0.0, 1.0 - self.exposed_s / self.communication_s)
        return {
            "steps": self.steps,
            "bytes_per_step": self.bytes_per_step,
            "communication_s": self.communication_s,
            "exposed_s": self.exposed_s,
            "in_backward_s": self.in_backward_s,
            "hidden_share": hidden,
            "buckets": self.buckets,
            "collectives": self.collectives,
        }
