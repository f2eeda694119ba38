"""One unchanged script under every launcher, in every way to end: exit codes, and nobody is left.

The rows of srun and sbatch are in tests/slurm, which has a cluster.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from support import launch_scenarios, openmpi
from support.launch_scenarios import SCENARIOS, Launch

from allgrad.launch.leftovers import abandoned, segments
from allgrad.launch.mpi_runtime import find_mpi

PYTHON = sys.executable
RUN = (PYTHON, "-m", "allgrad.launch.cli", "run")


@pytest.fixture(autouse=True)
def _what_killed_ranks_leave_goes():
    """Under an MPI's own launcher some segments stay that the script has not mapped itself."""
    before = segments()
    yield
    for path in abandoned(segments() - before):
        path.unlink(missing_ok=True)


def python(request):
    # What Python itself does: a signal is what the process ends of.
    return Launch((PYTHON,), nproc=1, killed=(-9,), interrupted=(-2, 130))


def allgrad_run(request):
    request.getfixturevalue("mpiexec")
    return Launch((*RUN, "-n", "2"))


def allgrad_run_openmpi(request):
    mpi = openmpi.need()
    return Launch((*RUN, "-n", "2", "--mpiexec", mpi.mpiexec), mpi.environ)


def mpich(request):
    argv = (request.getfixturevalue("mpiexec"), "-n", "2", PYTHON)
    # Hydra reports the number of the signal alone; 1 if the other rank noticed it first.
    return Launch(argv, killed=(9, 137, 1), leaves_segments=True)


def open_mpi(request):
    mpi = openmpi.need()
    argv = (mpi.mpiexec, "-n", "2", "--bind-to", "none", PYTHON)
    return Launch(argv, mpi.environ, killed=(137, 1), interrupted=(1, 130))


def like_torchrun(request):
    request.getfixturevalue("mpiexec")
    if find_mpi().flavour != "mpich":
        pytest.skip("only MPICH and its relatives can be joined without their launcher")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    starter = Path(__file__).parents[1] / "support" / "like_torchrun.py"
    argv = (PYTHON, str(starter), "2", str(min(port, 65000)), PYTHON)
    return Launch(argv, leaves_segments=True)


LAUNCHERS = {
    "python": python,
    "allgrad run": allgrad_run,
    "allgrad run, Open MPI": allgrad_run_openmpi,
    "MPICH mpiexec": mpich,
    "Open MPI mpiexec": open_mpi,
    "torchrun's variables": like_torchrun,
}


@pytest.mark.mpi
@pytest.mark.parametrize("scenario", SCENARIOS)
@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_one_script(request, tmp_path, launcher, scenario):
    SCENARIOS[scenario](LAUNCHERS[launcher](request), tmp_path)
    left = time.monotonic() + 15
    while servers() and time.monotonic() < left:
        time.sleep(0.05)
    assert servers() == []


def servers():
    """The meeting points of torchrun's ranks that this test has started and that live."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            line = (entry / "cmdline").read_bytes()
        except (FileNotFoundError, ProcessLookupError):
            continue
        if b"pmi_server.py" in line and PYTHON.encode() in line:
            found.append(line)
    return found


@pytest.mark.mpi
@pytest.mark.torch
def test_torchrun_itself(request, tmp_path):
    pytest.importorskip("torch")
    like_torchrun(request)  # or skips
    argv = (PYTHON, "-m", "torch.distributed.run", "--nproc-per-node", "2")
    launch_scenarios.start(Launch(argv), tmp_path)


def test_torchrun_with_open_mpi_is_explained(tmp_path):
    mpi = openmpi.need()
    script = tmp_path / "script.py"
    script.write_text("from allgrad import ddp\nddp.init_process_group(timeout=60)\n")
    starter = Path(__file__).parents[1] / "support" / "like_torchrun.py"
    done = subprocess.run(
        [PYTHON, str(starter), "2", "29871", PYTHON, str(script)],
        env=os.environ | mpi.environ,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 1
    assert "Start the same script with `allgrad run -n 2 script.py`" in done.stderr
