"""Whether a job that failed is started again, with how many ranks and after what pause: pure rules.

Note [When a job is started again]
All ranks are ended and all are started again, by the same command; they find the newest good
checkpoint by themselves. What is counted starts anew with every checkpoint that a failed job had
written, so a job that makes progress survives any number of faults. Without progress:

* ``--max-restarts`` K: the job is started again K times;
* the same exception at the same line, twice in a row, would come a third time: no restart;
* two jobs in a row of which a rank was killed by SIGKILL (as the kernel does when memory runs out)
  or could not be started: one rank fewer, down to ``--min-ranks``;
* a job that has lost a host is started on the others, with as many ranks as they take; not below
  ``--min-ranks``;
* the pause before a restart is 0, then 1, 2, 4 ... 30 seconds.

A job that was asked to end, by a signal or its time limit, is not started again.
"""

from __future__ import annotations

import re
import signal
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from allgrad.launch.outcome import Failure, Outcome

LONGEST_PAUSE_S = 30.0
_RANK = re.compile(r"\[rank \d+/\d+\] ")
_PLACE = re.compile(r'File "(.+)", line (\d+)')


@dataclass(frozen=True)
class Attempt:
    """One run of the job that has ended.

    Attributes:
        outcome: how.
        nproc: its number of ranks.
        started: how many of them said so.
        saved_step: the step of its last checkpoint; None where it wrote none, or did not say.
        timed_out: whether the time limit ended it.
        room: how many ranks the hosts that are left take; None where no host was lost.
    """

    outcome: Outcome
    nproc: int
    started: int
    saved_step: int | None = None
    timed_out: bool = False
    room: int | None = None


@dataclass(frozen=True)
class Restart:
    """The job is to be started again.

    Attributes:
        nproc: with how many ranks.
        pause_s: after how many seconds.
        line: what to say about it.
    """

    nproc: int
    pause_s: float
    line: str


@dataclass(frozen=True)
class GiveUp:
    """The job is not started again.

    Attributes:
        line: why; "" where nobody will wonder.
    """

    line: str = ""


@dataclass
class RestartPolicy:
    """Decides after each attempt. See Note [When a job is started again].

    Args:
        nproc: number of ranks to begin with.
        max_restarts: how many restarts without a new checkpoint in between.
        min_ranks: below which number of ranks the job is not started.
    """

    nproc: int
    max_restarts: int
    min_ranks: int
    restarts: int = 0
    reasons: Counter[str] = field(default_factory=Counter)
    _without_progress: int = 0
    _starved: int = 0  # attempts in a row that fewer ranks might survive
    _last_error: str = ""

    def after(self, attempt: Attempt) -> Restart | GiveUp:
        """Decide what follows an attempt."""
        outcome = attempt.outcome
        if not outcome.failures or outcome.signal is not None or attempt.timed_out:
            return GiveUp()
        first = outcome.failures[0]
        if attempt.saved_step is not None:
            self._without_progress = self._starved = 0
            self._last_error = ""
        error = place_of(first)
        if error and error == self._last_error:
            return GiveUp(
                f"not started again: twice in a row, with no new checkpoint between: {error}"
            )
        self._last_error = error
        if self._without_progress >= self.max_restarts:
            return GiveUp(self._used_up())
        if attempt.room is not None and attempt.room < self.min_ranks:
            return GiveUp(
                f"not started again: the hosts that are left take {attempt.room} ranks, "
                f"--min-ranks is {self.min_ranks}"
            )
        self._reduce(attempt, first)
        pause_s = 0.0
        if self._without_progress > 0:
            pause_s = min(2.0 ** (self._without_progress - 1), LONGEST_PAUSE_S)
        self._without_progress += 1
        self.restarts += 1
        self.reasons[short(first)] += 1
        return Restart(self.nproc, pause_s, self._line(attempt, pause_s))

    def summary(self) -> str:
        """What to say last about the restarts; "" where there were none."""
        if not self.restarts:
            return ""
        listed = [f"{what} ({n} times)" if n > 1 else what for what, n in self.reasons.items()]
        if len(listed) > 5:
            listed[5:] = [f"and {len(listed) - 5} more"]
        times = "once" if self.restarts == 1 else f"{self.restarts} times"
        return f"started again {times}: {'; '.join(listed)}"

    def _reduce(self, attempt: Attempt, first: Failure) -> None:
        if attempt.room is not None:
            self.nproc, self._starved = min(self.nproc, attempt.room), 0
            return
        killed = first.code == 128 + signal.SIGKILL and first.rank is not None
        self._starved = self._starved + 1 if killed or attempt.started < attempt.nproc else 0
        if self._starved >= 2 and self.nproc > self.min_ranks:
            self.nproc -= 1
            self._starved = 0

    def _used_up(self) -> str:
        if self.max_restarts == 0:
            return ""
        return f"not started again: --max-restarts {self.max_restarts} without a new checkpoint"

    def _line(self, attempt: Attempt, pause_s: float) -> str:
        counted = f"{self._without_progress} of {self.max_restarts} without a new checkpoint"
        step = attempt.saved_step
        since = "" if step is None else f"; the last checkpoint is that of step {step}"
        ranks = ""
        if self.nproc < attempt.nproc:
            plural = "" if self.nproc == 1 else "s"
            ranks = f", with {self.nproc} rank{plural} instead of {attempt.nproc}"
        pause = f" in {pause_s:g} s" if pause_s else ""
        return f"restart {self.restarts}{ranks}{pause} ({counted}{since})"


def place_of(failure: Failure) -> str:
    """An exception with the line that raised it; "" for what may pass, such as signals.

    Example:
        >>> place_of(Failure("rank 1", 1, "KeyError: 'x'", '  File "a.py", line 3, in main'))
        "KeyError: 'x' (a.py, line 3)"
        >>> place_of(Failure("rank 1", 137, "killed by SIGKILL"))
        ''
    """
    places = _PLACE.findall(failure.traceback)
    if not places:
        return ""
    file, line = places[-1]
    # whichever of several ranks was first to meet it
    return f"{_RANK.sub('', _first_line(failure))} ({file}, line {line})"


def short(failure: Failure) -> str:
    """Who failed and by what, on one line."""
    what = _first_line(failure)
    by = what if what.startswith("killed by") else f"failed by {what}"
    return f"{failure.who} {by.partition(', which')[0].partition(': a library')[0]}"


def _first_line(failure: Failure) -> str:
    return failure.what.splitlines()[0] if failure.what else ""


def last_saved(events: Iterable[dict[str, Any]]) -> int | None:
    """The step of the last "saved" among events; see `allgrad.ddp.events`."""
    steps = [event["step"] for event in events if event["event"] == "saved"]
    return steps[-1] if steps else None
