"""Only shared memory that is new, ours and unused is removed."""

from __future__ import annotations

import mmap
import os

import pytest

from allgrad.launch import leftovers


@pytest.fixture
def no_start(monkeypatch):
    monkeypatch.setattr(leftovers, "_START_S", -1)


@pytest.mark.usefixtures("no_start")
def test_only_new_unused_segments_are_removed(tmp_path):
    old, new, used, other = (
        tmp_path / name
        for name in ("mpich_shm_old", "mpich_shm_new", "mpich_shm_used", "psm_other")
    )
    old.touch()
    before = leftovers.segments(tmp_path)
    assert before == {old}
    for path in (new, used, other):
        path.write_bytes(b"x" * 4096)
    with used.open("r+b") as file, mmap.mmap(file.fileno(), 4096):
        assert leftovers.remove_segments(before, (), tmp_path) == [new]
        assert sorted(tmp_path.iterdir()) == [old, used, other]
    assert leftovers.remove_segments(before, (), tmp_path) == [used]


def test_a_segment_that_was_just_made_may_be_of_a_job_that_starts(tmp_path):
    made, seen = tmp_path / "mpich_shm_made", tmp_path / "mpich_shm_seen"
    for path in (made, seen):
        path.write_bytes(b"x" * 4096)
    with seen.open("r+b") as file, mmap.mmap(file.fileno(), 4096):
        mapped = leftovers.mapped_by(os.getpid())
    mapped = [path for path in mapped if path.parent == tmp_path]  # pytest itself may run MPI
    assert mapped == [seen]
    assert leftovers.remove_segments(frozenset(), mapped, tmp_path) == [seen]


def test_no_such_folder(tmp_path):
    assert leftovers.segments(tmp_path / "none") == frozenset()
