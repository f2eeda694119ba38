"""One failing rank ends the job under mpiexec: at once, with its words and its exit code."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable

import pytest

pytestmark = pytest.mark.mpi

HEAD = """
import os, signal, sys, time
import numpy as np
from allgrad import ddp
ddp.init_process_group(timeout={timeout}, shared_memory={shared_memory})
rank = ddp.get_rank()
x = np.ones(100_000, np.float32)
for step in range(5):
    ddp.all_reduce(x)
if rank == 1:
    {failure}
for step in range(1_000_000):
    ddp.all_reduce(x)
    time.sleep(0.001)
"""

CASES = [
    pytest.param("raise ValueError('boom at step 5')", 1, "ValueError: boom at step 5", id="raise"),
    pytest.param("sys.exit(3)", 3, "", id="exit"),
    pytest.param("os.kill(os.getpid(), signal.SIGKILL)", 9, "", id="kill"),
    pytest.param("os.kill(os.getpid(), signal.SIGSEGV)", 11, "", id="segfault"),
]


@pytest.mark.parametrize("shared_memory", [True, False], ids=["shm", "mpi"])
@pytest.mark.parametrize(("failure", "code", "words"), CASES)
def test_job_ends(
    mpirun: Callable[..., subprocess.CompletedProcess[str]],
    failure: str,
    code: int,
    words: str,
    shared_memory: bool,
) -> None:
    script = HEAD.format(failure=failure, shared_memory=shared_memory, timeout=600)
    begin = time.monotonic()
    done = mpirun(2, script, 60)
    seconds = time.monotonic() - begin
    assert done.returncode == code, done.stdout + done.stderr
    assert words in done.stderr
    if words:
        assert "[rank 1/2]" in done.stderr
    assert seconds < 20  # of which all but a moment is the start of two interpreters


def test_a_rank_that_ends_early_is_named(
    mpirun: Callable[..., subprocess.CompletedProcess[str]],
) -> None:
    script = HEAD.format(failure="sys.exit(0)", shared_memory=True, timeout=600)
    done = mpirun(2, script, 60)
    assert done.returncode == 1
    assert "all_reduce of 400000 bytes" in done.stderr
    assert "which rank 1 will never have arrived at: the program ended" in done.stderr


@pytest.mark.parametrize("shared_memory", [True, False], ids=["shm", "mpi"])
def test_a_stuck_rank_ends_the_job_after_the_time_out(
    mpirun: Callable[..., subprocess.CompletedProcess[str]], shared_memory: bool
) -> None:
    script = HEAD.format(failure="time.sleep(600)", shared_memory=shared_memory, timeout=1.5)
    done = mpirun(2, script, 60)
    assert done.returncode == 1
    assert "[rank 0/2] waited" in done.stderr
    if shared_memory:
        assert "not arrived at it: rank 1:" in done.stderr
