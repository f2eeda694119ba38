"""The cluster of the tests ends with whoever started it, jobs included."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

STARTS = """
import os, signal, sys, time
from support import slurm_cluster
with slurm_cluster.start() as cluster:
    print(os.path.dirname(cluster.environ["SLURM_CONF"]), flush=True)
    cluster.run("sbatch", "--wrap", f"sleep {sys.argv[1]}", "--output=/dev/null")
    end = time.monotonic() + 60
    while not cluster.run("squeue", "-h", "-t", "R").stdout and time.monotonic() < end:
        time.sleep(0.1)
    print("running", flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
"""


def living(word):
    """Command lines that have a word; those of daemons have the folder of their configuration."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            line = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()
            state = (entry / "stat").read_text().rpartition(")")[2].split()[0]
        except (FileNotFoundError, ProcessLookupError):
            continue
        if word in line and state != "Z":
            found.append(line)
    return found


@pytest.mark.slurm
@pytest.mark.timeout(300)
def test_nothing_is_left_of_a_cluster_whose_tests_were_killed(cluster):
    seconds = f"9{os.getpid()}"  # of the job, by which it is recognised
    environ = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])}
    done = subprocess.run(
        [sys.executable, "-c", STARTS, seconds],
        env=environ,
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == -9, done
    folder, running = done.stdout.split()
    assert running == "running"
    end = time.monotonic() + 30
    while (living(folder) or living(f"sleep {seconds}")) and time.monotonic() < end:
        time.sleep(0.1)
    assert living(folder) == []
    assert living(f"sleep {seconds}") == []
    while Path(folder).exists() and time.monotonic() < end:
        time.sleep(0.1)
    assert not Path(folder).exists()
