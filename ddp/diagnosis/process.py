"""What the kernel knows of the process of a rank on this host: stopped, dead, computing, waiting.

Stage of the flow: asked when a rank does not answer. Reads Linux's /proc (proc(5)); elsewhere a
process is only known to exist or not. Imports the standard library only.
"""

from __future__ import annotations

import os
import time
from typing import NamedTuple


class Identity(NamedTuple):
    """A process, not to be confused with a later one of the same number.

    Attributes:
        pid: its number.
        started: when it started, in clock ticks since boot; 0 where nobody tells.
    """

    pid: int
    started: int


class _Stat(NamedTuple):
    state: str
    cpu_ticks: int
    started: int


def identity(pid: int | None = None) -> Identity:
    """Of a process of this host; default: this one."""
    pid = os.getpid() if pid is None else pid
    stat = _stat(pid)
    return Identity(pid, 0 if stat is None else stat.started)


def _stat(pid: int) -> _Stat | None:
    try:
        with open(f"/proc/{pid}/stat", encoding="ascii", errors="replace") as file:
            fields = file.read().rpartition(")")[2].split()
    except OSError:
        return None
    return _Stat(fields[0], int(fields[11]) + int(fields[12]), int(fields[19]))


def is_alive(who: Identity) -> bool:
    """Whether the process still runs: not gone, no zombie, no later one of the same number."""
    stat = _stat(who.pid)
    if stat is None:
        return not os.path.isdir("/proc/self") and _exists(who.pid)
    return stat.state not in "ZXx" and stat.started == who.started


def _exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def describe(who: Identity, watch_s: float = 0.1) -> tuple[str, str]:
    """(state as in `Statement`, the same in words) of a process that does not answer.

    Args:
        who: the process.
        watch_s: for how long to look whether it uses the processor.

    Example:
        >>> describe(identity(), watch_s=0)[0]
        'silent'
    """
    before = _stat(who.pid)
    if not is_alive(who):
        return "gone", (
            f"its process {who.pid} no longer exists and has left no word: killed "
            "(kill -9, out of memory), crashed in native code, or ended by os._exit"
        )
    if before is None:
        return "silent", f"its process {who.pid} exists and does not answer"
    if before.state in "Tt":
        how = "a debugger (ptrace)" if before.state == "t" else "a signal (SIGSTOP, Ctrl-Z)"
        return "stopped", (
            f"its process {who.pid} was stopped by {how}; `kill -CONT {who.pid}` lets it go on"
        )
    if before.state == "D":
        return "silent", f"its process {who.pid} waits for the disk or a file server (state D)"
    time.sleep(watch_s)
    after = _stat(who.pid)
    busy = after is not None and after.cpu_ticks > before.cpu_ticks
    doing = (
        "uses the processor: native code that holds the interpreter lock"
        if busy
        else "sleeps in native code that holds the interpreter lock"
    )
    return "silent", f"its process {who.pid} {doing}, so its Python stack cannot be read"
