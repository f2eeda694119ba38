"""Hooks together with unequal batches, no_sync, join and half precision."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import allgrad as ag
from allgrad import ddp, nn, optim
from allgrad.ddp import run_ranks
from allgrad.ddp.comm_hooks import default_hooks
from allgrad.ddp.comm_hooks import powerSGD_hook as power

BATCHES = (5, 2, 3)  # samples of each rank
POWER = power.powerSGD_hook
NARROW_POWER = default_hooks.fp16_compress_wrapper(power.powerSGD_hook)


def network() -> nn.Module:
    ag.manual_seed(0)
    return nn.Sequential(nn.Linear(24, 32), nn.Tanh(), nn.Linear(32, 2))


def batch(rank: int, step: int = 0) -> ag.Tensor:
    rng = np.random.default_rng([rank, step])
    return ag.tensor(rng.standard_normal((BATCHES[rank], 24)).astype(np.float32))


def state_for(hook: Any) -> Any:
    narrow = hook in (POWER, NARROW_POWER)
    return power.PowerSGDState(None, 1, start_powerSGD_iter=2) if narrow else None


@pytest.mark.parametrize(
    ("hook", "tolerance"),
    [(default_hooks.allreduce_hook, 0), (default_hooks.fp16_compress_hook, 2e-3)],
)
def test_unequal_batches_and_no_sync_give_the_mean_without_a_hook(
    hook: Any, tolerance: float
) -> None:
    def body() -> list[list[np.ndarray]]:
        ddp.init_process_group(timeout=20)
        found = []
        for chosen in (None, hook):
            model = ddp.DistributedDataParallel(network())
            if chosen is not None:
                model.register_comm_hook(None, chosen)
            with model.no_sync():
                (model(batch(ddp.get_rank(), 1)) ** 2).mean().backward()
            (model(batch(ddp.get_rank())) ** 2).mean().backward()
            found.append([p.grad.numpy().copy() for p in model.parameters()])
        ddp.destroy_process_group()
        return found

    for plain, hooked in run_ranks(body, 3):
        for expected, got in zip(plain, hooked, strict=True):
            np.testing.assert_allclose(got, expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("hook", [default_hooks.fp16_compress_hook, POWER, NARROW_POWER])
def test_ranks_that_run_out_of_batches_end_with_the_same_bits(hook: Any) -> None:
    def body() -> bytes:
        ddp.init_process_group(timeout=20)
        model, rank = ddp.DistributedDataParallel(network()), ddp.get_rank()
        model.register_comm_hook(state_for(hook), hook)
        optimizer = optim.SGD(model.parameters(), lr=0.1)
        with model.join():
            for step in range(2 + 2 * rank):
                optimizer.zero_grad()
                (model(batch(rank, step)) ** 2).mean().backward()
                optimizer.step()
        found = b"".join(p.detach().numpy().tobytes() for p in model.parameters())
        ddp.destroy_process_group()
        return found

    assert len(set(run_ranks(body, 3))) == 1


@pytest.mark.parametrize("hook", [default_hooks.fp16_compress_hook, POWER])
def test_bfloat16_parameters_keep_their_dtype_and_the_ranks_their_agreement(hook: Any) -> None:
    def body() -> tuple[bytes, set[Any], float]:
        ddp.init_process_group(timeout=20)
        model = ddp.DistributedDataParallel(network().bfloat16())
        state = state_for(hook)
        model.register_comm_hook(state, hook)
        for step in range(4):
            model.zero_grad()
            (model(batch(ddp.get_rank(), step).bfloat16()) ** 2).mean().backward()
        grads = [p.grad for p in model.parameters()]
        bits = b"".join(g.float().numpy().tobytes() for g in grads)
        rate = 2.0 if state is None else state.compression_stats()[0]
        ddp.destroy_process_group()
        return bits, {g.dtype for g in grads}, rate

    results = run_ranks(body, 3)
    assert results == [results[0]] * 3
    assert results[0][1] == {ag.bfloat16}
    assert results[0][2] >= 2
