"""Mixed precision on a GPU: which types functions get, and a training run that nobody waits for."""

from __future__ import annotations

import numpy as np
import pytest
from support.emulated_gpu.state import counts

import allgrad as ag
from allgrad import amp, nn, optim


def test_types_and_questions(gpu):
    layer = nn.Linear(8, 8, device="cuda")
    x = ag.ones(8, 8, device="cuda")
    assert amp.is_autocast_available("cuda")
    assert not amp.is_autocast_enabled("cuda")
    for dtype, expected in ((None, ag.float16), (ag.bfloat16, ag.bfloat16)):
        with ag.autocast("cuda", dtype=dtype):
            assert amp.is_autocast_enabled("cuda")
            assert not amp.is_autocast_enabled("cpu")
            assert amp.get_autocast_dtype("cuda") is expected
            assert layer(x).dtype is expected
    assert layer(x).dtype is ag.float32


@pytest.mark.parametrize("dtype", [ag.float16, ag.bfloat16])
def test_a_run_follows_float32(gpu, dtype):
    ag.manual_seed(0)
    plain = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 8)).cuda()
    mixed = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 8)).cuda()
    mixed.load_state_dict(plain.state_dict())
    x, target = ag.randn(16, 8).cuda(), ag.randint(0, 8, (16,)).cuda()
    scaler, losses = amp.GradScaler("cuda", init_scale=256.0), []
    optimizers = [optim.SGD(m.parameters(), lr=0.2, momentum=0.9) for m in (plain, mixed)]
    for step in range(5):
        before = counts["synchronisations"]
        with ag.autocast("cuda", dtype=dtype):
            loss = nn.functional.cross_entropy(mixed(x), target)
        scaler.scale(loss).backward()
        scaler.step(optimizers[1])
        scaler.update()
        assert counts["synchronisations"] == before or step == 0
        exact = nn.functional.cross_entropy(plain(x), target)
        exact.backward()
        optimizers[0].step()
        losses.append((loss.detach(), exact.detach()))
        for optimizer in optimizers:
            optimizer.zero_grad()
    got, want = (np.array([pair[i].item() for pair in losses]) for i in (0, 1))
    np.testing.assert_allclose(got, want, rtol=3e-2)
    assert got[-1] < got[0]
    assert scaler.get_scale() == 256.0
