"""One unchanged script as a step of a real srun on two nodes: the rows of Slurm in the table.

The other launchers' rows are in tests/launch/test_six_launchers.py.
"""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from support import openmpi
from support.launch_scenarios import SCENARIOS, Launch

from allgrad.launch.leftovers import abandoned, segments

PYTHON = sys.executable
RUN = (PYTHON, "-m", "allgrad.launch.cli", "run")
SRUN = (
    *("srun", "--nodes=2", "--ntasks=4", "--ntasks-per-node=2", "--kill-on-bad-exit=1"),
    "--quit-on-interrupt",  # srun alone wants Ctrl-C twice within a second
)
# srun reports the highest code of its ranks: their own, or that of how it or MPI ended them (14: a
# rank of Open MPI that has lost another one).
ENDED = (1, 14, 130, 137, 143)


def open_mpi(cluster):
    if not cluster.has_pmix:
        pytest.skip("srun has no PMIx here: it needs the package libpmix-dev")
    return openmpi.need()


def by_srun(kind, environ, **more):
    ends = {"exception": ENDED, "killed": ENDED, "interrupted": ENDED}
    return Launch((*SRUN, f"--mpi={kind}", PYTHON), environ, nproc=4, nodes=2, **ends, **more)


def srun_mpich(cluster):
    # As `allgrad run` sets it, see launch/launchers/srun.py.
    environ = cluster.environ | {"MPIR_CVAR_CH4_NETMOD": "ofi"}
    return by_srun("pmi2", environ, leaves_segments=True)


def srun_openmpi(cluster):
    mpi = open_mpi(cluster)
    return by_srun("pmix", cluster.environ | mpi.environ)


def allgrad_run_mpich(cluster):
    argv = (*RUN, "--launcher", "srun", "--nnodes", "2", "--nproc-per-node", "2")
    return Launch(argv, dict(cluster.environ), nproc=4, nodes=2)


def allgrad_run_openmpi(cluster):
    mpi = open_mpi(cluster)
    argv = (*RUN, "--launcher", "srun", "--nnodes", "2", "--nproc-per-node", "2")
    argv += ("--mpiexec", mpi.mpiexec)
    return Launch(argv, cluster.environ | mpi.environ, nproc=4, nodes=2)


LAUNCHERS = {
    "srun, MPICH": srun_mpich,
    "srun, Open MPI": srun_openmpi,
    "allgrad run, MPICH": allgrad_run_mpich,
}


@pytest.mark.slurm
@pytest.mark.mpi
@pytest.mark.timeout(400)
@pytest.mark.parametrize("scenario", SCENARIOS)
@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_one_script(cluster, tmp_path, launcher, scenario):
    SCENARIOS[scenario](LAUNCHERS[launcher](cluster), tmp_path)


@pytest.mark.slurm
@pytest.mark.mpi
@pytest.mark.timeout(400)
def test_allgrad_run_with_open_mpi(cluster, tmp_path):
    # What differs is how ranks meet; how they end is the business of the workers, as with MPICH.
    SCENARIOS["start"](allgrad_run_openmpi(cluster), tmp_path)


STARTS = """
import os, pathlib, sys
from support.launch_scenarios import Launch, Running
argv = ("srun", "--nodes=2", "--ntasks=2", "--mpi=pmi2", sys.executable)
with Running(Launch(argv, {"MPIR_CVAR_CH4_NETMOD": "ofi"}), "wait", pathlib.Path.cwd()) as job:
    job.wait_for_places()
    print(job.process.pid, flush=True)
    sys.stdin.read()
"""


@pytest.mark.slurm
@pytest.mark.mpi
@pytest.mark.timeout(400)
def test_srun_ends_with_tests_that_are_killed(cluster, tmp_path):
    before = segments()
    tests = subprocess.Popen(
        [sys.executable, "-c", STARTS],
        env=cluster.environ | {"PYTHONPATH": str(Path(__file__).parents[1])},
        cwd=tmp_path,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with tests:
        assert tests.stdout is not None
        srun = int(tests.stdout.readline())
        assert "srun" in Path(f"/proc/{srun}/comm").read_text()
        descriptor = os.pidfd_open(srun)
        tests.send_signal(signal.SIGKILL)
    with open(descriptor) as process:
        readable, _, _ = select.select([process], [], [], 30)
    assert readable, "srun has not ended"
    cluster.cancel_all()  # ends the ranks, which leave their segments
    for path in abandoned(segments() - before):
        path.unlink(missing_ok=True)
