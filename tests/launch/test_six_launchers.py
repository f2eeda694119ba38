"""One unchanged script under every launcher, in every way to end: exit codes, and nobody is left.

The rows of srun and sbatch are in tests/slurm, which has a cluster.
"""

from __future__ import annotations

import sys

import pytest
from support import openmpi
from support.launch_scenarios import SCENARIOS, Launch

PYTHON = sys.executable
RUN = (PYTHON, "-m", "allgrad.launch.cli", "run")


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
    # Hydra reports the number of the signal alone.
    return Launch(argv, killed=(9, 137), leaves_segments=True)


def open_mpi(request):
    mpi = openmpi.need()
    argv = (mpi.mpiexec, "-n", "2", "--bind-to", "none", PYTHON)
    return Launch(argv, mpi.environ, interrupted=(1, 130))


LAUNCHERS = {
    "python": python,
    "allgrad run": allgrad_run,
    "allgrad run, Open MPI": allgrad_run_openmpi,
    "MPICH mpiexec": mpich,
    "Open MPI mpiexec": open_mpi,
}


@pytest.mark.mpi
@pytest.mark.parametrize("scenario", SCENARIOS)
@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_one_script(request, tmp_path, launcher, scenario):
    SCENARIOS[scenario](LAUNCHERS[launcher](request), tmp_path)
