"""Only shared memory that is new, ours and unused is removed."""

from __future__ import annotations

import mmap

from allgrad.launch import leftovers


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
        assert leftovers.remove_segments(before, tmp_path) == [new]
        assert sorted(tmp_path.iterdir()) == [old, used, other]
    assert leftovers.remove_segments(before, tmp_path) == [used]


def test_no_such_folder(tmp_path):
    assert leftovers.segments(tmp_path / "none") == frozenset()
