"""DistributedDataParallel on processes: ranks bit-identical on every transport, no leftovers."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from typing import Any

import pytest

MPI_SCRIPT = """
    import sys
    import numpy as np
    import allgrad as ag
    from allgrad import ddp, nn

    ddp.init_process_group(shared_memory=None if sys.argv[-1] == "auto" else False, timeout=20)
    rank, size = ddp.get_rank(), ddp.get_world_size()
    def build(seed):
        ag.manual_seed(seed)
        return nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(),
                             nn.Linear(144, 64), nn.ReLU(), nn.Linear(64, 5))
    model = ddp.DistributedDataParallel(build(rank), bucket_cap_mb=0.01)
    optim = ag.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    for step in range(20):
        rng = np.random.default_rng(step)
        x = rng.standard_normal((8 * size, 1, 8, 8)).astype(np.float32)[rank * 8:rank * 8 + 8]
        y = rng.integers(0, 5, 8 * size)[rank * 8:rank * 8 + 8]
        optim.zero_grad()
        nn.functional.cross_entropy(model(ag.tensor(x)), ag.tensor(y)).backward()
        optim.step()
    bits = b"".join(t._array.tobytes() for t in [*model.parameters(), *model.buffers()])
    everywhere = [None] * size
    ddp.all_gather_object(everywhere, bits)
    assert all(b == bits for b in everywhere), "ranks differ"
    assert model.communication_report()["steps"] == 20
    if rank == 0:
        print(ddp.get_backend(), float(np.abs(model.module[6].weight._array).sum()))
    if sys.argv[-1] == "auto":
        ddp.destroy_process_group()  # the other run leaves it to the end of the program
"""


@pytest.mark.mpi
def test_ranks_stay_equal_under_mpi(
    mpirun: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Any, shared_files: Any
) -> None:
    script = tmp_path / "train.py"
    script.write_text("\n".join(line[4:] for line in MPI_SCRIPT.splitlines()))
    sums = {}
    for ranks, way in ((2, "auto"), (2, "mpi"), (4, "auto")):
        done = mpirun(ranks, [str(script), way])
        assert done.returncode == 0, done.stderr[-3000:]
        backend, number = done.stdout.split()
        assert backend == ("shm" if way == "auto" else "mpi")
        sums[ranks, way] = float(number)
    assert sums[2, "auto"] == pytest.approx(sums[2, "mpi"], rel=1e-5)
    assert not shared_files()
