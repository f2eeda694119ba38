"""Shared memory that a killed MPICH job leaves in /dev/shm: found and removed after the job.

MPICH removes its segments when it finalizes; ranks that were killed never do. A segment is taken
for ours only if it appeared during the job, belongs to this user, and no living process maps it:
removing it then can take nothing from anybody.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

SHARED_MEMORY = Path("/dev/shm")
_PREFIX = "mpich_shm_"


def segments(folder: Path = SHARED_MEMORY) -> frozenset[Path]:
    """Return this user's MPICH segments."""
    found = []
    if folder.is_dir():
        for entry in os.scandir(folder):
            try:
                if entry.name.startswith(_PREFIX) and entry.stat().st_uid == os.getuid():
                    found.append(Path(entry.path))
            except FileNotFoundError:
                continue  # its job has just removed it
    return frozenset(found)


def remove_segments(before: frozenset[Path], folder: Path = SHARED_MEMORY) -> list[Path]:
    """Remove the segments that were not there before and that nobody maps.

    Args:
        before: ``segments()`` as it was when the job began.
        folder: where to look.

    Returns:
        The removed paths.
    """
    removed = abandoned(segments(folder) - before)
    for path in removed:
        path.unlink(missing_ok=True)
    return removed


def abandoned(paths: Iterable[Path]) -> list[Path]:
    """Return those of the files that no process of this user maps into memory."""
    paths = sorted(paths)
    mapped = _mapped_files() if paths else set()
    return [path for path in paths if str(path) not in mapped]


def _mapped_files() -> set[str]:
    """Return the files that the processes of this user map into memory."""
    mapped = set()
    for process in Path("/proc").glob("[0-9]*"):
        try:
            text = (process / "maps").read_text(errors="replace")
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            continue  # ended meanwhile, or another user's: it cannot map our private segments
        mapped |= {line.split(maxsplit=5)[5] for line in text.splitlines() if _PREFIX in line}
    return mapped
