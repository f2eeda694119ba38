"""Jobs that are started again: the rules, and real jobs whose ranks die."""

from __future__ import annotations

import os
import signal
import sys
import time

import pytest

from allgrad.ddp.events import read_events, restart_count, write_event
from allgrad.launch.outcome import Failure, Outcome
from allgrad.launch.restart import Attempt, GiveUp, Restart, RestartPolicy

KILLED = Failure("rank 1", 137, "killed by SIGKILL, which the kernel sends when ...", rank=1)


def error(line=3, text="ValueError: boom", who="rank 0"):
    return Failure(who, 1, text, f'  File "train.py", line {line}, in main\n    x', rank=0)


def failed(failure, saved=None, nproc=2, started=None):
    started = nproc if started is None else started
    return Attempt(Outcome(failure.code, (failure,)), nproc, started, saved)


def decisions(policy, *attempts):
    """For each attempt: pause and number of ranks, or the reason not to go on."""
    found = []
    for attempt in attempts:
        decision = policy.after(attempt)
        if isinstance(decision, GiveUp):
            found.append(decision.line)
        else:
            found.append((decision.pause_s, decision.nproc))
    return found


# ---- the rules -------------------------------------------------------------------------------


def test_restarts_are_counted_since_the_last_checkpoint():
    policy = RestartPolicy(2, max_restarts=3, min_ranks=2)
    assert decisions(policy, *[failed(KILLED)] * 3) == [(0, 2), (1, 2), (2, 2)]
    assert decisions(policy, *[failed(KILLED, saved=10)] * 5) == [(0, 2)] * 5
    assert decisions(policy, *[failed(KILLED)] * 3) == [
        (1, 2),
        (2, 2),
        "not started again: --max-restarts 3 without a new checkpoint",
    ]
    assert policy.summary() == "started again 10 times: rank 1 killed by SIGKILL (10 times)"


def test_no_restarts_unless_asked():
    policy = RestartPolicy(2, max_restarts=0, min_ranks=2)
    assert decisions(policy, failed(KILLED)) == [""]
    assert policy.summary() == ""


LOST = Failure("host b", 255, "does not answer any more; it had ranks 2, 3", rank=2)


@pytest.mark.parametrize(
    ("room", "min_ranks", "found"),
    [
        (2, 1, (0, 2)),  # the other host's slots
        (6, 4, (0, 4)),  # a host that was not needed takes its place
        (2, 3, "not started again: the hosts that are left take 2 ranks, --min-ranks is 3"),
        (0, 1, "not started again: the hosts that are left take 0 ranks, --min-ranks is 1"),
    ],
)
def test_a_host_that_is_gone(room, min_ranks, found):
    policy = RestartPolicy(4, max_restarts=1, min_ranks=min_ranks)
    attempt = Attempt(Outcome(255, (LOST,)), 4, 4, None, room=room)
    assert decisions(policy, attempt) == [found]


def test_the_pause_has_an_upper_limit():
    policy = RestartPolicy(2, max_restarts=100, min_ranks=2)
    pauses = [pause for pause, _ in decisions(policy, *[failed(KILLED)] * 9)]
    assert pauses == [0, 1, 2, 4, 8, 16, 30, 30, 30]


def test_the_same_error_twice_is_not_tried_a_third_time():
    policy = RestartPolicy(2, max_restarts=9, min_ranks=2)
    told = "not started again: twice in a row, with no new checkpoint between: ValueError: boom"
    found = decisions(policy, failed(error()), failed(error(who="rank 1")))
    assert found == [(0, 2), f"{told} (train.py, line 3)"]


@pytest.mark.parametrize(
    "second",
    [
        failed(error(line=4)),
        failed(error(text="KeyError: 1")),
        failed(error(), saved=5),
        failed(KILLED),
        failed(Failure("rank 0", 3, "sys.exit(3)", rank=0)),
    ],
)
def test_another_error_is_tried_again(second):
    policy = RestartPolicy(2, max_restarts=9, min_ranks=2)
    assert isinstance(policy.after(failed(error())), Restart)
    assert isinstance(policy.after(second), Restart)


def test_fewer_ranks_after_two_deaths_without_progress():
    policy = RestartPolicy(4, max_restarts=9, min_ranks=2)
    found = decisions(policy, *[failed(KILLED, nproc=n) for n in (4, 4, 3, 3, 2, 2)])
    assert [nproc for _, nproc in found] == [4, 3, 3, 2, 2, 2]


