"""Clipping and loss scaling after averaged gradients: every rank does the same."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import allgrad as ag
from allgrad import ddp, nn, optim
from allgrad.amp import GradScaler
from allgrad.ddp import run_ranks
from allgrad.ddp.comm_hooks import default_hooks

BATCHES = (5, 2, 3)  # samples of each rank


def network() -> nn.Module:
    ag.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 9), nn.Tanh(), nn.Linear(9, 2))


def batch(rank: int) -> np.ndarray:
    return np.random.default_rng(rank).standard_normal((BATCHES[rank], 6))


def loss_of(model: nn.Module, x: np.ndarray) -> ag.Tensor:
    return (model(ag.tensor(x)) ** 2).mean()


def bits(tensors: list[Any]) -> bytes:
    return b"".join(t.detach().numpy().tobytes() for t in tensors)


@pytest.mark.parametrize("as_view", [True, False])
@pytest.mark.parametrize("norm_type", [2.0, 1.0, float("inf")])
def test_clipping_by_the_global_norm_is_that_of_the_whole_batch(
    norm_type: float, as_view: bool
) -> None:
    whole = network().double()
    loss_of(whole, np.concatenate([batch(rank) for rank in range(3)])).backward()
    norm = nn.utils.clip_grad_norm_(whole.parameters(), 0.01, norm_type)
    assert norm.item() > 0.01, "nothing to clip"

    def body() -> tuple[float, bytes, list[np.ndarray]]:
        ddp.init_process_group(timeout=20)
        model = ddp.DistributedDataParallel(
            network().double(), gradient_as_bucket_view=as_view, bucket_cap_mb=0.0002
        )
        loss_of(model, batch(ddp.get_rank())).backward()
        found = nn.utils.clip_grad_norm_(model.parameters(), 0.01, norm_type)
        grads = [p.grad for p in model.parameters()]
        result = found.item(), bits(grads), [g.numpy().copy() for g in grads]
        ddp.destroy_process_group()
        return result

    results = run_ranks(body, 3)
    for found, found_bits, grads in results:
        assert (found, found_bits) == results[0][:2]
        np.testing.assert_allclose(found, norm.item(), rtol=1e-10)
        for grad, param in zip(grads, whole.parameters(), strict=True):
            np.testing.assert_allclose(grad, param.grad.numpy(), rtol=1e-10, atol=1e-14)


def test_clipping_by_value_leaves_the_same_bits_on_all_ranks() -> None:
    def body() -> tuple[bytes, float]:
        ddp.init_process_group(timeout=20)
        model = ddp.DistributedDataParallel(network().double())
        loss_of(model, batch(ddp.get_rank())).backward()
        nn.utils.clip_grad_value_(model.parameters(), 0.01)
        grads = [p.grad for p in model.parameters()]
        largest = max(float(np.abs(g.numpy()).max()) for g in grads)
        ddp.destroy_process_group()
        return bits(grads), largest

    results = run_ranks(body, 3)
    assert results == [results[0]] * 3
    assert results[0][1] == 0.01


@pytest.mark.parametrize("hook", [None, default_hooks.fp16_compress_hook])
@pytest.mark.parametrize("bad", [float("inf"), float("nan")])
def test_an_overflow_on_one_rank_skips_the_step_on_all(bad: float, hook: Any) -> None:
    def body() -> list[tuple[bytes, float]]:
        ddp.init_process_group(timeout=20)
        model = ddp.DistributedDataParallel(network().double())
        if hook is not None:
            model.register_comm_hook(None, hook)
        optimizer = optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        scaler = GradScaler("cpu", init_scale=64.0)
        history = [(bits(list(model.parameters())), scaler.get_scale())]
        for step in range(3):
            optimizer.zero_grad()
            loss = loss_of(model, batch(ddp.get_rank()))
            if step == 1 and ddp.get_rank() == 2:
                loss = loss * bad
            scaler.scale(loss).backward()
            scaler.unscale_(optimizer)
            nn.utils.clip_grad_norm_(model.parameters(), 0.5)
            scaler.step(optimizer)
            scaler.update()
            history.append((bits(list(model.parameters())), scaler.get_scale()))
        ddp.destroy_process_group()
        return history

    results = run_ranks(body, 3)
    assert results == [results[0]] * 3
    weights, scales = zip(*results[0], strict=True)
    assert scales == (64.0, 64.0, 32.0, 32.0)
    assert weights[0] != weights[1], "a good step must step"
    assert weights[1] == weights[2], "a step with an overflow must not"
    assert weights[2] != weights[3]
