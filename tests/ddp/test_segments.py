"""What killed jobs have left in shared memory is removed by the next job, and nothing else."""

from __future__ import annotations

import mmap
from pathlib import Path
from typing import Any

import pytest

from allgrad.ddp import segments


@pytest.mark.parametrize("name", ["mpich_shm_1f_0", "sm_segment.host.0.15b10000.0"])
def test_only_old_segments_that_nobody_maps_are_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    stale, used, other = (tmp_path / n for n in (name, name + "used", "somebody_elses"))
    for path in (stale, used, other):
        path.write_bytes(b"x" * 4096)
    assert segments.remove_stale(tmp_path) == []  # all are young: a job may just be starting
    monkeypatch.setattr(segments, "STALE_S", -1.0)
    with used.open("r+b") as file, mmap.mmap(file.fileno(), 4096):
        assert segments.remove_stale(tmp_path) == [stale]
    assert sorted(tmp_path.iterdir()) == [used, other]
    assert segments.remove_stale(tmp_path / "none") == []


@pytest.mark.mpi
def test_a_job_removes_them_when_it_starts(mpirun: Any, tmp_path: Path) -> None:
    folder = tmp_path / "memory"
    folder.mkdir()
    (folder / "mpich_shm_stale").touch()
    script = f"""
        from pathlib import Path
        from allgrad import ddp
        from allgrad.ddp import segments
        segments.SHARED_MEMORY, segments.STALE_S = Path({str(folder)!r}), -1.0
        ddp.init_process_group()
        ddp.destroy_process_group()
    """
    done = mpirun(2, script)
    assert done.returncode == 0, done.stderr
    assert list(folder.iterdir()) == []
