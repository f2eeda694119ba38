"""One unchanged script as a step of a real srun on two nodes: the rows of Slurm in the table.

The other launchers' rows are in tests/launch/test_six_launchers.py.
"""

from __future__ import annotations

import sys

import pytest
from support import openmpi
from support.launch_scenarios import SCENARIOS, Launch

PYTHON = sys.executable
RUN = (PYTHON, "-m", "allgrad.launch.cli", "run")
SRUN = (
    *("srun", "--nodes=2", "--ntasks=4", "--ntasks-per-node=2", "--kill-on-bad-exit=1"),
    "--quit-on-interrupt",  # srun alone wants Ctrl-C twice within a second
)
# srun reports what ends the step last: the rank's own end, or that srun ended it.
KILLED = (137, 143)


def open_mpi(cluster):
    if not cluster.has_pmix:
        pytest.skip("srun has no PMIx here: it needs the package libpmix-dev")
    return openmpi.need()


def srun_mpich(cluster):
    argv = (*SRUN, "--mpi=pmi2", PYTHON)
    return Launch(
        argv,
        dict(cluster.environ),
        nproc=4,
        nodes=2,
        exception=(1, 137, 143),
        killed=KILLED,
        leaves_segments=True,
    )


def srun_openmpi(cluster):
    mpi = open_mpi(cluster)
    environ = cluster.environ | mpi.environ
    argv = (*SRUN, "--mpi=pmix", PYTHON)
    return Launch(argv, environ, nproc=4, nodes=2, exception=(1, 137, 143), killed=KILLED)


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
    "allgrad run, Open MPI": allgrad_run_openmpi,
}


@pytest.mark.slurm
@pytest.mark.mpi
@pytest.mark.parametrize("scenario", SCENARIOS)
@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_one_script(cluster, tmp_path, launcher, scenario):
    SCENARIOS[scenario](LAUNCHERS[launcher](cluster), tmp_path)
