"""DistributedDataParallel on GPUs: the same numbers as on the CPU, and no wait of the host."""

from __future__ import annotations

import numpy as np
import pytest

import allgrad as ag
from allgrad import ddp, nn, optim
from allgrad.ddp import DistributedDataParallel


def net():
    ag.manual_seed(3)
    return nn.Sequential(nn.Linear(6, 5), nn.BatchNorm1d(5), nn.Tanh(), nn.Linear(5, 3))


def batch(rank, size):
    rng = np.random.default_rng(7)
    x, y = rng.normal(size=(8, 6)).astype(np.float32), rng.normal(size=(8, 3)).astype(np.float32)
    own = slice(8 * rank // size, 8 * (rank + 1) // size)
    return x[own], y[own]


def train(device, steps=3, size=1, rank=0, **options):
    model = net().to(device)
    optimizer = optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    wrapped = DistributedDataParallel(model, **options)
    for _ in range(steps):
        x, y = (ag.from_numpy(a).to(device) for a in batch(rank, size))
        optimizer.zero_grad()
        out = wrapped(x)
        out.backward((out.detach() - y) / len(x))
        optimizer.step()
    return {name: t.detach().cpu().numpy() for name, t in model.state_dict().items()}


def ranks(size, backend, device, **options):
    def main():
        ddp.init_process_group(backend)
        state = train(device, size=size, rank=ddp.get_rank(), **options)
        ddp.destroy_process_group()
        return state

    return ddp.run_ranks(main, size)


@pytest.mark.parametrize("size", [2, 4])
@pytest.mark.parametrize("backend", ["nccl", "gloo"])
def test_as_on_the_cpu(gpu, size, backend):
    expected = ranks(size, None, "cpu")
    for state in ranks(size, backend, "cuda"):
        for name, value in expected[0].items():
            np.testing.assert_allclose(state[name], value, rtol=2e-5, atol=1e-6, err_msg=name)
