"""Launchers are pure functions: their commands are compared with golden files, byte by byte."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

import pytest

from allgrad.launch.hosts import Host
from allgrad.launch.launchers import local, mpiexec, srun
from allgrad.launch.spec import LaunchSpec, MpiRuntime

GOLDEN = Path(__file__).parent / "golden"
MPICH = MpiRuntime("/venv/bin/mpiexec", "mpich", "Version: 5.0.2")
OPENMPI = MpiRuntime("/venv/bin/mpiexec", "openmpi", "mpiexec (Open MPI) 5.0.11")
TWO = LaunchSpec(
    nproc=2,
    target="train.py",
    args=("--lr", "0.1", "a b"),
    python="/venv/bin/python",
    worker="/venv/launch/worker.py",
    threads_per_rank=2,
    cores=4,
    mpi=MPICH,
)
ONE = dataclasses.replace(TWO, nproc=1, mpi=None)
HOSTS = dataclasses.replace(
    TWO,
    nproc=4,
    hosts=(Host("node1", 2), Host("node2", 2)),
    ranks_per_host=(2, 2),
    threads_per_rank=0,
)
UNEVEN = dataclasses.replace(
    HOSTS,
    nproc=5,
    hosts=(Host("node1", 4), Host("node2", 4), Host("node3", 4)),
    ranks_per_host=(4, 1, 0),
)
INSIDE_SBATCH = {
    "SLURM_JOB_ID": "7",
    "SLURM_JOB_NODELIST": "node[1-2]",
    "SLURM_CPUS_PER_TASK": "3",
    "SLURM_NTASKS_PER_NODE": "4",
    "SLURM_EXPORT_ENV": "NONE",
}
INSIDE_ANOTHER_JOB = {
    "HOME": "/root",
    "PMI_RANK": "0",
    "PMI_FD": "7",
    "PMIX_NAMESPACE": "x",
    "RANK": "0",
    "WORLD_SIZE": "1",
    "SLURM_JOB_ID": "1",
    "ALLGRAD_SUPERVISED": "12",
}

CASES = {
    "local": (local, ONE, {}),
    "local_module": (local, dataclasses.replace(ONE, target="pkg.train", module=True), {}),
    "local_inside_another_job": (local, ONE, INSIDE_ANOTHER_JOB),
    "mpich": (mpiexec, TWO, {}),
    "mpich_bound": (mpiexec, dataclasses.replace(TWO, bind=((0, 1), (2, 3))), {}),
    "mpich_env": (
        mpiexec,
        dataclasses.replace(TWO, env=(("A", "b c"), ("OMP_NUM_THREADS", "7"))),
        {},
    ),
    "mpich_inside_another_job": (mpiexec, TWO, INSIDE_ANOTHER_JOB),
    "openmpi": (mpiexec, dataclasses.replace(TWO, mpi=OPENMPI), {}),
    "openmpi_root_oversubscribed": (
        mpiexec,
        dataclasses.replace(TWO, mpi=OPENMPI, nproc=8, root=True, threads_per_rank=1),
        {},
    ),
    "mpich_hosts": (mpiexec, HOSTS, {}),
    "mpich_hosts_uneven": (
        mpiexec,
        dataclasses.replace(UNEVEN, remote_shell="/usr/bin/rsh", threads_per_rank=2),
        {},
    ),
    "mpich_hosts_of_slurm": (mpiexec, HOSTS, INSIDE_SBATCH),
    "mpich_hosts_beside_slurm": (
        mpiexec,
        HOSTS,
        INSIDE_SBATCH | {"SLURM_JOB_NODELIST": "node[2-3]"},
    ),
    "openmpi_hosts": (mpiexec, dataclasses.replace(HOSTS, mpi=OPENMPI, bind_cores=True), {}),
    "openmpi_hosts_uneven": (
        mpiexec,
        dataclasses.replace(UNEVEN, mpi=OPENMPI, remote_shell="/usr/bin/rsh"),
        {},
    ),
    "srun_mpich": (srun, dataclasses.replace(HOSTS, pmi="pmi2"), INSIDE_SBATCH),
    "srun_openmpi_bound": (
        srun,
        dataclasses.replace(HOSTS, mpi=OPENMPI, pmi="pmix", bind_cores=True),
        {"SLURM_JOB_ID": "7"},
    ),
    "srun_uneven": (srun, dataclasses.replace(UNEVEN, threads_per_rank=2), INSIDE_SBATCH),
    "srun_one_host": (srun, dataclasses.replace(TWO, pmi="pmi2"), INSIDE_SBATCH),
    "srun_own_allocation": (srun, dataclasses.replace(TWO, nproc=4, nodes=2, pmi="pmi2"), {}),
    "srun_own_transport": (srun, dataclasses.replace(TWO, pmi="pmi2"), {"UCX_TLS": "tcp,self"}),
}


@pytest.mark.parametrize("name", CASES)
def test_golden_command(name):
    launcher, spec, environ = CASES[name]
    line = launcher.command(spec, environ).shell() + "\n"
    path = GOLDEN / f"{name}.txt"
    if os.environ.get("ALLGRAD_WRITE_GOLDEN"):
        path.write_text(line)
    assert line == path.read_text()


def test_every_golden_file_is_used():
    assert {path.stem for path in GOLDEN.iterdir()} == set(CASES)


def test_environment_drops_and_sets():
    command = mpiexec.command(TWO, INSIDE_ANOTHER_JOB)
    env = command.environment(INSIDE_ANOTHER_JOB)
    assert not {"PMI_RANK", "PMI_FD", "RANK", "WORLD_SIZE", "ALLGRAD_SUPERVISED"} & set(env)
    assert (env["HOME"], env["SLURM_JOB_ID"], env["OMP_NUM_THREADS"]) == ("/root", "1", "2")


def test_crash_traces_can_be_turned_off():
    env = mpiexec.command(TWO, {"PYTHONFAULTHANDLER": ""}).env
    assert env["PYTHONFAULTHANDLER"] == ""
