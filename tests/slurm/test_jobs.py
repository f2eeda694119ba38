"""Batch jobs on a real cluster: submitted, looked at, killed, cancelled, preempted, resumed."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from support import openmpi
from support.launch_scenarios import SCRIPT

ALLGRAD = (sys.executable, "-m", "allgrad.launch.cli")
DIGITS = Path(__file__).parents[2] / "examples" / "digits" / "train.py"
TRAIN = ("--synthetic", "--epochs", "2", "--fingerprint", "--no-progress", "--no-plot")
SHARDS = ("--logical-shards", "2")  # so that the bits do not depend on the ranks
TEMPLATES = Path(__file__).parents[2] / "slurm"

pytestmark = [pytest.mark.slurm, pytest.mark.mpi, pytest.mark.timeout(400)]


def submit(cluster, folder, *arguments, environ=None):
    """`allgrad sbatch` with arguments; the number of the job."""
    done = cluster.run(*ALLGRAD, "sbatch", *arguments, cwd=folder, environ=environ)
    assert done.returncode == 0, done
    return done.stdout.strip()


def text_of(job):
    return Path(job["StdOut"]).read_text()


def last_fingerprint(text):
    return re.findall(r"SHA-256 (\w+)", text)[-1]


def ends(cluster, number, state, code):
    """Wait for the end of a job; check it, and return its output."""
    job = cluster.finish(number)
    text = text_of(job)
    assert (job["JobState"], job["ExitCode"]) == (state, code), (job, text)
    return text


@pytest.fixture(scope="module")
def one_host(tmp_path_factory):
    """What the training gives as one process."""
    folder = tmp_path_factory.mktemp("one_host")
    environ = {k: v for k, v in os.environ.items() if not k.startswith(("SLURM_", "ALLGRAD_"))}
    done = subprocess.run(
        [sys.executable, str(DIGITS), *TRAIN, *SHARDS],
        cwd=folder,
        env=environ,
        capture_output=True,
        text=True,
        timeout=150,
        check=True,
    )
    return last_fingerprint(done.stdout)


@pytest.mark.parametrize("mpi", ["MPICH", "Open MPI"])
def test_digits_on_two_nodes(cluster, tmp_path, one_host, mpi):
    environ, options = {}, ()
    if mpi == "Open MPI":
        if not cluster.has_pmix:
            pytest.skip("srun has no PMIx here: it needs the package libpmix-dev")
        found = openmpi.need()
        # As on a cluster: the module of an MPI is loaded before the job is submitted.
        environ, options = found.environ, ("--mpi", "pmix")
    number = submit(
        cluster,
        tmp_path,
        *("--nodes", "2", *options, str(DIGITS), *TRAIN, *SHARDS),
        environ=environ,
    )
    text = ends(cluster, number, "COMPLETED", "0:0")
    assert last_fingerprint(text) == one_host, text
    assert "2 rank(s)" in text
    shown = cluster.run(*ALLGRAD, "status", number)
    first, checkpoint, output, *lines = shown.stdout.splitlines()
    assert first.startswith(f"job {number} digits: COMPLETED on 2 nodes (n[1-2]), 2 ranks"), shown
    assert re.fullmatch(r"  newest checkpoint: step \d+, \d+ s ago", checkpoint)
    assert output == f"  output: {tmp_path}/digits-{number}.out"
    assert "2 rank(s)" in lines[-1]


@pytest.fixture
def scenario(cluster, tmp_path):
    """Submit the script of the launchers' table, on two nodes with two ranks each."""
    (tmp_path / "script.py").write_text(SCRIPT)

    def start(what):
        places = ("--nodes", "2", "--ntasks-per-node", "2")
        return submit(cluster, tmp_path, *places, "script.py", what, str(tmp_path))

    return start


