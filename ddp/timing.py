"""How long communication took and how much of it backward hid. Imports nothing of allgrad."""

from __future__ import annotations


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
        self._covered_until = 0.0

    def add_span(self, launched: float, completed: float) -> None:
        """One bucket's time under way; spans come in order of launch, and may overlap."""
        start = max(launched, self._covered_until)
        if completed > start:
            self.communication_s += completed - start
            self._covered_until = completed

    def end_step(self, exposed_s: float) -> None:
        """A backward run has ended."""
        self.steps += 1
        self.exposed_s += exposed_s

    def report(self) -> dict[str, float | int]:
        """The sums; `hidden_share` is 1 - exposed / communication, 0 if there was none."""
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
