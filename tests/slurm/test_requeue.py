"""When a job is put back into the queue; a real one is in test_jobs.py."""

from __future__ import annotations

import os
import signal

import pytest

from allgrad.errors import LaunchError
from allgrad.launch.cli import main
from allgrad.launch.outcome import Failure, Outcome
from allgrad.launch.slurm import requeue

LEFT = Outcome(138, (), signal.SIGUSR1, in_good_order=True)


@pytest.mark.parametrize(
    ("outcome", "wanted"),
    [
        (LEFT, True),
        (Outcome(140, (), signal.SIGUSR2, in_good_order=True), True),
        (Outcome(143, (), signal.SIGTERM, in_good_order=True), False),  # scancel
        (Outcome(130, (), signal.SIGINT), False),
        (Outcome(0), False),
        (Outcome(138, (Failure("rank 0", 138, "killed by SIGUSR1"),), None), False),
    ],
)
def test_only_a_job_that_has_left_after_a_warning(outcome, wanted):
    assert requeue.is_wanted(outcome) is wanted


@pytest.mark.parametrize(
    ("state", "code", "said", "calls"),
    [
        ("RUNNING", 0, "job 7 goes on later: put back into the queue after SIGUSR1", 2),
        ("RUNNING", 1, "job 7 was not put back into the queue: no way", 2),
        ("CANCELLED", 0, "job 7 is CANCELLED: not put back into the queue", 1),
    ],
)
def test_put_back(tmp_path, monkeypatch, state, code, said, calls):
    fake = tmp_path / "scontrol"
    fake.write_text(
        f'#!/bin/sh\necho "$@" >>{tmp_path}/calls\n'
        f'if [ "$1" = requeue ]; then echo no way >&2; exit {code}; fi\n'
        f"echo JobId=7 JobName=x JobState={state} Reason=None\n"
    )
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}/usr/bin{os.pathsep}/bin")
    assert requeue.put_back(LEFT, {"SLURM_JOB_ID": "7"}) == said
    assert len((tmp_path / "calls").read_text().splitlines()) == calls


def test_outside_of_a_batch_job(tmp_path, monkeypatch, capsys):
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    with pytest.raises(LaunchError, match="submit the script by `allgrad sbatch --requeue`"):
        requeue.check({})
    assert main(["run", "--requeue", __file__]) == 2
    assert "--requeue puts a batch job of Slurm back" in capsys.readouterr().err