def processes(folder):
    """Processes whose command line has the folder."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            line = (entry / "cmdline").read_bytes().decode(errors="replace")
            state = (entry / "stat").read_text().rpartition(")")[2].split()[0]
        except (FileNotFoundError, ProcessLookupError):
            continue
        if f"{folder}\0" in line and state != "Z":
            found.append(line)
    return found


def leaves_nothing(folder):
    end = time.monotonic() + 10
    while processes(folder) and time.monotonic() < end:
        time.sleep(0.05)
    assert processes(folder) == []


def wait_for(*paths, seconds=150):
    end = time.monotonic() + seconds
    while not all(path.exists() for path in paths):
        assert time.monotonic() < end, f"{paths} did not appear"
        time.sleep(0.05)


def test_exception(cluster, tmp_path, scenario):
    text = ends(cluster, scenario("exception"), "FAILED", "1:0")
    assert "Traceback (most recent call last)" in text
    # The others may notice that it is gone before they are told.
    assert re.search(r"allgrad: rank 3 failed( first)?: ValueError: boom", text.splitlines()[-1])
    leaves_nothing(tmp_path)


def test_kill(cluster, tmp_path, scenario):
    number = scenario("kill")
    text = ends(cluster, number, "FAILED", "137:0")
    last = text.splitlines()[-1]
    assert re.match(r"allgrad: rank 3 failed( first)?: killed by SIGKILL", last), text
    shown = cluster.run(*ALLGRAD, "status", number).stdout
    assert "FAILED with exit code 137: SIGKILL on 2 nodes (n[1-2]), 4 ranks" in shown
    leaves_nothing(tmp_path)


def test_scancel(cluster, tmp_path, scenario):
    number = scenario("wait")
    wait_for(*(tmp_path / f"place{rank}" for rank in range(4)))
    shown = cluster.run(*ALLGRAD, "status").stdout  # all jobs
    assert f"job {number} script: RUNNING on 2 nodes (n[1-2]), 4 ranks" in shown
    assert cluster.run("scancel", number).returncode == 0
    assert cluster.finish(number)["JobState"] == "CANCELLED"
    leaves_nothing(tmp_path)


def test_interrupted(cluster, tmp_path):
    """Ctrl-C from afar: SIGINT to the batch shell, to the steps alone, and to both."""
    jobs = {}
    for whom in ("batch", "steps", "full"):
        folder = tmp_path / whom
        folder.mkdir()
        (folder / "script.py").write_text(SCRIPT)
        jobs[whom] = submit(cluster, folder, "--nodes", "2", "script.py", "wait", str(folder))
    for whom, number in jobs.items():
        wait_for(*(tmp_path / whom / f"place{rank}" for rank in range(2)))
        options = () if whom == "steps" else (f"--{whom}",)
        done = cluster.run("scancel", "--signal=INT", *options, number)
        assert done.returncode == 0, done
    for whom, number in jobs.items():
        text = ends(cluster, number, "FAILED", "130:0")
        last = text.splitlines()[-1]
        if whom == "steps":  # where `allgrad run` itself is not told, it sees ranks fail
            found = r"allgrad: rank \d failed( first)?: KeyboardInterrupt \(exit code 130\)"
            assert re.fullmatch(found, last), text
        else:
            assert last == "allgrad: ended by SIGINT (exit code 130)", text
        leaves_nothing(tmp_path / whom)


RESUMING = """
import hashlib, os, pathlib, sys, time
import allgrad as ag
from allgrad import ddp, nn, optim

folder, steps = pathlib.Path(sys.argv[1]), int(sys.argv[2])
ddp.init_process_group()
ag.manual_seed(0)
model = ddp.DistributedDataParallel(nn.Linear(4, 4))
optimizer = optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
manager = ddp.CheckpointManager(folder / "checkpoints")
found = manager.load_latest(model=model, optimizer=optimizer) if ddp.restart_count() else None
step = found.step if found else 0
print("run", ddp.restart_count(), "from step", step, flush=True)
with ddp.graceful_exit() as stop:
    while step < steps:
        optimizer.zero_grad()
        x = ag.ones(2, 4) * (1 + step % 5 + ddp.get_rank())
        model(x).square().mean().backward()
        optimizer.step()
        step += 1
        if found is None and "--slowly" in sys.argv:
            time.sleep(0.1)
            (folder / f"up{ddp.get_rank()}").write_text(str(step))
        if stop.requested():
            manager.save(step=step, model=model, optimizer=optimizer)
            print("left at", step, flush=True)
            stop.leave()
print("final", ddp.fingerprint(model, optimizer, check=True), flush=True)
"""


def test_preempted_and_resumed_in_the_same_job(cluster, tmp_path):
    (tmp_path / "resuming.py").write_text(RESUMING)
    steps = "300"
    sbatch = (*("--nodes", "2", "--requeue", "--signal", "USR1@60"), "--time", "10")
    script = ("resuming.py", str(tmp_path), steps)
    number = submit(cluster, tmp_path, *sbatch, *script, "--slowly")
    wait_for(tmp_path / "up0", tmp_path / "up1")
    urgent = cluster.run(
        *("sbatch", "--parsable", "-p", "urgent", "-N2", "--exclusive", "--wrap", "sleep 1"),
        cwd=tmp_path,
    ).stdout.strip()
    cluster.wait(number, lambda job: job["Restarts"] == "1", "put back into the queue")
    cluster.finish(urgent)
    text = ends(cluster, number, "COMPLETED", "0:0")
    left = set(re.findall(r"left at (\d+)", text))
    assert len(left) == 1, text
    assert f"allgrad: job {number} goes on later" in text or "SIGTERM" in text, text
    assert set(re.findall(r"run 1 from step (\d+)", text)) == left, text
    undisturbed = submit(cluster, tmp_path, "--nodes", "2", *script)
    plain = ends(cluster, undisturbed, "COMPLETED", "0:0")
    assert set(re.findall(r"final (\w+)", text)) == set(re.findall(r"final (\w+)", plain))
    shown = cluster.run(*ALLGRAD, "status", number).stdout
    assert "put back into the queue once" in shown
    leaves_nothing(tmp_path)


def test_wrong_mpi_is_an_error_with_the_fix(cluster, tmp_path, scenario):
    (tmp_path / "script.py").write_text(SCRIPT)
    done = cluster.run(
        *("srun", "--nodes=2", "--ntasks=2", "--mpi=none", sys.executable),
        *("script.py", "start", str(tmp_path)),
        cwd=tmp_path,
    )
    assert done.returncode != 0
    assert "--mpi=pmi2" in done.stderr, done


PLACE = """
import os
from allgrad import ddp
ddp.init_process_group()
print('rank', ddp.get_rank(), 'of', ddp.get_world_size(), 'local', ddp.get_local_rank(),
      'gpus', os.environ.get('CUDA_VISIBLE_DEVICES'), flush=True)
