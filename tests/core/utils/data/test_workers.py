"""Worker processes: same batches, no leaks, no hang when one of them dies."""

from __future__ import annotations

import gc
import json
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
import pytest
from loader_samples import Count, Failing, Noisy, Pids, Unpicklable, double, shout

import allgrad as ag
from allgrad.errors import DatasetError, OptionError
from allgrad.utils.data import DataLoader, Dataset
from allgrad.utils.data.shared import map_block, new_block, pack, unpack


@pytest.fixture(autouse=True)
def nothing_left_behind() -> object:
    """No worker process and no shared memory outlives its loader."""
    before = _shared_memory()
    yield
    gc.collect()
    deadline = time.monotonic() + 5
    while (left := _children()) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not left
    assert _shared_memory() <= before


def _shared_memory() -> set[str]:
    """Names in /dev/shm, but for those of MPI jobs that may run beside the tests."""
    shm = Path("/dev/shm")
    names = set(os.listdir(shm)) if shm.is_dir() else set()
    return {n for n in names if not n.startswith(("mpich", "vader", "sm_", "ompi"))}


def _children() -> set[str]:
    found = set()
    for task in Path("/proc/self/task").iterdir():
        found |= set((task / "children").read_text().split())
    return found


def rows(loader: DataLoader) -> list[list]:
    return [[field.tolist() for field in batch] for batch in loader]


def epochs(count: int = 2, **options: object) -> list[list]:
    ag.manual_seed(5)
    loader = DataLoader(Noisy(), 4, shuffle=True, **options)
    return [batch for _ in range(count) for batch in rows(loader)]


def test_the_number_of_workers_changes_no_bit() -> None:
    alone = epochs()
    assert epochs(num_workers=1) == alone
    assert epochs(num_workers=4, persistent_workers=True) == alone
    assert epochs(num_workers=2, multiprocessing_context="fork") == alone


def test_workers_say_who_they_are() -> None:
    loader = DataLoader(Pids(), 2, num_workers=2)
    batches = rows(loader)
    assert [b[1] for b in batches] == [[0, 0], [1, 1], [0, 0], [1, 1]]
    assert all(b[2] == [2, 2] for b in batches)
    pids = {b[0][0] for b in batches}
    assert len(pids) == 2
    assert os.getpid() not in pids
    assert {b[0][0] for b in rows(loader)} == pids  # the processes are kept for the next epoch
    assert rows(DataLoader(Pids(), 2))[0] == [[os.getpid()] * 2, [-1, -1], [-1, -1]]


def test_changes_of_the_data_set_reach_the_workers_at_the_next_epoch() -> None:
    data = Noisy(4, 3000)
    loader = DataLoader(data, 4, num_workers=1)
    assert rows(loader)[0][4][0][0] == 0
    data.data[0, 0] = 7
    assert rows(loader)[0][4][0][0] == 7


def test_streams_are_shared_and_end_when_all_workers_end() -> None:
    loader = DataLoader(Count(11), 2, num_workers=3)
    batches = [b[0].tolist() for b in loader]
    assert batches == [[0, 3], [1, 4], [2, 5], [6, 9], [7, 10], [8]]
    assert [b[0].tolist() for b in DataLoader(Count(2), 2, num_workers=3)] == [[0], [1]]


def test_resume_with_workers_gives_the_same_batches() -> None:
    whole = epochs(1, num_workers=2)
    ag.manual_seed(5)
    loader = DataLoader(Noisy(), 4, shuffle=True, num_workers=2)
    iterator = iter(loader)
    first = [[f.tolist() for f in next(iterator)] for _ in range(2)]
    state = json.loads(json.dumps(loader.state_dict()))
    assert state["batches"] == 2  # what was made ahead does not count
    del iterator
    other = DataLoader(Noisy(), 4, shuffle=True)
    other.load_state_dict(state)
    assert first + rows(other) == whole


def test_abandoned_epochs_and_two_iterators() -> None:
    loader = DataLoader(Noisy(12), 2, num_workers=2)
    for stop in (1, 3):
        for number, _ in enumerate(loader):
            if number == stop:
                break
    pairs = [(a[0].tolist(), b[0].tolist()) for a, b in zip(loader, loader)]
    assert pairs == [([i, i + 1], [i, i + 1]) for i in range(0, 12, 2)]


