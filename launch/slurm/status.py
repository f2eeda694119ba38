"""``allgrad status``: a job of Slurm at a glance."""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from allgrad.ddp.events import read_events
from allgrad.errors import LaunchError
from allgrad.launch.outcome import signal_name
from allgrad.launch.slurm.commands import call, fields

_TAIL_BYTES = 1 << 16
_ENDED = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "OUT_OF_MEMORY", "PREEMPTED")
_SACCT = ("JobID", "JobName", "State", "ExitCode", "Elapsed", "Timelimit", "NNodes", "NodeList")


@dataclass(frozen=True)
class Status:
    """What is known of a job.

    Attributes:
        job: its id; "12_3" for a task of an array.
        name: of the job.
        state: as Slurm calls it.
        reason: why it waits; "" where it does not.
        nodes: number of nodes.
        node_list: their names, as Slurm writes them.
        tasks: number of ranks; 0 where Slurm does not tell.
        elapsed: time that it has run, as Slurm writes it.
        limit: time that it may run.
        restarts: how often Slurm has put it back into the queue.
        exit_code: of the batch script, once it has ended; 128 + number for a signal.
        output: path of its output; "" where Slurm does not tell.
        saved_step: of the newest checkpoint; None where none is known.
        saved_at: when it was written, in seconds since 1970.
        last_lines: of its output.
    """

    job: str
    name: str
    state: str
    reason: str
    nodes: int
    node_list: str
    tasks: int
    elapsed: str
    limit: str
    restarts: int
    exit_code: int | None
    output: str
    saved_step: int | None = None
    saved_at: float | None = None
    last_lines: tuple[str, ...] = ()


def status(options: argparse.Namespace) -> int:
    """Show the jobs; return the exit code.

    Raises:
        LaunchError: there is no such job, or no Slurm.
    """
    jobs = options.jobs or _own_jobs()
    found = [each for job in jobs for each in look_up(job, options.lines)]
    if options.json:
        sys.stdout.write(json.dumps([asdict(each) for each in found], indent=1) + "\n")
        return 0
    if not found:
        sys.stdout.write("no job of yours is waiting or running\n")
    for each in found:
        sys.stdout.write("\n".join(glance(each, time.time())) + "\n")
    return 0


def look_up(job: str, lines: int) -> list[Status]:
    """Ask Slurm for a job; one status per task of an array.

    Args:
        job: its id, "12" or "12_3".
        lines: how many of the last lines of its output to read.

    Raises:
        LaunchError: there is no such job.
    """
    if re.fullmatch(r"\d+(_\d+)?", job) is None:
        raise LaunchError(f"{job!r} is no job of Slurm: expected a number such as 12 or 12_3")
    done = call("scontrol", "--oneliner", "show", "job", job)
    if done.returncode == 0:
        records = [fields(line) for line in done.stdout.splitlines() if line.startswith("JobId=")]
        return [of_record(record, lines) for record in records]
    found = _accounted(job)
    if not found:
        said = done.stderr.strip().partition("error: ")[2] or done.stderr.strip()
        raise LaunchError(
            f"job {job}: {said}; Slurm forgets jobs some minutes after their end unless it keeps "
            "accounts (sacct). Your jobs: squeue --me"
        )
    return found


def of_record(record: dict[str, str], lines: int = 0) -> Status:
    """Read a record of ``scontrol show job``, and the files of the job."""
    state = record.get("JobState", "UNKNOWN")
    task = record.get("ArrayTaskId")
    output = record.get("StdOut", "")
    step, at = _newest_checkpoint(output)
    waits = state == "PENDING" or record.get("Reason", "None") not in ("None", "NonZeroExitCode")
    return Status(
        job=f"{record['ArrayJobId']}_{task}" if task else record["JobId"],
        name=record.get("JobName", ""),
        state=state,
        reason=record.get("Reason", "") if waits else "",
        nodes=_number(record.get("NumNodes", "")),
        node_list=record.get("NodeList", "").replace("(null)", ""),
        tasks=_number(record.get("NumTasks", "")),
        elapsed=record.get("RunTime", ""),
        limit=record.get("TimeLimit", ""),
        restarts=_number(record.get("Restarts", "")),
        exit_code=_exit_code(record.get("ExitCode", "0:0")) if state in _ENDED else None,
        output=output,
        saved_step=step,
        saved_at=at,
        last_lines=_last_lines(output, lines),
    )


