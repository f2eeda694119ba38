"""`allgrad run` over two emulated hosts: every way to end, and nothing is left there."""

from __future__ import annotations

import json
import os
import signal
import sys
import time

import pytest
from support import launch_scenarios, openmpi
from support.emulated_hosts import emulated_hosts, netns, processes_on, remote_shell
from support.launch_scenarios import Launch, Running

RUN = (sys.executable, "-m", "allgrad.launch.cli", "run")
# Goes on from its newest checkpoint, and says with how many ranks; only the first run waits.
RESUMES = """
import os, pathlib, sys, time
import allgrad as ag
from allgrad import ddp
folder = pathlib.Path(sys.argv[1])
ddp.init_process_group(timeout=90)
rank, size = ddp.get_rank(), ddp.get_world_size()
x = ag.ones(1000)
ddp.all_reduce(x)
(folder / f"up{os.environ['ALLGRAD_RESTART_COUNT']}-{rank}").touch()
while ddp.restart_count() == 0:
    ddp.all_reduce(x)
    time.sleep(0.01)
print("went on with", size, "on", ddp.get_node_count(), flush=True)
ddp.destroy_process_group()
"""


@pytest.fixture(scope="module")
def hosts():
    pytest.importorskip("mpi4py")
    with emulated_hosts(2) as made:
        yield made


@pytest.fixture(autouse=True)
def _nothing_is_left(hosts):
    yield
    end = time.monotonic() + 20
    while any(processes_on(hosts, host) for host in (0, 1)) and time.monotonic() < end:
        time.sleep(0.05)
    assert [processes_on(hosts, host) for host in (0, 1)] == [[], []]


def launch(hosts, *options, slots=2, environ=None):
    """`allgrad run` on host 0, with ranks on both."""
    named = ("-H", f"node0:{slots},node1:{slots}", "--remote-shell", remote_shell(hosts))
    argv = hosts.command(0, [*RUN, *named, *options])
    return Launch(argv, netns.environment(environ), nproc=2 * slots, nodes=2)


pytestmark = pytest.mark.mpi


def test_start(hosts, tmp_path):
    launch_scenarios.start(launch(hosts), tmp_path)


def test_start_openmpi(hosts, tmp_path):
    mpi = openmpi.need()
    environ = mpi.environ | {
        "PRTE_MCA_prte_if_include": "eth0",
        "OMPI_MCA_pml": "ob1",
        "OMPI_MCA_btl": "self,sm,tcp",
        "OMPI_MCA_btl_tcp_if_include": "eth0",
    }
    job = launch(hosts, "--mpiexec", mpi.mpiexec, slots=1, environ=environ)
    launch_scenarios.start(job, tmp_path)


def test_exception(hosts, tmp_path):
    with Running(launch(hosts, slots=1), "exception", tmp_path) as job:
        ended = job.end()
        assert ended.code == 1, ended
        *_, trace_end, last = ended.err.splitlines()
        assert trace_end == "[1] ValueError: boom"
        assert last.replace(" first", "") == (
            "allgrad: rank 1 failed: ValueError: boom (exit code 1)"
        )
        job.leaves_nothing()


def test_a_killed_rank(hosts, tmp_path):
    with Running(launch(hosts, slots=1), "kill", tmp_path) as job:
        ended = job.end()
        assert ended.code == 137, ended
        assert "rank 1 failed" in ended.err.splitlines()[-1]
        assert "killed by SIGKILL" in ended.err.splitlines()[-1]
        job.leaves_nothing()


def test_interrupted(hosts, tmp_path):
    launch_scenarios.interrupted(launch(hosts, slots=1), tmp_path)


def test_a_killed_supervisor_takes_the_other_host_along(hosts, tmp_path):
    with Running(launch(hosts, slots=1), "wait", tmp_path) as job:
        job.wait_for_places()
        os.kill(job.process.pid, signal.SIGKILL)
        assert job.end().code == -signal.SIGKILL
        job.leaves_nothing()


def test_a_host_that_disappears_ends_the_job(hosts, tmp_path):
    job = launch(hosts, slots=1, environ={"ALLGRAD_HOST_TIMEOUT": "2"})
    with Running(job, "wait", tmp_path) as running:
        running.wait_for_places()
        hosts.plug(1, connected=False)
        begin = time.monotonic()
        try:
            ended = running.end()
            assert time.monotonic() - begin < 40
            assert ended.code == 255, ended
            assert (
                "allgrad: host node1 failed: does not answer any more; it had rank 1"
                in ended.err.replace(" first", "")
            )
            running.leaves_nothing()  # also the host that is alone now has ended its ranks
        finally:
            hosts.plug(1, connected=True)


def test_a_job_goes_on_without_the_host_that_disappears(hosts, scene):
    path = scene.script(RESUMES)
    argv = launch(hosts, "--max-restarts", "1", "--min-ranks", "1", slots=1).argv
    environ = netns.environment({"ALLGRAD_HOST_TIMEOUT": "2"})
    process = scene.start(*argv, path, str(scene.folder), environ=environ)
    scene.wait_for(*(f"up0-{rank}" for rank in range(2)), process=process)
    hosts.plug(1, connected=False)
    try:
        job = scene.finish(process)
    finally:
        hosts.plug(1, connected=True)
    assert job.code == 0, job
    assert "restart 1, with 1 rank instead of 2" in job.err, job.err
    assert job.out == "[0] went on with 1 on 1\n"


def test_events_come_from_the_other_host(hosts, scene):
    text = "from allgrad import ddp\nfrom allgrad.ddp.events import announce\n"
    text += "ddp.init_process_group()\nannounce('hello', words='x' * 300)"
    events = scene.folder / "events"
    environ = netns.environment({"ALLGRAD_EVENTS": str(events)})
    argv = launch(hosts, slots=1).argv
    job = scene.finish(scene.start(*argv, scene.script(text), environ=environ))
    assert job.code == 0, job
    told = [json.loads(line) for line in events.read_text().splitlines()]
    kinds = [event["event"] for event in told]
    assert sorted(k for k in kinds if k != "joined") == [
        "end",
        "hello",
        "hello",
        "rank",
        "rank",
        "start",
    ]
    assert job.err == ""  # though the process group was not destroyed


def test_ranks_of_torchrun_meet_over_the_network(hosts, scene):
    path = scene.script(
        "from allgrad import ddp\nddp.init_process_group(timeout=60)\nimport allgrad as ag\n"
        "x = ag.ones(3)\nddp.all_reduce(x)\n"
        "print(ddp.get_rank(), ddp.get_node_rank(), ddp.get_node_count(), x.tolist())\n"
    )
    job = {"WORLD_SIZE": "2", "MASTER_ADDR": "node0", "MASTER_PORT": "29500", "LOCAL_RANK": "0"}
    ranks = [
        scene.start(
            *hosts.command(rank, [sys.executable, path]),
            environ=netns.environment(job | {"RANK": str(rank)}),
        )
        for rank in (1, 0)
    ]
    ended = [scene.finish(rank) for rank in ranks]
    assert [job.code for job in ended] == [0, 0], ended
    assert [job.out for job in ended] == ["1 1 2 [2.0, 2.0, 2.0]\n", "0 0 2 [2.0, 2.0, 2.0]\n"]


def test_a_host_that_nobody_knows(hosts, scene):
    argv = hosts.command(0, [*RUN, "-H", "node0:1,nodeX:1", scene.script("")])
    job = scene.finish(scene.start(*argv, environ=netns.environment()))
    assert job.code == 2
    assert "host nodeX: " in job.err
    assert "check its name" in job.err
