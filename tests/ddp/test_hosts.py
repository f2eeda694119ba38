"""Hosts: network namespaces with shaped links, MPI over TCP. Skipped where they cannot be made."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from support.emulated_hosts import emulated_hosts, netns

SCRIPT = """
import json, sys
import numpy as np
import allgrad as ag
from allgrad import ddp, nn, optim
from allgrad.ddp.process_group import default_group

def train(**options):
    ag.manual_seed(0)
    net = nn.Sequential(nn.Linear(20, 300), nn.ReLU(), nn.Linear(300, 5))
    model = ddp.DistributedDataParallel(net, **options)
    optimizer = optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    for step in range(6):
        rng = np.random.default_rng(step)
        x = rng.standard_normal((24, 20)).astype(np.float32)
        y = rng.integers(0, 5, 24)
        mine = slice(rank * 24 // size, (rank + 1) * 24 // size)
        optimizer.zero_grad()
        for a, b in model.shards(ag.tensor(x[mine]), ag.tensor(y[mine])):
            nn.functional.cross_entropy(model(a), ag.tensor(b)).backward()
        optimizer.step()
    bits = b"".join(p._array.tobytes() for p in model.parameters())
    everywhere = [None] * size
    ddp.all_gather_object(everywhere, bits)
    assert all(b == bits for b in everywhere), "ranks differ"
    return [p._array for p in model.parameters()]

def sent():
    line = next(line for line in open("/proc/net/dev") if "eth0:" in line)
    return int(line.split(":")[1].split()[8])

def bytes_per_host(count_bytes):
    communicator = default_group().communicator
    array = communicator.allocate(count_bytes).view(np.float32)
    communicator.all_reduce(array)
    communicator.barrier()
    before = sent()
    for _ in range(4):
        array[...] = rank
        communicator.all_reduce(array)
        assert (array == size * (size - 1) / 2).all()
    for _ in range(2):  # what comes back from all says that what went to them has left
        communicator.barrier()
    return (sent() - before) / 4

ddp.init_process_group(timeout=60)
rank, size = ddp.get_rank(), ddp.get_world_size()
mean, shards = train(), train(logical_shards=8)
traffic = [0]
if size > 1:
    traffic = [None] * size
    ddp.all_gather_object(traffic, bytes_per_host(1 << 20))
if rank == 0:
    np.savez(sys.argv[1], *mean, **{f"tree{i}": a for i, a in enumerate(shards)})
    name = default_group().communicator.name
    print(json.dumps({"name": name, "size": size, "traffic": traffic}))
ddp.destroy_process_group()
"""
ENDLESS = """
import time
import allgrad as ag
from allgrad import ddp, nn, optim

ddp.init_process_group(timeout=3)
model = ddp.DistributedDataParallel(nn.Sequential(nn.Linear(20, 300), nn.Linear(300, 5)))
optimizer = optim.SGD(model.parameters(), lr=0.001)
step = 0
while True:
    optimizer.zero_grad()
    model(ag.ones(4, 20)).sum().backward()
    optimizer.step()
    time.sleep(0.01)
    step += 1
    if step == 10 and ddp.get_rank() == 0:
        print("trains", flush=True)
"""


Maker = Callable[..., Any]


@pytest.fixture
def make_hosts() -> Iterator[Maker]:
    """``make_hosts(count, rate)``; none of their namespaces is left afterwards."""
    pytest.importorskip("mpi4py")
    with ExitStack() as made:
        yield lambda count, rate=None: made.enter_context(emulated_hosts(count, rate))


def run(command: list[str], timeout_s: float = 100) -> subprocess.CompletedProcess[str]:
    """Run it in the environment of emulated hosts."""
    return subprocess.run(
        command,
        env=netns.environment(),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
    )


@pytest.fixture(scope="session")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """What one rank trains."""
    np = pytest.importorskip("numpy")
    folder = tmp_path_factory.mktemp("alone")
    (folder / "train.py").write_text(SCRIPT)
    done = run([sys.executable, str(folder / "train.py"), str(folder / "one.npz")])
    assert done.returncode == 0, done.stderr[-3000:]
    return np.load(folder / "one.npz")


@pytest.mark.mpi
@pytest.mark.parametrize(
    ("count", "ranks_per_host", "rate", "name"),
    [(2, 1, None, "mpi"), (2, 2, "1gbit", "hierarchical"), (4, 2, "1gbit", "hierarchical")],
)
def test_hosts_train_as_one_rank_does(
    make_hosts: Maker,
    alone: Any,
    tmp_path: Path,
    count: int,
    ranks_per_host: int,
    rate: str | None,
    name: str,
) -> None:
    np = pytest.importorskip("numpy")
    script = tmp_path / "train.py"
    script.write_text(SCRIPT)
    hosts = make_hosts(count, rate)
    argv = [sys.executable, str(script), str(tmp_path / "many.npz")]
    done = run(hosts.mpiexec(argv, ranks_per_host))
    assert done.returncode == 0, done.stderr[-3000:]
    told = json.loads(done.stdout)
    assert (told["name"], told["size"]) == (name, count * ranks_per_host)
    many = np.load(tmp_path / "many.npz")
    for key in alone.files:
        if key.startswith("tree"):
            assert alone[key].tobytes() == many[key].tobytes(), "reproducible mode"
        else:
            np.testing.assert_allclose(alone[key], many[key], rtol=2e-4, atol=1e-6)
    # one array per host travels, whatever the number of its ranks; TCP may send some of it again
    expected = 2 * (count - 1) / count * (1 << 20)
    for sent in told["traffic"]:
        assert 0.95 * expected < sent < 1.5 * expected


@pytest.mark.mpi
def test_a_host_whose_cable_is_out_ends_the_job_on_both_sides(
    make_hosts: Maker, tmp_path: Path
) -> None:
    script = tmp_path / "train.py"
    script.write_text(ENDLESS)
    hosts = make_hosts(2)
    job = subprocess.Popen(
        hosts.mpiexec([sys.executable, str(script)], 2),
        env=netns.environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        assert job.stdout is not None
        assert job.stdout.readline() == "trains\n"
        hosts.plug(1, connected=False)
        begin = time.monotonic()
        told, _ = job.communicate(timeout=60)
        assert job.returncode != 0
        assert time.monotonic() - begin > 2, "not before the time-out of init_process_group"
        assert "waited 3 s in all_reduce" in told
        assert "it is on another host and says nothing" in told
        assert "or the network between it and the others, is gone" in told
        # nobody can reach those beyond the cable: they must end by themselves
        assert _emptied(hosts, 1, patience_s=40), "ranks are left on the host that was cut off"
    finally:
        hosts.close()  # ends whatever runs there
        job.wait(20)


def _emptied(hosts: Any, host: int, patience_s: float) -> bool:
    deadline = time.monotonic() + patience_s
    while hosts.processes(host):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


def test_hosts_that_end_early_leave_nothing(make_hosts: Maker) -> None:
    hosts = make_hosts(2)
    sleeper = subprocess.Popen(hosts.command(1, ["sleep", "60"]))
    with pytest.raises(subprocess.TimeoutExpired):
        sleeper.wait(0.3)
    assert hosts.processes(1)
    hosts.close()
    assert sleeper.wait(20) != 0
