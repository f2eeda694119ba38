"""One ``allgrad run`` under attack: what it says in its file of events, and who can be killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from allgrad.ddp.events import EVENTS_VARIABLE, read_events
from allgrad.launch import leftovers, worker
from allgrad.launch.hosts import without_allocation

_POLL_S = 0.002


class Job:
    """A script under ``allgrad run``, which may be killed and started again.

    Args:
        command: arguments of ``allgrad run``.
        folder: for the file of events and the output.

    Attributes:
        events: all that was said so far, by all runs.
    """

    def __init__(self, command: tuple[str, ...], folder: Path) -> None:
        self._argv = (sys.executable, "-m", "allgrad.launch.cli", "run", *command)
        self._file = str(folder / "events")
        self._output = folder / "output"
        self._end = 0
        self._before = leftovers.segments()
        self._process: subprocess.Popen[bytes] | None = None
        self.events: list[dict[str, Any]] = []

    def start(self) -> None:
        """Start the launcher."""
        environ = {k: v for k, v in os.environ.items() if not k.startswith("ALLGRAD_")}
        with self._output.open("ab") as output:
            self._process = subprocess.Popen(
                self._argv,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                # processes on other hosts could not be killed from here
                env=without_allocation(environ) | {EVENTS_VARIABLE: self._file},
                start_new_session=True,
                preexec_fn=partial(worker._die_with_parent, os.getpid()),  # noqa: PLW1509 - no threads
            )

    @property
    def code(self) -> int | None:
        """Exit code of the launcher, None while it runs."""
        assert self._process is not None
        return self._process.poll()

    def look(self) -> None:
        """Read what was said since the last look."""
        new, self._end = read_events(self._file, self._end)
        self.events += new

    def wait(self, until: Callable[[], bool], seconds: float) -> bool:
        """Look again and again; True once `until` holds, False when the launcher ended before.

        Raises:
            TimeoutError: neither came in time.
        """
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            ended = self.code is not None
            self.look()
            if until():
                return True
            if ended:
                return False
            time.sleep(_POLL_S)
        raise TimeoutError(f"nothing happened for {seconds:g} s; the output is in {self._output}")

    def since_start(self) -> list[dict[str, Any]]:
        """The events of the present run: from its "start" on."""
        starts = [i for i, event in enumerate(self.events) if event["event"] == "start"]
        return self.events[starts[-1] :] if starts else []

    def scripts(self) -> dict[int, int]:
        """The script's process of each rank of the present run."""
        return {e["rank"]: e["script"] for e in self.since_start() if e["event"] == "rank"}

    def kill(self, rank: int, number: int = signal.SIGKILL) -> bool:
        """Send a signal to a rank; False if it has ended."""
        return _kill(self.scripts().get(rank, 0), number)

    def kill_launcher(self, seconds: float = 10.0) -> list[int]:
        """Kill ``allgrad run`` itself, and wait for the end of all that it had started.

        Returns:
            Processes that are left after that time: there should be none.
        """
        assert self._process is not None
        self._process.kill()
        self._process.wait()
        self.look()
        family = [e[who] for e in self.since_start() if e["event"] == "rank" for who in _FAMILY]
        end = time.monotonic() + seconds
        while (left := [pid for pid in family if _lives(pid)]) and time.monotonic() < end:
            time.sleep(_POLL_S)
        leftovers.remove_segments(self._before)
        return left

    def close(self) -> None:
        """End what may still run."""
        if self._process is not None and self._process.poll() is None:
            self.kill_launcher()
        leftovers.remove_segments(self._before)

    def tail(self, lines: int = 15) -> str:
        """The last lines of the output."""
        text = self._output.read_text(errors="replace") if self._output.exists() else ""
        return "\n".join(text.splitlines()[-lines:])


_FAMILY = ("watcher", "script")


def _kill(pid: int, number: int) -> bool:
    if pid <= 0:
        return False
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return False
    return True


def _lives(pid: int) -> bool:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] != "Z"


def times_of(events: list[dict[str, Any]], name: str) -> list[float]:
    """When events of this name happened."""
    return [event["time"] for event in events if event["event"] == name]


def first(events: list[dict[str, Any]], *names: str) -> Mapping[str, Any] | None:
    """The first event of one of these names."""
    return next((event for event in events if event["event"] in names), None)
