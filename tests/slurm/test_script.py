"""The batch scripts of `allgrad sbatch`, compared with golden files; and what it refuses."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from allgrad.errors import LaunchError
from allgrad.launch.cli import build_parser
from allgrad.launch.slurm import submit
from allgrad.launch.slurm.script import batch_script

GOLDEN = Path(__file__).parent / "golden"
SWEEP = "--lr 0.1 --name 'first one'\n\n--lr 0.01  # a comment\n"
CASES = {
    "plain": ["train.py"],
    "nodes": [
        *("--nodes", "2", "--ntasks-per-node", "4", "--cpus-per-task", "8", "--mem", "64G"),
        *("--time", "1-12:00:00", "--partition", "long", "--account", "team", "--qos", "high"),
        *("--log-dir", "logs", "--env", "A=b c", "--mpi", "pmix", "train.py", "--lr", "0.1"),
    ],
    "gpus": ["--nodes", "2", "--gpus-per-node", "a100:4", "-m", "mypackage.train"],
    "requeue": [
        *("--requeue", "--max-restarts", "2", "--time", "4:00:00", "--output", "out/%x.%j.log"),
        *("train.py", "--resume", "--checkpoint-dir", "runs/{job}"),
    ],
    "array": ["--array", "0-9%3", "--signal", "SIGUSR2@60", "train.py", "--seed", "{task}"],
    "sweep": ["--args-file", "sweep.txt", "--sbatch=--constraint=a100", "train.py"],
}


@pytest.fixture(autouse=True)
def _folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "train.py").write_text("")
    (tmp_path / "mypackage").mkdir()
    (tmp_path / "sweep.txt").write_text(SWEEP)
    monkeypatch.setattr(submit, "_program", lambda: ("/env/bin/allgrad",))


def script_of(arguments):
    return batch_script(submit.spec_of(build_parser().parse_args(["sbatch", *arguments])))


@pytest.mark.parametrize("name", CASES)
def test_golden(name):
    text = script_of(CASES[name])
    golden = GOLDEN / f"{name}.sbatch"
    if os.environ.get("ALLGRAD_WRITE_GOLDEN"):
        golden.write_text(text)
    assert text == golden.read_text()
    assert (
        subprocess.run(["bash", "-n"], input=text, text=True, timeout=60, check=False).returncode
        == 0
    )


@pytest.mark.parametrize(
    ("task", "said"),
    [("0", "run|train.py|x|--lr|0.1|--name|first one|"), ("1", "run|train.py|x|--lr|0.01|")],
)
def test_a_task_gets_its_line(tmp_path, monkeypatch, task, said):
    tell = tmp_path / "tell"
    tell.write_text('#!/bin/bash\nprintf "%s|" "$@"\n')
    tell.chmod(0o755)
    monkeypatch.setattr(submit, "_program", lambda: (str(tell),))
    text = script_of(["--args-file", "sweep.txt", "train.py", "x"])
    environ = os.environ | {"SLURM_ARRAY_TASK_ID": task}
    done = subprocess.run(
        ["bash"], check=False, input=text, env=environ, capture_output=True, text=True, timeout=60
    )
    assert done.stdout == said, done


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--time", "2h", "train.py"], "--time 2h: expected minutes, hours:minutes:seconds"),
        (["--signal", "soon", "train.py"], "--signal soon: expected SIGNAL@SECONDS"),
        (["--gpus-per-node", "four", "train.py"], "--gpus-per-node four: expected a number"),
        (["--output", "%4j.out", "train.py"], "--output %4j.out: expected a name with %j %A"),
        (["--args-file", "none.txt", "train.py"], "--args-file none.txt: "),
        (["--args-file", "train.py", "train.py"], "--args-file train.py: no line in it"),
        (["tain.py"], "script tain.py does not exist"),
    ],
)
def test_what_is_refused(arguments, said):
    with pytest.raises(LaunchError) as caught:
        script_of(arguments)
    assert str(caught.value).startswith(said)
