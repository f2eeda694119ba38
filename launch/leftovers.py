"""Shared memory that a killed MPICH job leaves in /dev/shm: found and removed after the job.

MPICH removes its segments when it finalizes; ranks that were killed never do. Those that the ranks
were seen to have mapped are theirs. Another one is taken for ours only if it appeared during the
job, belongs to this user, is some seconds old (a job that just starts makes its segment before it
maps it), and no living process maps it: removing it then can take nothing from anybody.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from pathlib import Path

SHARED_MEMORY = Path("/dev/shm")
_PREFIX = "mpich_shm_"
_START_S = 10.0  # the longest time between making a segment and mapping it, on a busy host


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


def remove_segments(
    before: frozenset[Path], mapped: Iterable[Path] = (), folder: Path = SHARED_MEMORY
) -> list[Path]:
    """Remove the segments of a job that has ended.

    Args:
        before: ``segments()`` as it was when the job began.
        mapped: segments that its ranks were seen to have mapped; see `mapped_by`.
        folder: where to look.

    Returns:
        The removed paths.
    """
    new = segments(folder) - before
    ours = new & frozenset(mapped)
    removed = sorted(ours) + [path for path in abandoned(new - ours) if _is_old(path)]
    for path in removed:
        path.unlink(missing_ok=True)
    return removed


def mapped_by(process: int) -> list[Path]:
    """The segments that a process maps; none if it has ended."""
    return [Path(path) for path in sorted(_mapped_files([Path(f"/proc/{process}")]))]


def _is_old(path: Path) -> bool:
    try:
        return time.time() - path.stat().st_ctime > _START_S
    except FileNotFoundError:
        return False


def abandoned(paths: Iterable[Path]) -> list[Path]:
    """Return those of the files that no process of this user maps into memory."""
    paths = sorted(paths)
    mapped = _mapped_files(Path("/proc").glob("[0-9]*")) if paths else set()
    return [path for path in paths if str(path) not in mapped]


def _mapped_files(processes: Iterable[Path]) -> set[str]:
    """Return the segments that these processes map, as far as they are this user's."""
    mapped = set()
    for process in processes:
        try:
            text = (process / "maps").read_text(errors="replace")
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            continue  # ended meanwhile, or another user's: it cannot map our private segments
        mapped |= {line.split(maxsplit=5)[5] for line in text.splitlines() if _PREFIX in line}
    return mapped
