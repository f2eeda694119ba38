"""Faults that only processes have, under mpiexec; and those of threads again, on processes."""

from __future__ import annotations

import importlib.util
import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from support.load import Lag

pytestmark = pytest.mark.mpi

Runner = Callable[..., subprocess.CompletedProcess[str]]

HEAD = """
import ctypes, os, signal, sys, time
import numpy as np
from allgrad import ddp
ddp.init_process_group(timeout={timeout}, shared_memory={shared_memory})
rank = ddp.get_rank()
x = np.ones(1000, np.float32)
"""

# Rows of the catalogue of rank threads, one after the other in one job: all ranks raise, and go on.
AGAIN = (
    "different_collective", "different_size", "different_dtype", "different_reduction",
    "different_root", "other_order", "skipped_by_continue", "skipped_by_a_caught_exception",
    "extra_collective", "asleep", "deadlock_on_a_lock", "sum_over_a_tree_on_some_ranks",
    "receive_without_a_send",
)  # fmt: skip

REPEAT = """
import importlib.util, json, sys, time
from mpi4py import MPI
from allgrad import ddp
from allgrad.ddp import process_group

path, shared_memory, *names = sys.argv[1:]
shared = None if shared_memory == "1" else False
spec = importlib.util.spec_from_file_location("test_catalogue", path)
catalogue = importlib.util.module_from_spec(spec)
sys.modules["test_catalogue"] = catalogue
spec.loader.exec_module(catalogue)
told = {}
for name in names:
    row = catalogue.FAULTS[name]
    ddp.init_process_group(timeout=row.timeout_s, shared_memory=shared)
    rank, group = ddp.get_rank(), process_group.default_group()
    try:
        row.body(rank)
        told[name] = ["nothing", 0]
    except ddp.process_group.DistributedError as error:
        told[name] = [str(error), time.time()]
    group._hooks.uninstall()
    process_group._set_default(None)
    MPI.COMM_WORLD.Barrier()  # the late one has its end, and is told
with open(f"told{rank}.json", "w") as file:
    json.dump(told, file)
"""


@pytest.mark.parametrize("shared_memory", ["1", "0"], ids=["shm", "mpi"])
def test_faults_of_the_catalogue_on_processes(
    mpirun: Runner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shared_memory: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "repeat.py").write_text(REPEAT)
    catalogue = Path(__file__).with_name("test_catalogue.py")
    with Lag() as lag:
        done = mpirun(3, [str(tmp_path / "repeat.py"), str(catalogue), shared_memory, *AGAIN], 90)
    told = [json.loads((tmp_path / f"told{rank}.json").read_text()) for rank in range(3)]
    assert done.returncode == 0, done.stderr
    spec = importlib.util.spec_from_file_location("catalogue_of_threads", catalogue)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["catalogue_of_threads"] = module
    spec.loader.exec_module(module)
    for name in AGAIN:
        row = module.FAULTS[name]
        for rank in row.ranks:
            text, _ = told[rank][name]
            assert text.startswith(f"[rank {rank}/3] ")
            for words in row.words:
                assert re.search(words, text), f"{name}: rank {rank} lacks {words!r}:\n{text}"
        times = [told[rank][name][1] for rank in row.ranks]
        assert max(times) - min(times) < lag.limit(1.0), name


STUCK = {
    "stopped": (
        "os.kill(os.getpid(), signal.SIGSTOP)",
        r"rank 1: does not answer: its process (\d+) was stopped by a signal \(SIGSTOP, Ctrl-Z\)",
        r"`kill -CONT (\d+)`",
    ),
    "sleeping": (
        "time.sleep(300)",
        r"rank 1: sleeps at .*ranks\.py:\d+: time\.sleep\(300\); its last collective was ",
        "wait in a collective or not at all",
    ),
    "holding the interpreter": (
        "ctypes.PyDLL(None).sleep(300)",
        # the last look may still cover the moments before it fell asleep
        r"rank 1: does not answer: its process \d+ "
        r"(sleeps in|uses the processor:) native code that holds the ",
        "py-spy",
    ),
    "computing for ever": (
        "while True: sum(range(100))",
        r"rank 1: computes at .*ranks\.py:\d+: while True",
        "an endless loop",
    ),
}


@pytest.mark.parametrize("name", STUCK)
def test_a_stuck_process_is_described(mpirun: Runner, name: str) -> None:
    failure, *words = STUCK[name]
    script = HEAD.format(timeout=1.5, shared_memory=True) + (
        f"ddp.all_reduce(x)\nif rank == 1:\n    {failure}\nddp.all_reduce(x)\n"
    )
    done = mpirun(2, script, 60)
    assert done.returncode != 0
    for pattern in [
        "waited 1.5 s in all_reduce of 4000 bytes",
        "not arrived at it: rank 1",
        *words,
    ]:
        assert re.search(pattern, done.stderr), f"{pattern!r} not in:\n{done.stderr}"


DEATHS = {
    "killed": "os.kill(os.getpid(), signal.SIGKILL)",
    "crashed": "os.kill(os.getpid(), signal.SIGSEGV)",
    "left by os._exit": "os._exit(0)",
}


def told_of_a_death(folder: Path, failure: str, call: str) -> list[str]:
    """What each of three ranks prints, of which rank 1 dies; all within a second."""
    script = str(Path(__file__).with_name("mapped_ranks.py"))
    argv = [[sys.executable, script, str(folder), str(r), "3", failure, call] for r in range(3)]
    ranks = [subprocess.Popen(a, stdout=subprocess.PIPE, text=True) for a in argv]
    try:
        with Lag() as lag:
            told = [rank.communicate(timeout=60)[0] for rank in ranks]
    finally:
        for rank in ranks:
            rank.kill()
    for rank in (0, 2):
        assert float(told[rank].split()[0]) < lag.limit(1.0)  # mostly 0.3 s
    return told


@pytest.mark.parametrize("name", DEATHS)
def test_a_process_that_died_is_named(tmp_path: Path, name: str) -> None:
    """Where the launcher does not end the job, as srun: the others notice by themselves."""
    told = told_of_a_death(tmp_path, DEATHS[name], "c.all_reduce(x)")
    for rank in (0, 2):
        assert "rank 1 will never have arrived at: the process is dead" in told[rank]
        assert re.search("was killed .*, crashed in native code .*, or called os._exit", told[rank])
        assert "its last collective was all_reduce of 4000 bytes" in told[rank]


def test_a_message_of_a_process_that_died_is_not_waited_for(tmp_path: Path) -> None:
    told = told_of_a_death(tmp_path, DEATHS["killed"], "c.irecv(x, 1).wait()")
    for rank in (0, 2):
        words = (
            "waits in a receive of 4000 bytes from rank 1, tag 0, but the process of rank 1 is dead"
        )
        assert words in told[rank]


@pytest.mark.parametrize("shared_memory", [True, False], ids=["shm", "mpi"])
def test_a_collective_in_a_forked_child_is_refused(mpirun: Runner, shared_memory: bool) -> None:
    script = HEAD.format(timeout=60, shared_memory=shared_memory) + (
        "child = os.fork()\n"
        "if child == 0:\n"
        "    try:\n        ddp.barrier()\n"
        "    except RuntimeError as error:\n        os.write(1, f'{error}\\n'.encode())\n"
        "    os._exit(0)\n"
        "os.waitpid(child, 0)\nddp.barrier()\nddp.destroy_process_group()\n"
    )
    done = mpirun(2, script, 90)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("a collective in a forked child") == 2, done.stdout
