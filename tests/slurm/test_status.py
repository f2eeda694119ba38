"""A job at a glance, from what Slurm says; the real one is asked in test_jobs.py."""

from __future__ import annotations

import json
import os
from dataclasses import replace

import pytest

from allgrad.errors import LaunchError
from allgrad.launch.cli import main
from allgrad.launch.slurm import status
from allgrad.launch.slurm.commands import fields

RECORD = (
    "JobId=7 ArrayJobId=7 ArrayTaskId=2 JobName=my run UserId=me(1000) GroupId=me(1000) "
    "Priority=1 Account=(null) QOS=(null) JobState=RUNNING Reason=None Dependency=(null) "
    "Requeue=1 Restarts=2 BatchFlag=1 Reboot=0 ExitCode=0:0 RunTime=00:10:05 TimeLimit=01:00:00 "
    "StartTime=2026-11-28T10:00:00 Partition=normal AllocNode:Sid=login:1 NodeList=n[1-2] "
    "NumNodes=2 NumCPUs=8 NumTasks=8 CPUs/Task=1 TRES=cpu=8,node=2 StdOut={out}"
)


def record(tmp_path, **changed):
    out = tmp_path / "my.out"
    return fields(RECORD.format(out=out)) | changed


def test_a_running_job(tmp_path):
    (tmp_path / "my.out").write_text("first\nsecond\n\n10 %\r20 %\n")
    events = [
        {"event": "saved", "time": 900.0, "step": 100},
        {"event": "saved", "time": 965.0, "step": 120},
        {"event": "rank", "time": 970.0, "rank": 1},
    ]
    lines = "".join(json.dumps(event) + "\n" for event in events)
    (tmp_path / "my.events").write_text(lines)
    job = status.of_record(record(tmp_path), lines=2)
    assert list(status.glance(job, now=1000.0)) == [
        "job 7_2 my run: RUNNING on 2 nodes (n[1-2]), 8 ranks, ran 00:10:05 of 01:00:00, put back "
        "into the queue 2 times",
        "  newest checkpoint: step 120, 35 s ago",
        f"  output: {tmp_path}/my.out",
        "  | second",
        "  | 20 %",
    ]


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"JobState": "PENDING", "Reason": "Priority"}, "PENDING (Priority)"),
        ({"JobState": "FAILED", "ExitCode": "3:0"}, "FAILED with exit code 3"),
        ({"JobState": "FAILED", "ExitCode": "137:0"}, "FAILED with exit code 137: SIGKILL"),
        ({"JobState": "FAILED", "ExitCode": "0:9"}, "FAILED with exit code 137: SIGKILL"),
        ({"JobState": "COMPLETED"}, "COMPLETED"),
        ({"JobState": "CANCELLED", "ExitCode": "0:15"}, "CANCELLED"),
        ({"JobState": "TIMEOUT", "ExitCode": "0:15"}, "TIMEOUT (`allgrad sbatch --requeue` "),
    ],
)
def test_states(tmp_path, changed, said):
    job = status.of_record(record(tmp_path, **changed))
    first, output = status.glance(replace(job, node_list="", tasks=0, elapsed=""), 0.0)
    assert first.startswith(f"job 7_2 my run: {said}")
    assert output.endswith("(not there yet)")


@pytest.fixture
def programs(tmp_path, monkeypatch):
    """Let Slurm's programs say something else."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}/usr/bin{os.pathsep}/bin")

    def write(name, text):
        (folder / name).write_text(f"#!/bin/sh\n{text}\n")
        (folder / name).chmod(0o755)

    return write


def test_a_forgotten_job_is_looked_up_in_the_accounts(programs, capsys):
    programs("scontrol", "echo 'slurm_load_jobs error: Invalid job id specified' >&2; exit 1")
    programs("sacct", "echo '7|train|CANCELLED by 1000|0:15|00:10:00|01:00:00|2|n[1-2]'")
    assert main(["status", "7"]) == 0
    said = capsys.readouterr().out
    assert said == "job 7 train: CANCELLED on 2 nodes (n[1-2]), ran 00:10:00 of 01:00:00\n"
    assert main(["status", "--json", "7"]) == 0
    assert json.loads(capsys.readouterr().out)[0]["exit_code"] == 143


def test_a_job_that_nobody_knows(programs, capsys):
    programs("scontrol", "echo 'slurm_load_jobs error: Invalid job id specified' >&2; exit 1")
    programs("sacct", "exit 1")
    assert main(["status", "7"]) == 2
    assert "job 7: Invalid job id specified; Slurm forgets jobs" in capsys.readouterr().err
    with pytest.raises(LaunchError, match="'seven' is no job of Slurm"):
        status.look_up("seven", 0)


def test_no_slurm_at_all(monkeypatch, capsys):
    monkeypatch.setenv("PATH", "/nowhere")
    assert main(["status", "7"]) == 2
    assert "there is no scontrol on PATH" in capsys.readouterr().err


@pytest.mark.parametrize("argv", [["status", "7"], ["status"], ["sbatch", "x.py"]])
def test_no_cluster_that_answers(programs, capsys, monkeypatch, tmp_path, argv):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "x.py").touch()
    fatal = "fatal: Could not establish a configuration source"
    for name in ("scontrol", "squeue", "sbatch"):
        programs(name, f"echo '{name}: {fatal}' >&2; exit 1")
    assert main(argv) == 2
    said = capsys.readouterr().err
    assert "is installed here, but no cluster answers (Could not establish a conf" in said
    assert "or let SLURM_CONF name the cluster's slurm.conf" in said
