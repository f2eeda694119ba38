"""When to do what to end a job: a clock without side effects, so that it can be tested by itself.

The steps, in seconds after a stop began, keep within the promised 3:

    0.3   TERM      SIGTERM to the ranks that are left; those that fail by themselves have told why
    1.3   KILL      SIGKILL to them
    1.8   LEAVE     workers leave, and with them the launcher; at once when all ranks have ended
    2.5   LAUNCHER  SIGKILL to the launcher's process group
"""

from __future__ import annotations

from enum import Enum


class Step(Enum):
    """One step of a stop; the value is its delay in seconds."""

    TERM = 0.3
    KILL = 1.3
    LEAVE = 1.8
    LAUNCHER = 2.5


class StopPlan:
    """The clock of one stop; before ``begin`` nothing is due."""

    def __init__(self) -> None:
        self._began: float | None = None
        self._done: set[Step] = set()

    @property
    def begun(self) -> bool:
        """Whether the job is being stopped."""
        return self._began is not None

    def begin(self, now: float, patience_s: float = 0.0) -> None:
        """Begin, or begin earlier than planned.

        Args:
            now: time in seconds, as in ``due``.
            patience_s: by how much all steps are delayed: ranks may be saving their state.
        """
        start = now + patience_s
        if self._began is None or start < self._began:
            self._began = start

    def hurry(self, now: float, step: Step) -> None:
        """Make a step due now, and those after it as much earlier."""
        if self._began is not None and now < self._began + step.value:
            self._began = now - step.value

    def was(self, step: Step) -> bool:
        """Tell whether a step has been taken."""
        return step in self._done

    def due(self, now: float, all_ended: bool) -> list[Step]:
        """Return the steps to take now; each is returned once.

        Args:
            now: time in seconds.
            all_ended: whether no rank is left, so that workers can leave at once.
        """
        if self._began is None:
            return []
        if all_ended and not self.was(Step.LEAVE):
            self.hurry(now, Step.LEAVE)
            self._done |= {Step.TERM, Step.KILL}  # nobody is left to be told
        steps = [s for s in Step if s not in self._done and now >= self._began + s.value]
        self._done |= set(steps)
        return steps
