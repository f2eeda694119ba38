"""How a job ended and what the screen says last: pure values and texts."""

from __future__ import annotations

import signal
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Failure:
    """The end of one rank, or of the launcher, that ended the job.

    Attributes:
        who: "rank 1", "mpiexec", ...
        code: exit code of the job if this was the first failure.
        what: one line: the exception, the signal, the exit code.
        traceback: the exception's traceback, or "".
        rank: number of the rank; None for the launcher.
        time: when it happened, in seconds since 1970.
    """

    who: str
    code: int
    what: str
    traceback: str = ""
    rank: int | None = None
    time: float = 0.0


@dataclass(frozen=True)
class Outcome:
    """The end of a job.

    Attributes:
        code: exit code for the shell.
        failures: who failed by itself, in order; ranks that we stopped are not among them.
        signal: the signal that asked the job to end; None where none came.
        in_good_order: whether the ranks said that they leave because of it, at the same step.
    """

    code: int
    failures: tuple[Failure, ...] = ()
    signal: int | None = None
    in_good_order: bool = False


def signal_name(number: int) -> str:
    """Return "SIGKILL" for 9; a number without a name stays a number.

    Example:
        >>> signal_name(9), signal_name(200)
        ('SIGKILL', 'signal 200')
    """
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def failure_of_status(rank: int, status: int, time: float = 0.0) -> Failure:
    """Describe a rank that ended without a report: killed by a signal or by ``os._exit``.

    Args:
        rank: number of the rank.
        status: exit code, or minus the number of a signal; not 0.
        time: when it ended, in seconds since 1970.

    Example:
        >>> failure_of_status(1, -9).code
        137
    """
    who = f"rank {rank}"
    if status > 0:
        return Failure(who, status, f"exit code {status}", rank=rank, time=time)
    hints: dict[int, str] = {
        signal.SIGKILL: ", which the kernel sends when memory runs out: see `dmesg`",
        signal.SIGSEGV: ": a library crashed; the Python lines that led there are above",
    }
    hint = hints.get(-status, "")
    return Failure(
        who, 128 - status, f"killed by {signal_name(-status)}{hint}", rank=rank, time=time
    )


def tells_of_a_death(failure: Failure) -> bool:
    """Whether a rank failed because it learned that the process of another one is dead.

    Example:
        >>> what = "allgrad.errors.DistributedError: [rank 0/2] waits ...: the process is dead: ..."
        >>> tells_of_a_death(Failure("rank 0", 1, what))
        True
    """
    return "Error: [rank " in failure.what and " is dead:" in failure.what


def ended_by_mpi(failure: Failure, failures: Iterable[Failure]) -> bool:
    """Whether a rank ended without a word while another one was killed: MPI ends it so.

    Between hosts an MPI library may see a connection break before the killed rank's own watcher has
    been told, and it aborts with a code of its own. Nothing in MPI kills a rank by SIGKILL.

    Example:
        >>> killed, silent = failure_of_status(3, -9, 2.0), failure_of_status(1, 143, 1.0)
        >>> ended_by_mpi(silent, [silent, killed]), ended_by_mpi(silent, [silent])
        (True, False)
    """
    return failure.what.startswith("exit code") and any(
        other.code == 128 + signal.SIGKILL and other.what.startswith("killed by")
        for other in failures
    )


def closing_lines(outcome: Outcome) -> list[str]:
    """Return what stands last on the screen; the first failing rank in the very last line.

    Args:
        outcome: the end of the job.
    """
    asked = "" if outcome.signal is None else signal_name(outcome.signal)
    if outcome.signal is not None and outcome.code == 128 + outcome.signal:
        # Ranks that die of the signal they were sent did not fail; where they were may help.
        lines = _traceback_lines(outcome.failures[0]) if outcome.failures else []
        how = "left in good order after" if outcome.in_good_order else "ended by"
        return [*lines, f"allgrad: {how} {asked} (exit code {outcome.code})"]
    if not outcome.failures:
        return []
    first, *others = outcome.failures
    lines = [
        f"allgrad: {other.who} failed after it: {_first_line(other.what)}" for other in others[:8]
    ]
    if len(others) > 8:
        lines.append(f"allgrad: and {len(others) - 8} more")
    lines += _traceback_lines(first)
    because = f"after {asked}, " if asked else ""
    failed = "failed first" if others else "failed"
    what = _first_line(first.what)
    code = "" if what.startswith("exit code") else f" (exit code {outcome.code})"
    lines.append(f"allgrad: {because}{first.who} {failed}: {what}{code}")
    return lines


def _traceback_lines(failure: Failure) -> list[str]:
    prefix = "" if failure.rank is None else f"[{failure.rank}] "
    return [prefix + line for line in failure.traceback.splitlines()]


def _first_line(text: str) -> str:
    lines = text.splitlines()
    return lines[0] if lines else ""
