"""Uneven batches and unequal shards over processes: shared memory, and plain MPI."""

from __future__ import annotations

import pytest

SCRIPT = """
import sys
import numpy as np
import allgrad as ag
from allgrad import ddp, nn, optim
from allgrad.utils.data import DataLoader, TensorDataset

ddp.init_process_group(shared_memory=sys.argv[1] == "shared", timeout=60)
rank = ddp.get_rank()

def build():
    ag.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 16), nn.Tanh(), nn.Linear(16, 3))

def data(count, seed):
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((count, 6)).astype(np.float32)
    return ag.tensor(x), ag.tensor(rng.integers(0, 3, count))

def loss_of(model, x, y):
    return nn.functional.cross_entropy(model(x), y)

def flat(model):
    return np.concatenate([p._array.ravel() for p in model.parameters()])

# shards of 5 and 3 give the gradient of the 8
model = ddp.DistributedDataParallel(build(), bucket_cap_mb=1e-4)
x, y = data(8, 1)
mine = slice(0, 5) if rank == 0 else slice(5, 8)
loss_of(model, x[mine], y[mine]).backward()
alone = build()
loss_of(alone, x, y).backward()
for p, q in zip(model.parameters(), alone.parameters()):
    np.testing.assert_allclose(p.grad._array, q.grad._array, rtol=2e-6, atol=2e-7)

# 10 samples on rank 0, 26 on rank 1, in batches of 8, for two epochs; then the program ends
optimizer = optim.Adam(model.parameters(), lr=0.01)
for epoch in range(2):
    for x, y in DataLoader(TensorDataset(*data(10 + 16 * rank, rank)), batch_size=8, shuffle=True):
        optimizer.zero_grad()
        loss_of(model, x, y).backward()
        optimizer.step()
with model.join():
    pass
everywhere = ddp.process_group.default_group().communicator.all_gather(flat(model))
assert (everywhere == everywhere[0]).all()
for x, y in DataLoader(TensorDataset(*data(8 + 8 * rank, 7)), batch_size=8):
    optimizer.zero_grad()
    loss_of(model, x, y).backward()
    optimizer.step()
print("done", flush=True)  # rank 0 serves rank 1's last step at the end of its program
"""


@pytest.mark.mpi
@pytest.mark.parametrize("way", ["shared", "plain"])
def test_unequal_shards_and_uneven_epochs(mpirun, tmp_path, way) -> None:  # type: ignore[no-untyped-def]
    script = tmp_path / "uneven.py"
    script.write_text(SCRIPT)
    run = mpirun(2, [str(script), way], timeout_s=120)
    assert run.returncode == 0, run.stderr
    assert run.stdout.count("done") == 2
    assert "fewer steps than the others made rank 0: 2." in run.stderr
    assert "Traceback" not in run.stderr