def _accounted(job: str) -> list[Status]:
    """What accounting knows of a job that the controller has forgotten."""
    form = ("--format", ",".join(_SACCT), "--parsable2", "--noheader", "--allocations")
    try:
        done = call("sacct", "--jobs", job, *form)
    except LaunchError:
        return []  # sacct is not installed; the caller says what is missing
    found = []
    for line in done.stdout.splitlines():
        values = dict(zip(_SACCT, line.split("|"), strict=True))
        state = values["State"].split()[0]  # "CANCELLED by 1000"
        code = _exit_code(values["ExitCode"]) if state in _ENDED else None
        place = (_number(values["NNodes"]), values["NodeList"], 0)
        times = (values["Elapsed"], values["Timelimit"])
        found.append(
            Status(values["JobID"], values["JobName"], state, "", *place, *times, 0, code, "")
        )
    return found


def _own_jobs() -> list[str]:
    done = call("squeue", "--me", "--noheader", "--array", "--format", "%i")
    if done.returncode != 0:
        raise LaunchError(f"squeue fails: {done.stderr.strip()}")
    return done.stdout.split()


def _number(text: str) -> int:
    match = re.match(r"\d+", text)  # "1-2" nodes of a job that waits
    return int(match[0]) if match else 0


def _exit_code(text: str) -> int:
    """Slurm's "code:signal" as shells have it.

    Example:
        >>> _exit_code("3:0"), _exit_code("0:9")
        (3, 137)
    """
    code, _, number = text.partition(":")
    return 128 + int(number) if number not in ("", "0") else int(code)


def _newest_checkpoint(output: str) -> tuple[int | None, float | None]:
    """Step and time of the last checkpoint that the file beside the output tells of."""
    events, _ = read_events(os.path.splitext(output)[0] + ".events") if output else ([], 0)
    saved = [event for event in events if event["event"] == "saved"]
    return (saved[-1]["step"], saved[-1]["time"]) if saved else (None, None)


def _last_lines(output: str, count: int) -> tuple[str, ...]:
    path = Path(output)
    if not count or not path.is_file():
        return ()
    with path.open("rb") as file:
        file.seek(max(path.stat().st_size - _TAIL_BYTES, 0))
        text = file.read().decode(errors="replace")
    # A progress bar rewrites its line; its last state counts.
    lines = [line.rpartition("\r")[2] for line in text.rstrip().split("\n") if line.strip()]
    return tuple(lines[-count:])


def glance(job: Status, now: float) -> Sequence[str]:
    """Return the lines that show a job.

    Args:
        job: what is known.
        now: in seconds since 1970.
    """
    parts = [f"job {job.job} {job.name}:", _state(job)]
    head = " ".join(parts)
    if job.node_list:
        plural = "" if job.nodes == 1 else "s"
        head += f" on {job.nodes} node{plural} ({job.node_list})"
    if job.tasks > 1:
        head += f", {job.tasks} ranks"
    if job.elapsed not in ("", "00:00:00"):
        head += f", ran {job.elapsed} of {job.limit}"
    if job.restarts:
        head += f", put back into the queue {_times(job.restarts)}"
    lines = [head]
    if job.saved_step is not None and job.saved_at is not None:
        ago = _ago(now - job.saved_at)
        lines.append(f"  newest checkpoint: step {job.saved_step}, {ago} ago")
    if job.output:
        there = "" if os.path.exists(job.output) else " (not there yet)"
        lines.append(f"  output: {job.output}{there}")
    return lines + [f"  | {line}" for line in job.last_lines]


def _state(job: Status) -> str:
    if job.exit_code is None:
        return f"{job.state} ({job.reason})" if job.reason else job.state
    if job.state == "FAILED":
        number = job.exit_code - 128
        name = f": {signal_name(number)}" if 0 < number < 65 else ""
        return f"{job.state} with exit code {job.exit_code}{name}"
    if job.state == "TIMEOUT":
        return "TIMEOUT (`allgrad sbatch --requeue` lets a job go on after its time limit)"
    return job.state


def _times(count: int) -> str:
    return "once" if count == 1 else f"{count} times"


def _ago(seconds: float) -> str:
    """Write a duration.

    Example:
        >>> _ago(35), _ago(600), _ago(8000)
        ('35 s', '10 min', '2.2 h')
    """
    if seconds < 120:
        return f"{max(seconds, 0):.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
