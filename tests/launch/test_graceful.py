"""Real jobs that are asked to leave: they save at one step, leave, and go on from there."""

from __future__ import annotations

import os
import signal
import sys

import pytest

from allgrad import ddp

pytestmark = [pytest.mark.mpi, pytest.mark.usefixtures("mpiexec")]

TRAINING = """
import os, time
import allgrad as ag
from allgrad import ddp, nn
ddp.init_process_group()
rank = ddp.get_rank()
model = ddp.DistributedDataParallel(nn.Linear(2, 2))
manager = ddp.CheckpointManager("checkpoints")
found = manager.load_latest(model=model)
step = found.step if found else 0
print("from", step, flush=True)
with ddp.graceful_exit() as stop:
    while step < (5000 if found is None else step + 3):
        model.zero_grad()
        model(ag.ones(1, 2)).sum().backward()
        step += 1
        if step == 1:
            with open(f"part{rank}", "w") as file:
                file.write(str(os.getpid()))
            os.replace(f"part{rank}", f"up{rank}")
        time.sleep(0.01)
        if found or stop.requested():
            manager.save(step=step, model=model)
            os.write(1, f"left at {step}\\n".encode())
            break
print("finished", flush=True)
"""


def ask(scene, command, number, rank=None):
    process = scene.start(*command, scene.script(TRAINING))
    scene.wait_for("up0", "up1", process=process)
    to = process.pid if rank is None else int((scene.folder / f"up{rank}").read_text())
    os.kill(to, number)
    return scene.finish(process)


def words(job, what):
    """What ranks said after `what`."""
    return [line.partition(what)[2].strip() for line in job.out.splitlines() if what in line]


@pytest.mark.parametrize(
    ("number", "rank", "code", "name"),
    [
        (signal.SIGTERM, None, 143, "SIGTERM"),
        (signal.SIGUSR1, None, 138, "SIGUSR1"),
        (signal.SIGUSR1, 1, 138, "SIGUSR1"),
    ],
    ids=["launcher TERM", "launcher USR1", "one rank USR1"],
)
def test_allgrad_run(scene, leaves_nothing, number, rank, code, name):
    command = (sys.executable, "-m", "allgrad.launch.cli", "run", "-n", "2", "--max-restarts", "3")
    job = ask(scene, command, number, rank)
    last = f"allgrad: left in good order after {name} (exit code {code})"
    assert (job.code, job.last) == (code, last), job
    at = words(job, "left at")
    assert len(at) == 2
    assert len(set(at)) == 1
    assert "finished" not in job.out
    leaves_nothing()
    if rank is None:
        return
    resumed = scene.allgrad("-n", "2", str(scene.folder / "script.py"))
    assert resumed.code == 0, resumed
    assert words(resumed, "from") == at


def test_plain_mpiexec(scene, mpiexec):
    job = ask(scene, (mpiexec, "-n", "2", sys.executable), signal.SIGUSR1, rank=0)
    assert job.code in (138, 138 - 128), job
    assert len(set(words(job, "left at"))) == 1
    assert len(words(job, "left at")) == 2


def test_names():
    assert issubclass(ddp.GracefulExit, SystemExit)