def test_fewer_ranks_when_they_cannot_be_started():
    policy = RestartPolicy(3, max_restarts=9, min_ranks=1)
    lost = Failure("mpiexec", 1, "ended without starting a rank")
    found = decisions(policy, failed(lost, nproc=3, started=1), failed(lost, nproc=3, started=0))
    assert found == [(0, 3), (1, 2)]


def test_all_ranks_stay_where_progress_is_made_or_nobody_is_killed():
    policy = RestartPolicy(4, max_restarts=9, min_ranks=1)
    attempts = [failed(KILLED, 1, 4), failed(KILLED, 2, 4), failed(error(1), None, 4)]
    assert decisions(policy, *attempts, failed(KILLED, None, 4))[-1] == (2, 4)


@pytest.mark.parametrize(
    "attempt",
    [
        Attempt(Outcome(0), 2, 2),
        Attempt(Outcome(143, (), signal.SIGTERM), 2, 2),
        Attempt(Outcome(1, (error(),), signal.SIGTERM), 2, 2),
        Attempt(Outcome(124, (Failure("the job", 124, "time limit"),)), 2, 2, timed_out=True),
    ],
)
def test_what_was_asked_to_end_is_not_started_again(attempt):
    assert RestartPolicy(2, 9, 1).after(attempt) == GiveUp()


def test_events(tmp_path):
    path = str(tmp_path / "events")
    assert read_events(path) == ([], 0)
    write_event(path, "saved", step=3)
    events, end = read_events(path)
    assert [(e["event"], e["step"]) for e in events] == [("saved", 3)]
    with open(path, "a") as file:
        file.write('{"event": "sa')  # not all of a line yet
    assert read_events(path, end) == ([], end)


def test_restart_count():
    assert restart_count({"TORCHELASTIC_RESTART_COUNT": "3"}) == 3
    assert restart_count({"SLURM_RESTART_COUNT": "1", "ALLGRAD_RESTART_COUNT": "2"}) == 2


# ---- real jobs -------------------------------------------------------------------------------

# Counts to 12 on two ranks and saves every second step; `fault` runs on every rank.
TRAINING = """
import os, sys, time
import allgrad as ag
from allgrad import ddp, nn
ddp.init_process_group()
rank, run = ddp.get_rank(), ddp.restart_count()
model = nn.Linear(2, 2)
model.weight.data.fill_(0)
manager = ddp.CheckpointManager("checkpoints")
found = manager.load_latest(model=model)
step = found.step if found else 0
if rank == 0:
    print("from", step, "run", run, "ranks", ddp.get_world_size(), flush=True)
while step < 12:
    x = ag.ones(1)
    ddp.all_reduce(x)
    model.weight.data.add_(1)
    step += 1
    if step % 2 == 0:
        manager.save(step=step, model=model)
    {fault}
if rank == 0:
    print("weight", model.weight[0, 0].item(), flush=True)
"""


def started(job):
    """Of each run: the step it began with, and its number of ranks."""
    words = [line.split() for line in job.out.splitlines() if "from" in line]
    return [(int(line[-5]), int(line[-1])) for line in words]


