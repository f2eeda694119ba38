"""Shared memory that killed MPI jobs have left in /dev/shm: found, and removed by the next job.

Stage of the flow: inside `init_process_group`. Imports the standard library only.

MPI removes its segments when it finalizes; ranks that were killed never do, and under plain
``mpiexec`` or ``srun`` nobody sweeps up after them. So the next job does: it removes segments of
this user that no process maps and that are older than any start of a job takes. Only the name goes:
a process that has mapped one, and that we cannot see (in another container), keeps its memory.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Iterable
from pathlib import Path

SHARED_MEMORY = Path("/dev/shm")
STALE_S = 600.0  # far longer than between making a segment and mapping it
_PREFIXES = ("mpich_shm_", "sm_segment.")  # of MPICH, of Open MPI

_log = logging.getLogger("allgrad.ddp")


def segments(folder: Path = SHARED_MEMORY) -> frozenset[Path]:
    """Return this user's segments of MPI."""
    found = []
    if folder.is_dir():
        for entry in os.scandir(folder):
            try:
                if entry.name.startswith(_PREFIXES) and entry.stat().st_uid == os.getuid():
                    found.append(Path(entry.path))
            except FileNotFoundError:
                continue  # its job has just removed it
    return frozenset(found)


def remove_stale(folder: Path | None = None) -> list[Path]:
    """Remove what jobs that have ended long ago have left. Returns the removed paths.

    Args:
        folder: where to look; default: /dev/shm.
    """
    old = [p for p in segments(folder or SHARED_MEMORY) if is_old(p, STALE_S)]
    removed = abandoned(old)
    for path in removed:
        path.unlink(missing_ok=True)
    if removed:
        _log.info(
            "removed shared memory that killed jobs had left: %s", ", ".join(map(str, removed))
        )
    return removed


def is_old(path: Path, seconds: float) -> bool:
    """Whether the file was made or resized so long ago."""
    try:
        return time.time() - path.stat().st_ctime > seconds
    except FileNotFoundError:
        return False  # its job has just removed it


def abandoned(paths: Iterable[Path]) -> list[Path]:
    """Return those of the files that no process of this user maps into memory."""
    paths = sorted(paths)
    mapped = mapped_files(Path("/proc").glob("[0-9]*")) if paths else set()
    return [path for path in paths if str(path) not in mapped]


def mapped_files(processes: Iterable[Path]) -> set[str]:
    """Return the segments that these processes map, as far as they are this user's."""
    mapped = set()
    for process in processes:
        try:
            text = (process / "maps").read_text(errors="replace")
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            continue  # ended meanwhile, or another user's: it cannot map our private segments
        lines = [line for line in text.splitlines() if any(mark in line for mark in _PREFIXES)]
        mapped |= {line.split(maxsplit=5)[5] for line in lines}
    return mapped
