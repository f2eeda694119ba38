"""Faults that only processes have, under mpiexec; and those of threads again, on processes."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

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
        r"rank 1: does not answer: its process \d+ sleeps in native code that holds the ",
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


@pytest.mark.parametrize("name", DEATHS)
def test_a_process_that_died_is_named(tmp_path: Path, name: str) -> None:
    """Where the launcher does not end the job, as srun: the others notice by themselves."""
    script = str(Path(__file__).with_name("mapped_ranks.py"))
    argv = [[sys.executable, script, str(tmp_path), str(r), "3", DEATHS[name]] for r in range(3)]
    ranks = [subprocess.Popen(a, stdout=subprocess.PIPE, text=True) for a in argv]
    try:
        told = [rank.communicate(timeout=60)[0] for rank in ranks]
    finally:
        for rank in ranks:
            rank.kill()
    for rank in (0, 2):
        assert "rank 1 will never have arrived at: the process is dead" in told[rank]
        assert re.search("was killed .*, crashed in native code .*, or called os._exit", told[rank])
        assert "its last collective was all_reduce of 4000 bytes" in told[rank]
        assert float(told[rank].split()[0]) < 10  # 0.3 s on an idle machine
