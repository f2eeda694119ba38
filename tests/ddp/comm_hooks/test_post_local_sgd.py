"""Post-local SGD: all ranks at first, then subgroups, and parameters averaged every few steps."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import allgrad as ag
import allgrad.distributed as dist
import allgrad.distributed.algorithms.model_averaging.averagers as averagers
from allgrad import ddp, nn, optim
from allgrad.ddp import run_ranks
from allgrad.ddp.comm_hooks.default_hooks import fp16_compress_wrapper
from allgrad.distributed.algorithms.ddp_comm_hooks.post_localSGD_hook import (
    PostLocalSGDState,
    post_localSGD_hook,
)
from allgrad.errors import DistributedError, OptionError

SIZE, WARM_UP, PERIOD = 4, 2, 3


def train(steps: int, within: bool = True, samples: int = 3) -> Any:
    """The weights after every step on every rank: array (SIZE, steps, weights)."""

    def body() -> list[np.ndarray]:
        dist.init_process_group(timeout=20)
        ag.manual_seed(0)
        model = nn.parallel.DistributedDataParallel(
            nn.Linear(3, 1), bucket_cap_mb=0, check_replicas_every=1
        )
        pairs, _ = dist.new_subgroups(2)
        state = PostLocalSGDState(None, pairs, WARM_UP, post_local_gradient_allreduce=within)
        model.register_comm_hook(state, post_localSGD_hook)
        averager = averagers.PeriodicModelAverager(period=PERIOD, warmup_steps=WARM_UP)
        optimizer = dist.optim.PostLocalSGDOptimizer(
            optim.SGD(model.parameters(), lr=0.1, momentum=0.9), averager
        )
        rng = np.random.default_rng(dist.get_rank())
        found = []
        for _ in range(steps):
            x = ag.tensor(rng.standard_normal((samples, 3)).astype(np.float32))
            optimizer.zero_grad()
            (model(x) - x.sum(1, keepdim=True)).square().mean().backward()
            optimizer.step()
            found.append(np.concatenate([p.detach().numpy().ravel() for p in model.parameters()]))
        assert state.iter == WARM_UP
        dist.destroy_process_group()
        return found

    return np.array(run_ranks(body, SIZE))


@pytest.mark.parametrize("within", [True, False])
def test_replicas_agree_where_they_should(within: bool) -> None:
    weights = train(WARM_UP + 2 * PERIOD, within)
    for step in range(weights.shape[1]):
        after = step - WARM_UP
        distinct = len({weights[rank, step].tobytes() for rank in range(SIZE)})
        if after < 0 or after % PERIOD == 0:  # all ranks, or just averaged
            assert distinct == 1
        else:
            assert distinct == (2 if within else SIZE)
            assert (weights[0, step] == weights[1, step]).all() == within


def test_an_average_is_the_mean_of_the_ranks() -> None:
    """Without the average, the step that it follows is the one that every rank makes alone."""
    weights = train(WARM_UP + PERIOD + 1)
    lonely = train(WARM_UP + PERIOD)
    assert (weights[:, : WARM_UP + PERIOD] == lonely).all()
    moved = weights[:, -1] - weights[:, -2]
    assert np.abs(moved).max() > 1e-3
    spread = np.ptp(weights[:, -2], axis=0).max()
    assert spread > 1e-3  # what the average has brought together


def test_a_wrapped_hook_switches_the_comparison_of_replicas_off_as_well() -> None:
    def body() -> None:
        ddp.init_process_group(timeout=20)
        model = ddp.DistributedDataParallel(nn.Linear(2, 1), check_replicas_every=1)
        state = PostLocalSGDState(None, None, 0, post_local_gradient_allreduce=False)
        model.register_comm_hook(state, fp16_compress_wrapper(post_localSGD_hook))
        optimizer = optim.SGD(model.parameters(), lr=0.1)
        for _ in range(3):
            model(ag.ones(1, 2) * (1 + ddp.get_rank())).sum().backward()
            optimizer.step()
        ddp.destroy_process_group()

    run_ranks(body, 2)


def test_the_average_of_some_parameters() -> None:
    def body() -> tuple[list[float], list[float], list[float]]:
        ddp.init_process_group(timeout=20)
        from allgrad.ddp.model_averaging import average_parameters

        rank = float(ddp.get_rank())
        moving = ag.full((2,), rank, requires_grad=True)
        double = ag.full((1,), 10 * rank, dtype=ag.float64, requires_grad=True)
        frozen = ag.full((2,), rank)
        average_parameters([{"params": [moving, frozen]}, {"params": [double]}])
        ddp.destroy_process_group()
        return moving.tolist(), double.tolist(), frozen.tolist()

    for rank, found in enumerate(run_ranks(body, 3)):
        assert found == ([1.0, 1.0], [10.0], [float(rank)] * 2)


def test_the_optimizer_is_its_inner_one_and_saves_the_step() -> None:
    ddp.init_process_group()
    net = nn.Linear(2, 1)
    inner = optim.Adam(net.parameters(), lr=0.5)
    averager = averagers.PeriodicModelAverager(period=2)
    optimizer = ddp.PostLocalSGDOptimizer(inner, averager)
    schedule = optim.lr_scheduler.StepLR(optimizer, 1, gamma=0.1)
    calls: list[str] = []
    optimizer.register_step_post_hook(lambda *_: calls.append("step"))
    for _ in range(3):
        optimizer.zero_grad()
        net(ag.ones(1, 2)).sum().backward()
        optimizer.step()
        schedule.step()
    assert len(calls) == 3
    assert inner.param_groups[0]["lr"] == pytest.approx(0.0005)
    assert optimizer.state is inner.state
    assert repr(optimizer) == repr(inner)
    saved = optimizer.state_dict()
    assert saved["step"] == 3
    other = ddp.PostLocalSGDOptimizer(
        optim.Adam(nn.Linear(2, 1).parameters()), averagers.PeriodicModelAverager(period=2)
    )
    other.load_state_dict(saved)
    assert other.averager.step == 3
    with pytest.warns(UserWarning, match="no step of an averager"):
        other.load_state_dict(inner.state_dict())
    assert other.averager.step == 0
    ddp.destroy_process_group()


def test_ranks_that_average_at_different_steps_are_told() -> None:
    def body() -> None:
        ddp.init_process_group(timeout=20)
        averager = averagers.PeriodicModelAverager(period=2)
        averager.step = ddp.get_rank()
        averager.average_parameters([ag.ones(3, requires_grad=True)])
        ddp.barrier()

    with pytest.raises(DistributedError, match="barrier"):
        run_ranks(body, 2)


def test_errors() -> None:
    ddp.init_process_group()
    with pytest.raises(OptionError, match="start_localSGD_iter=-1"):
        PostLocalSGDState(None, None, -1)
    with pytest.raises(OptionError, match="period=0"):
        averagers.PeriodicModelAverager(0)
    with pytest.raises(OptionError, match="warmup_steps=-2"):
        averagers.PeriodicModelAverager(3, -2)
    with pytest.warns(UserWarning, match="period=1"):
        averagers.PeriodicModelAverager(1)
    ddp.destroy_process_group()