"""


def test_templates(cluster, tmp_path):
    (tmp_path / "place.py").write_text(PLACE)
    path = {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{cluster.environ['PATH']}"}
    ranks = {"one_node": 2, "several_nodes": 2, "gpu_nodes": 4, "preemptible": 2}
    jobs = {}
    for name, count in ranks.items():  # all at once
        places = "--ntasks=2" if name == "one_node" else f"--ntasks-per-node={count // 2}"
        options = ("sbatch", "--parsable", "--cpus-per-task=1", places)
        script = str(TEMPLATES / f"{name}.sbatch")
        done = cluster.run(*options, script, "place.py", cwd=tmp_path, environ=path)
        assert done.returncode == 0, done
        jobs[name] = done.stdout.strip()
    for name, count in ranks.items():
        text = ends(cluster, jobs[name], "COMPLETED", "0:0")
        gpus = "0,1" if name == "gpu_nodes" else "None"
        per_node = count if name == "one_node" else count // 2
        for rank in range(count):
            assert f"rank {rank} of {count} local {rank % per_node} gpus {gpus}" in text, name


def test_sweep(cluster, tmp_path):
    (tmp_path / "tell.py").write_text("import sys\nprint('told', *sys.argv[1:])\n")
    (tmp_path / "sweep.txt").write_text("--lr 0.1\n--lr 0.01\n")
    path = {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{cluster.environ['PATH']}"}
    template = (str(TEMPLATES / "sweep_array.sbatch"), "sweep.txt", "tell.py", "x")
    done = cluster.run(
        *("sbatch", "--parsable", "--ntasks=1", "--array=1-2", *template),
        cwd=tmp_path,
        environ=path,
    )
    assert done.returncode == 0, done
    cluster.finish(done.stdout.strip())
    written = [path.read_text() for path in sorted(tmp_path.glob("sweep-*.out"))]
    assert ["told x --lr 0.1" in written[0], "told x --lr 0.01" in written[1]] == [True, True]
    number = submit(cluster, tmp_path, "--args-file", "sweep.txt", "tell.py", "task", "{task}")
    cluster.finish(number)
    first = (tmp_path / f"tell-{number}_0.out").read_text()
    second = (tmp_path / f"tell-{number}_1.out").read_text()
    assert "told task 0 --lr 0.1" in first
    assert "told task 1 --lr 0.01" in second
    shown = cluster.run(*ALLGRAD, "status", number, "--lines", "0").stdout
    assert f"job {number}_0 tell: COMPLETED" in shown
    assert f"job {number}_1 tell: COMPLETED" in shown


def test_what_slurm_refuses_is_explained(cluster, tmp_path):
    (tmp_path / "x.py").write_text("")
    done = cluster.run(*ALLGRAD, "sbatch", "--partition", "fast", "x.py", cwd=tmp_path)
    assert done.returncode == 2
    assert "invalid partition" in done.stderr
    assert "--partition fast was asked for, there are: normal urgent" in done.stderr
    gone = cluster.run(*ALLGRAD, "status", "99999")
    assert gone.returncode == 2
    assert "job 99999: Invalid job id specified" in gone.stderr


def test_a_warning_without_requeue(cluster, tmp_path):
    """`scancel --signal` reaches the batch shell, which is `allgrad run`, which tells all ranks."""
    (tmp_path / "resuming.py").write_text(RESUMING)
    sbatch = ("--nodes", "2", "resuming.py", str(tmp_path), "100000", "--slowly")
    number = submit(cluster, tmp_path, *sbatch)
    wait_for(tmp_path / "up0", tmp_path / "up1")
    cluster.run("scancel", "--batch", "--signal=USR1", number)
    text = ends(cluster, number, "FAILED", f"{128 + signal.SIGUSR1}:0")
    assert "left in good order after SIGUSR1" in text
