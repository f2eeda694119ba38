"""Shared memory that a killed MPI job leaves in /dev/shm: found and removed after the job.

MPI removes its segments when it finalizes; ranks that were killed never do. Those that the ranks
were seen to have mapped are theirs. Another one is taken for ours only if it appeared during the
job, belongs to this user, is some seconds old (a job that just starts makes its segment before it
maps it), and no living process maps it: removing it then can take nothing from anybody. Jobs under
plain ``mpiexec`` have nobody who looks at their end: see `ddp/segments.py`.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from allgrad.ddp.segments import SHARED_MEMORY, abandoned, is_old, mapped_files
from allgrad.ddp.segments import segments as segments

_START_S = 10.0  # the longest time between making a segment and mapping it, on a busy host


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
    removed = sorted(ours) + [path for path in abandoned(new - ours) if is_old(path, _START_S)]
    for path in removed:
        path.unlink(missing_ok=True)
    return removed


def mapped_by(process: int) -> list[Path]:
    """The segments that a process maps; none if it has ended."""
    return [Path(path) for path in sorted(mapped_files([Path(f"/proc/{process}")]))]