def test_large_arrays_come_without_a_copy_and_their_memory_is_reused() -> None:
    loader = DataLoader(Noisy(40, 5000), 2, num_workers=1)
    sums = [float(batch[4]._array.sum()) for batch in loader]
    assert sums == [float(Noisy(40, 5000).data[i : i + 2].sum()) for i in range(0, 40, 2)]
    kept = [batch[4] for batch in DataLoader(Noisy(300, 3000), 1, num_workers=1)]
    expected = Noisy(300, 3000).data
    assert all((t._array[0] == expected[i]).all() for i, t in enumerate(kept))
    kept[0]._array[...] = 1  # the batch belongs to the user


def test_packed_arrays_keep_layout_and_dtype() -> None:
    nhwc = np.random.default_rng(0).random((4, 30, 30, 3)).transpose(0, 3, 1, 2)
    things = {
        "image": ag.from_numpy(nhwc.astype(np.float32)),
        "reversed": np.arange(5000)[::-1],
        "fortran": np.asfortranarray(np.random.default_rng(1).random((70, 40))),
        "small": np.arange(3),
        "objects": np.array([{}, None], dtype=object),
        "empty": np.empty((0, 3)),
        "text": "abc",
    }
    things["again"] = things["fortran"]
    packed = pack(things)
    fd, size = new_block(packed.size)
    memory = map_block(fd, size)
    os.close(fd)
    packed.write(memory)
    found = unpack(packed, memory)
    for name in ("reversed", "fortran", "small", "empty", "again"):
        assert found[name].dtype == things[name].dtype
        assert (found[name] == things[name]).all()
    assert found["fortran"].flags.f_contiguous
    assert found["image"]._array.transpose(0, 2, 3, 1).flags.c_contiguous
    assert (found["image"]._array == things["image"]._array).all()
    assert found["text"] == "abc"


@pytest.mark.parametrize("method", ["spawn", "fork"])
@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("kill", r"was killed by signal SIGKILL .* while making batch 2 \(samples 4, 5\)"),
        ("exit", r"exited with code 7; .* while making batch 2 \(samples 4, 5\)"),
    ],
)
def test_a_dead_worker_is_named_at_once(how: str, message: str, method: str) -> None:
    loader = DataLoader(Failing(how), 2, num_workers=2, multiprocessing_context=method)
    began = time.monotonic()
    with pytest.raises(DatasetError, match=message):
        list(loader)
    assert time.monotonic() - began < 10
    assert len(list(DataLoader(range(6), 2, num_workers=1))) == 3


def test_a_worker_killed_from_outside() -> None:
    loader = DataLoader(Pids(), 1, num_workers=1, prefetch_factor=1)
    iterator = iter(loader)
    pid = int(next(iterator)[0][0])
    os.kill(pid, signal.SIGKILL)
    with pytest.raises(DatasetError, match=f"worker process {pid} was killed by signal SIGKILL"):
        list(iterator)
    assert len(rows(loader)) == 8  # the next epoch starts new workers


def test_exceptions_keep_type_and_traceback() -> None:
    loader = DataLoader(Failing("raise"), 4, num_workers=1)
    with pytest.raises(KeyError, match="no picture 5") as caught:
        list(loader)
    notes = "\n".join(caught.value.__notes__)
    assert "raised in DataLoader worker 0" in notes
    assert "in __getitem__" in notes
    assert "while reading sample 5" in notes
    assert "while making batch 1" in notes
    with pytest.raises(DatasetError, match="a worker process failed") as caught:
        list(DataLoader(Failing("local"), 4, num_workers=1))
    assert "LocalError: 1 2" in "\n".join(caught.value.__notes__)


def test_timeout() -> None:
    # forked, so that the first batch does not wait for the start of an interpreter
    loader = DataLoader(
        Failing("sleep"), 4, num_workers=1, timeout=1.0, multiprocessing_context="fork"
    )
    with pytest.raises(DatasetError, match=r"no result for batch 1 .* timeout=1.0 s"):
        list(loader)


def test_worker_init_fn() -> None:
    with pytest.raises(ValueError, match="worker 0 does not want to"):
        list(DataLoader(Noisy(), 4, num_workers=1, worker_init_fn=shout))


