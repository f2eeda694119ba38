"""Connections that environment variables promise: whether somebody is still at their other end.

A shell started inside a job, a terminal multiplexer or a wrapper script can carry a job's variables
to where they lead nowhere; an MPI that believes them fails or hangs.
"""

from __future__ import annotations

import os
import re
import socket
import stat
from collections.abc import Mapping
from pathlib import Path

_CONNECT_S = 0.3
_PROC = Path("/proc")


def stale_variables(environ: Mapping[str, str]) -> dict[str, str]:
    """Variables of launchers that lead nowhere, each with the reason."""
    stale: dict[str, str] = {}
    for look in (_pmi, _pmix, _supervisor, _slurm_task):
        stale |= look(environ)
    return stale


def _pmi(environ: Mapping[str, str]) -> dict[str, str]:
    if "PMI_RANK" not in environ or "PMI_PORT" in environ:
        return {}
    text = environ.get("PMI_FD", "")
    if not text:
        # Slurm's PMI-1, Cray's and others connect by other means, for which they set more names.
        known = {name for name in environ if name.startswith("PMI_")} - {"PMI_RANK", "PMI_SIZE"}
        if known or "SLURM_STEP_ID" in environ or "PALS_APID" in environ:
            return {}
        return {"PMI_RANK": "there is no connection to a launcher (PMI_FD, PMI_PORT)"}
    try:
        alive = stat.S_ISSOCK(os.fstat(int(text)).st_mode)
    except (OSError, ValueError):
        alive = False
    return {} if alive else {"PMI_FD": f"{text} is no open connection of this process"}


def _pmix(environ: Mapping[str, str]) -> dict[str, str]:
    names = sorted(name for name in environ if name.startswith("PMIX_SERVER_URI"))
    if "OMPI_COMM_WORLD_RANK" in environ and not names:
        return {"OMPI_COMM_WORLD_RANK": "there is no connection to a launcher (PMIX_SERVER_URI)"}
    for name in names:
        match = re.search(r"tcp4://([\d.]+):(\d+)", environ[name])
        if match is None:
            continue
        try:
            socket.create_connection((match[1], int(match[2])), _CONNECT_S).close()
        except OSError as error:
            return {name: f"nobody listens at {match[1]}:{match[2]} ({error.strerror or error})"}
        return {}
    return {}


def _supervisor(environ: Mapping[str, str]) -> dict[str, str]:
    address = environ.get("ALLGRAD_SUPERVISOR", "")
    if not address.startswith("/") or Path(address).exists():
        return {}
    return {"ALLGRAD_SUPERVISOR": "the `allgrad run` that set it has ended"}


def _slurm_task(environ: Mapping[str, str]) -> dict[str, str]:
    """srun tells each task its process number: ours is that one or comes from it."""
    text = environ.get("SLURM_TASK_PID", "")
    if not text.isdigit() or not _PROC.is_dir() or (_PROC / text).exists():
        return {}
    return {"SLURM_TASK_PID": f"the task of srun, process {text}, has ended"}


def twins() -> int:
    """How many children of our parent run the same command line, this process included."""
    if not _PROC.is_dir():
        return 1
    parent, mine = os.getppid(), _command(os.getpid())
    others = [int(entry.name) for entry in _PROC.glob("[0-9]*") if _parent(entry) == parent]
    return max(1, sum(_command(pid) == mine for pid in others))


def _parent(entry: Path) -> int:
    try:
        after_name = (entry / "stat").read_text(errors="replace").rpartition(")")[2]
    except OSError:
        return -1  # it has ended meanwhile
    return int(after_name.split()[1])


def _command(pid: int) -> bytes:
    try:
        return (_PROC / str(pid) / "cmdline").read_bytes()
    except OSError:
        return b""
