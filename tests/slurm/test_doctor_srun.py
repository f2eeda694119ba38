"""The doctor as tasks of srun, and inside of an allocation."""

from __future__ import annotations

import json
import sys

import pytest

DOCTOR = (sys.executable, "-m", "allgrad.launch.cli", "doctor", "--json", "--seconds", "0.2")
QUICK = (*DOCTOR, "--no-self-test")
ONE_THREAD = {"OMP_NUM_THREADS": "1"}

pytestmark = [pytest.mark.slurm, pytest.mark.mpi]


def doctor(cluster, *argv):
    """The report, and the finished command."""
    done = cluster.run(*argv, environ=ONE_THREAD)
    begin = done.stdout.find("{")
    assert begin >= 0, done
    report, _ = json.JSONDecoder().raw_decode(done.stdout[begin:])
    report["found"] = {finding["name"]: finding for finding in report["findings"]}
    return report, done


def test_the_right_srun(cluster):
    report, done = doctor(cluster, "srun", "--mpi=pmi2", "-N2", "-n2", *QUICK)
    assert done.returncode == 0, done
    assert [facts["world"]["size"] for facts in report["ranks"]] == [2, 2]
    assert "pmi2" in report["ranks"][0]["slurm"]["plugins"]


def test_srun_without_pmi(cluster):
    report, done = doctor(cluster, "srun", "--mpi=none", "-N2", "-n2", *QUICK)
    assert done.returncode != 0
    found = report["found"]["srun_without_pmi"]
    assert "2 tasks without a connection for MPI" in found["cause"]
    assert "srun --mpi=pmi2" in found["fix"]


def test_the_srun_of_another_mpi(cluster):
    if not cluster.has_pmix:
        pytest.skip("this Slurm has no PMIx")
    report, done = doctor(cluster, "srun", "--mpi=pmix", "-N2", "-n2", *QUICK)
    assert done.returncode != 0
    assert report["found"]["wrong_srun_mpi"]["fix"] == "srun --mpi=pmi2"


def test_more_ranks_than_slots(cluster):
    report, done = doctor(cluster, "salloc", "-Q", "-N2", "-n2", *QUICK, "-n", "5")
    assert done.returncode == 2
    assert (
        "5 ranks, but the allocation has 2 slots"
        in report["found"]["more_ranks_than_slots"]["cause"]
    )


def test_self_test_in_an_allocation(cluster):
    report, done = doctor(cluster, "salloc", "-Q", "-N2", "-n2", *DOCTOR, "-n", "2")
    assert done.returncode == 0, done
    assert report["self_test"]["ranks"] == 2
