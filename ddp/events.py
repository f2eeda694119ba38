"""What a job tells its launcher: joined, loading, loaded, saving, saved; one JSON object a line.

An edge: the file's name comes from the environment (``ALLGRAD_EVENTS``, set by ``allgrad run``);
without it nothing is written. The launcher learns from it whether a job that failed had made
progress; ``allgrad chaos`` chooses its moments by it. Imports the standard library only.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Mapping
from typing import Any

EVENTS_VARIABLE = "ALLGRAD_EVENTS"
# The launchers that count restarts; Slurm does when it puts a job into the queue again.
RESTART_VARIABLES = ("ALLGRAD_RESTART_COUNT", "TORCHELASTIC_RESTART_COUNT", "SLURM_RESTART_COUNT")


def announce(event: str, **fields: Any) -> None:
    """Append one line to the file of events, if there is one.

    Args:
        event: what happened.
        fields: more of it, as JSON values.
    """
    path = os.environ.get(EVENTS_VARIABLE, "")
    if path:
        write_event(path, event, **fields)


def write_event(path: str, event: str, **fields: Any) -> None:
    """Append one line; several processes may. A file that cannot be written is left alone."""
    line = json.dumps({"event": event, "time": time.time(), "pid": os.getpid()} | fields) + "\n"
    append_events(path, line.encode())


def append_events(path: str, lines: bytes) -> None:
    """Append whole lines that were written elsewhere."""
    with contextlib.suppress(OSError):  # the launcher and its folder may be gone
        descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            os.write(descriptor, lines)
        finally:
            os.close(descriptor)


def read_events(path: str, begin: int = 0) -> tuple[list[dict[str, Any]], int]:
    """The lines of a file of events from byte `begin` on, and the byte to go on from."""
    try:
        with open(path, "rb") as file:
            file.seek(begin)
            data = file.read()
    except FileNotFoundError:
        return [], begin
    whole = data[: data.rfind(b"\n") + 1]  # a line may just be being written
    return [json.loads(line) for line in whole.splitlines()], begin + len(whole)


def restart_count(environ: Mapping[str, str] = os.environ) -> int:
    """How often this job was started again: 0 in the first run.

    Args:
        environ: default: that of this process. ``allgrad run --max-restarts`` sets
            ``ALLGRAD_RESTART_COUNT``; torchrun's and Slurm's variables count where it is not set.

    Example:
        >>> restart_count({"ALLGRAD_RESTART_COUNT": "2"}), restart_count({})
        (2, 0)
    """
    for name in RESTART_VARIABLES:
        text = environ.get(name, "")
        if text.isdigit():
            return int(text)
    return 0