class SlowToClose(Connection):
    """Takes a while between closing its file descriptor and forgetting the number."""

    def _close(self) -> None:
        super()._close()
        time.sleep(0.02)


def test_ranks_that_are_threads_fork_and_end_their_workers_at_any_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("allgrad.utils.data.pool.Connection", SlowToClose)

    def train() -> int:
        loader = DataLoader(range(6), 2, num_workers=2, multiprocessing_context="fork")
        return sum(len(list(loader)) for _ in range(4))

    with ThreadPoolExecutor(2) as ranks:
        assert [rank.result() for rank in [ranks.submit(train) for _ in range(2)]] == [12, 12]


def test_what_cannot_be_pickled_is_forked_or_refused() -> None:
    assert len(rows(DataLoader(Unpicklable(), 8, num_workers=1))) == 3
    with pytest.raises(DatasetError, match="cannot be sent to worker processes"):
        list(DataLoader(Unpicklable(), 8, num_workers=1, multiprocessing_context="spawn"))
    with pytest.raises(OptionError, match="'spawn', 'fork'"):
        list(DataLoader(Noisy(), 8, num_workers=1, multiprocessing_context="thread"))


def test_collate_fn_runs_in_the_worker() -> None:
    loader = DataLoader(range(5), 2, collate_fn=double, num_workers=1)
    assert list(loader) == [[0, 2], [4, 6], [8]]


SCRIPT = """
import numpy as np
from allgrad.utils.data import DataLoader, Dataset

class Squares(Dataset):
    def __len__(self): return 6
    def __getitem__(self, i): return i * i

print("loaded", flush=True)
def main():
    loader = DataLoader(Squares(), 3, num_workers=2{context})
    print([b.tolist() for b in loader])
{call}
"""


def run(tmp_path: Path, **parts: str) -> subprocess.CompletedProcess:
    script = tmp_path / "train.py"
    script.write_text(SCRIPT.format(**{"context": "", **parts}))
    return subprocess.run(
        [sys.executable, str(script)], capture_output=True, text=True, timeout=60
    )


def test_a_script_without_guard_runs_as_with_pytorch(tmp_path: Path) -> None:
    done = run(tmp_path, call="main()")
    assert (done.stdout, done.stderr) == ("loaded\n[[0, 1, 4], [9, 16, 25]]\n", "")


def test_a_script_with_guard_is_imported_by_its_workers(tmp_path: Path) -> None:
    done = run(tmp_path, call="if __name__ == '__main__': main()")
    assert done.stderr == ""
    assert done.stdout.count("loaded") == 3  # here and in both workers, which never train
    assert done.stdout.count("[[0, 1, 4], [9, 16, 25]]") == 1


def test_spawn_of_a_script_without_guard_is_refused(tmp_path: Path) -> None:
    done = run(tmp_path, call="main()", context=", multiprocessing_context='spawn'")
    assert "put its training under: if __name__ == '__main__':" in done.stderr
    assert done.returncode == 1


def test_workers_end_when_their_parent_is_killed(tmp_path: Path) -> None:
    script = tmp_path / "train.py"
    script.write_text(
        "import os, signal\nfrom loader_samples import Pids\n"
        "from allgrad.utils.data import DataLoader\n"
        "it = iter(DataLoader(Pids(), 1, num_workers=2))\n"
        "print(int(next(it)[0][0]), int(next(it)[0][0]), flush=True)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent)}
    done = subprocess.run(
        [sys.executable, str(script)], capture_output=True, text=True, timeout=60, env=environment
    )
    assert done.returncode == -signal.SIGKILL
    pids = [int(p) for p in done.stdout.split()]
    deadline = time.monotonic() + 5
    while any(_alive(p) for p in pids) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert len(pids) == 2
    assert not any(_alive(p) for p in pids)


def _alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


class _Big(Dataset):
    def __len__(self) -> int:
        return 2

    def __getitem__(self, index: int) -> bytes:
        return bytes(3_000_000)


def test_messages_larger_than_the_pipe_do_not_block() -> None:
    loader = DataLoader(_Big(), batch_size=1, sampler=[0, 1] * 4, num_workers=1)
    assert [len(b[0]) for b in loader] == [3_000_000] * 8
    many = DataLoader(range(200_000), 100_000, num_workers=1)
    assert [b.shape[0] for b in many] == [100_000, 100_000]