@pytest.mark.mpi
@pytest.mark.usefixtures("mpiexec")
class TestJobs:
    def test_a_killed_rank(self, scene, leaves_nothing):
        fault = "if step == 5 + 2 * run and run < 2 and rank == run: os.kill(os.getpid(), 9)"
        script = scene.script(TRAINING.format(fault=fault))
        job = scene.allgrad("-n", "2", "--max-restarts", "1", script)
        assert job.code == 0, job
        assert started(job) == [(0, 2), (4, 2), (6, 2)]
        assert "[0] weight 12.0" in job.out
        lines = [line for line in job.err.splitlines() if line.startswith("allgrad: restart")]
        assert lines[0] == (
            "allgrad: restart 1 (1 of 1 without a new checkpoint; "
            "the last checkpoint is that of step 4)"
        )
        assert job.last == (
            "allgrad: started again 2 times: rank 0 killed by SIGKILL; rank 1 killed by SIGKILL"
        )
        leaves_nothing()

    def test_an_error_that_comes_again(self, scene, leaves_nothing):
        fault = "if step == 5: raise ValueError('boom')"
        script = scene.script(TRAINING.format(fault=fault))
        job = scene.allgrad("-n", "2", "--max-restarts", "9", script)
        assert job.code == 1
        assert started(job) == [(0, 2), (4, 2)]
        *_, summary, why, last = job.err.splitlines()
        assert "started again once: rank" in summary
        assert why.startswith("allgrad: not started again: twice in a row")
        assert last.startswith("allgrad: rank")
        assert last.endswith("ValueError: boom (exit code 1)")
        leaves_nothing()

    def test_fewer_ranks(self, scene, leaves_nothing):
        fault = "if step == 1 and rank == 1: os.kill(os.getpid(), 9)"
        script = scene.script(TRAINING.format(fault=fault))
        job = scene.allgrad("-n", "2", "--max-restarts", "2", "--min-ranks", "1", script)
        assert job.code == 0, job
        assert started(job) == [(0, 2), (0, 2), (0, 1)]
        assert "restart 2, with 1 rank instead of 2 in 1 s (2 of 2" in job.err
        leaves_nothing()

    def test_a_killed_launcher_leaves_nothing_and_a_new_one_goes_on(self, scene, leaves_nothing):
        fault = "if step == 5: open(f'up{rank}', 'w').close(); time.sleep(0 if found else 50)"
        script = scene.script(TRAINING.format(fault=fault))
        command = (sys.executable, "-m", "allgrad.launch.cli", "run", "-n", "2")
        process = scene.start(*command, "--max-restarts", "9", script)
        scene.wait_for("up0", "up1", process=process)
        os.kill(process.pid, signal.SIGKILL)
        scene.finish(process)
        leaves_nothing()
        job = scene.allgrad("-n", "2", script)
        assert (job.code, started(job)) == (0, [(4, 2)]), job

    def test_a_signal_ends_the_job_for_good(self, scene, leaves_nothing):
        script = scene.script("import time\nopen('up', 'w').close()\ntime.sleep(50)")
        command = (sys.executable, "-m", "allgrad.launch.cli", "run", "--max-restarts", "9")
        process = scene.start(*command, script)
        scene.wait_for("up", process=process)
        os.kill(process.pid, signal.SIGTERM)
        job = scene.finish(process)
        assert (job.code, job.last) == (143, "allgrad: ended by SIGTERM (exit code 143)")
        leaves_nothing()

    def test_a_signal_in_the_pause_before_a_restart(self, scene):
        script = scene.script("import os; open('up', 'a').write('x'); os.kill(os.getpid(), 9)")
        command = (sys.executable, "-m", "allgrad.launch.cli", "run", "--max-restarts", "9")
        process = scene.start(*command, script)
        end = time.monotonic() + 30
        while not (scene.folder / "up").exists() or (scene.folder / "up").read_text() != "xxxx":
            assert time.monotonic() < end
            time.sleep(0.02)
        time.sleep(0.5)  # the pause is 4 s now
        os.kill(process.pid, signal.SIGTERM)
        job = scene.finish(process)
        assert (job.code, job.last) == (143, "allgrad: ended by SIGTERM (exit code 143)")

    def test_the_time_limit_is_that_of_all_runs(self, scene):
        # The first run dies at once; the second one would last long.
        script = scene.script(
            "import os, time\nfrom allgrad import ddp\n"
            "time.sleep(50) if ddp.restart_count() else os.kill(os.getpid(), 9)"
        )
        begin = time.monotonic()
        job = scene.allgrad("--timeout", "4", "--max-restarts", "99", script)
        assert (job.code, time.monotonic() - begin < 30) == (124, True), job
        assert "allgrad: started again once" in job.err
        assert job.last == "allgrad: the job failed: time limit of 4 s reached (exit code 124)"

    def test_logs_hold_all_runs(self, scene):
        script = scene.script(
            "from allgrad import ddp\nprint('run', ddp.restart_count())\n"
            "raise SystemExit(0 if ddp.restart_count() else 3)"
        )
        job = scene.allgrad("--log-dir", "logs", "--max-restarts", "1", script)
        assert job.code == 0, job
        assert (scene.folder / "logs" / "rank-0.log").read_text() == "run 0\nrun 1\n"


def test_more_ranks_at_least_than_at_most(scene):
    script = scene.script("")
    job = scene.allgrad("-n", "1", "--max-restarts", "1", "--min-ranks", "2", script)
    assert (job.code, job.last) == (2, "allgrad run: --min-ranks 2 is more than the 1 ranks of -n")
