"""Two hosts: network namespaces, one rank each, MPI over TCP. Skipped where they cannot be made."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
SCRIPT = """
import sys
import numpy as np
import allgrad as ag
from allgrad import ddp, nn, optim

ddp.init_process_group(timeout=60)
rank, size = ddp.get_rank(), ddp.get_world_size()
ag.manual_seed(0)
model = ddp.DistributedDataParallel(nn.Sequential(nn.Linear(20, 300), nn.ReLU(), nn.Linear(300, 5)))
optimizer = optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
for step in range(10):
    rng = np.random.default_rng(step)
    x = rng.standard_normal((24, 20)).astype(np.float32)
    y = rng.integers(0, 5, 24)
    mine = slice(rank * 24 // size, (rank + 1) * 24 // size)
    optimizer.zero_grad()
    nn.functional.cross_entropy(model(ag.tensor(x[mine])), ag.tensor(y[mine])).backward()
    optimizer.step()
bits = b"".join(p._array.tobytes() for p in model.parameters())
everywhere = [None] * size
ddp.all_gather_object(everywhere, bits)
assert all(b == bits for b in everywhere), "ranks differ"
if rank == 0:
    np.savez(sys.argv[1], *[p._array for p in model.parameters()])
    print(ddp.get_backend(), size)
ddp.destroy_process_group()
"""


def load_netns() -> Any:
    """The module of the benchmarks that makes hosts."""
    spec = importlib.util.spec_from_file_location("netns", BENCHMARKS / "netns.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


netns = load_netns()


@pytest.fixture
def hosts() -> Iterator[Any]:
    """Two hosts; none of their namespaces is left afterwards."""
    pytest.importorskip("mpi4py")
    try:
        with netns.Hosts(2) as made:
            prefix = made._prefix
            yield made
    except netns.HostsError as error:
        pytest.skip(f"no network namespaces here: {error}")
    left = subprocess.run(["ip", "netns", "list"], capture_output=True, text=True, check=True)
    assert prefix not in left.stdout


@pytest.mark.mpi
def test_two_hosts_train_as_one_rank_does(hosts: Any, tmp_path: Path) -> None:
    np = pytest.importorskip("numpy")
    script = tmp_path / "train.py"
    script.write_text(SCRIPT)
    argv = [sys.executable, str(script)]
    environment = netns.environment()
    done = subprocess.run(
        hosts.mpiexec([*argv, str(tmp_path / "two.npz")]),
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.split() == ["mpi", "2"]
    alone = [*argv, str(tmp_path / "one.npz")]
    subprocess.run(alone, env=environment, check=True, capture_output=True, timeout=100)
    one, two = np.load(tmp_path / "one.npz"), np.load(tmp_path / "two.npz")
    for name in one.files:
        np.testing.assert_allclose(one[name], two[name], rtol=2e-4, atol=1e-6)


def test_hosts_that_end_early_leave_nothing(hosts: Any) -> None:
    sleeper = subprocess.Popen(hosts.command(1, ["sleep", "60"]))
    with pytest.raises(subprocess.TimeoutExpired):
        sleeper.wait(0.3)
    hosts.close()
    assert sleeper.wait(20) != 0
