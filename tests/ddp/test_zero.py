"""Optimizer state cut over the ranks: the plain optimizer's steps with a part of the memory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import allgrad as ag
from allgrad import ddp, nn, optim
from allgrad.amp import GradScaler
from allgrad.ddp import run_ranks
from allgrad.ddp.comm_hooks import default_hooks
from allgrad.ddp.zero import ZeroRedundancyOptimizer
from allgrad.ddp.zero_partition import by_elements, by_parameters
from allgrad.errors import DistributedError, OptionError

SIZE = 3
ELEMENTWISE = [
    (optim.SGD, {"lr": 0.1}),
    (optim.SGD, {"lr": 0.1, "momentum": 0.9, "nesterov": True, "weight_decay": 0.01}),
    (optim.Adam, {"lr": 0.01}),
    (optim.AdamW, {"lr": 0.01, "amsgrad": True}),
    (optim.RMSprop, {"lr": 0.01, "momentum": 0.5}),
    (optim.Adagrad, {"lr": 0.1}),
    (optim.RAdam, {"lr": 0.01}),
]
WHOLE = [
    (optim.LAMB, {"lr": 0.01}),
    (optim.LARS, {"lr": 0.1, "momentum": 0.9}),
    (optim.Adafactor, {"lr": 0.01}),
]


def network() -> nn.Module:
    ag.manual_seed(0)
    return nn.Sequential(
        nn.Linear(7, 13), nn.Tanh(), nn.Linear(13, 11), nn.Tanh(), nn.Linear(11, 2)
    )


def batch(rank: int, step: int) -> ag.Tensor:
    rng = np.random.default_rng([rank, step])
    return ag.tensor(rng.standard_normal((4, 7)).astype(np.float32))


def bits(model: nn.Module) -> bytes:
    return b"".join(p.detach().numpy().tobytes() for p in model.parameters())


def train(
    kind: type[optim.Optimizer],
    settings: dict[str, Any],
    zero: bool,
    attach: bool = False,
    steps: int = 4,
) -> Any:
    """Parameters after some steps, and the optimizer."""
    model = ddp.DistributedDataParallel(network(), bucket_cap_mb=0.0005)
    params = (
        [p for p in model.parameters() if p.ndim > 1],
        [p for p in model.parameters() if p.ndim < 2],
    )
    groups = [{"params": params[0]}, {"params": params[1], "weight_decay": 0.0}]
    optimizer: Any
    if zero:
        optimizer = ZeroRedundancyOptimizer(groups, kind, **settings)
        if attach:
            optimizer.attach(model)
    else:
        optimizer = kind(groups, **settings)
    schedule = optim.lr_scheduler.StepLR(optimizer, 2, 0.5)
    for step in range(steps):
        optimizer.zero_grad()
        (model(batch(ddp.get_rank(), step)) ** 2).mean().backward()
        optimizer.step()
        schedule.step()
    return model, optimizer


@pytest.mark.parametrize("attach", [False, True])
@pytest.mark.parametrize(("kind", "settings"), ELEMENTWISE + WHOLE)
def test_the_same_bits_as_the_plain_optimizer(
    kind: type[optim.Optimizer], settings: dict[str, Any], attach: bool
) -> None:
    def body() -> tuple[bytes, bytes, int, int]:
        ddp.init_process_group(timeout=20)
        plain, plain_optimizer = train(kind, settings, zero=False)
        model, optimizer = train(kind, settings, zero=True, attach=attach)
        whole = sum(
            v._array.nbytes for s in plain_optimizer.state.values() for v in s.values()
            if isinstance(v, ag.Tensor)
        )  # fmt: skip
        result = bits(plain), bits(model), whole, optimizer.state_bytes()
        ddp.destroy_process_group()
        return result

    results = run_ranks(body, SIZE)
    for plain, sharded, whole, own in results:
        assert plain == sharded == results[0][0]
        if (kind, settings) in ELEMENTWISE:
            assert own <= whole / SIZE + 100  # a count of steps per piece, and rounding
    assert sum(own for _, _, _, own in results) <= results[0][2] + 300


def test_state_goes_to_the_plain_optimizer_and_to_other_numbers_of_ranks() -> None:
    settings = {"lr": 0.01}

    def save() -> tuple[dict[str, Any] | None, dict[str, Any], bytes]:
        ddp.init_process_group(timeout=20)
        _, plain = train(optim.Adam, settings, zero=False)
        model, optimizer = train(optim.Adam, settings, zero=True)
        with pytest.raises(DistributedError, match="consolidate_state_dict"):
            optimizer.state_dict()
        optimizer.consolidate_state_dict(to=1)
        state = optimizer.state_dict() if ddp.get_rank() == 1 else None
        result = state, plain.state_dict(), bits(model)
        ddp.destroy_process_group()
        return result

    _, (state, expected, weights), _ = run_ranks(save, SIZE)
    assert state is not None
    for index, values in expected["state"].items():
        for name, value in values.items():
            np.testing.assert_array_equal(state["state"][index][name].numpy(), value.numpy())
    for mine, theirs in zip(state["param_groups"], expected["param_groups"], strict=True):
        for key, value in theirs.items():
            assert key == "initial_lr" or mine[key] == value

    def resume() -> tuple[bytes, bytes]:
        ddp.init_process_group(timeout=20)
        found = []
        for zero in (False, True):
            model, optimizer = train(optim.Adam, settings, zero=zero, steps=0)
            start = 0
            for p in model.parameters():
                stop = start + p.numel() * 4
                p.data.copy_(
                    ag.tensor(np.frombuffer(weights[start:stop], np.float32).reshape(p.shape))
                )
                start = stop
            optimizer.load_state_dict(state)
            for step in range(3):
                optimizer.zero_grad()
                (model(batch(ddp.get_rank(), step)) ** 2).mean().backward()
                optimizer.step()
            found.append(bits(model))
        ddp.destroy_process_group()
        return found[0], found[1]

    for plain, sharded in run_ranks(resume, 2):
        assert plain == sharded


def test_checkpoints_hold_the_whole_state(tmp_path: Path) -> None:
    def body() -> tuple[bytes, bytes]:
        ddp.init_process_group(timeout=20)
        manager = ddp.CheckpointManager(tmp_path)
        model, optimizer = train(optim.Adam, {"lr": 0.01}, zero=True)
        manager.save(step=4, model=model, optimizer=optimizer)
        again, other = train(optim.Adam, {"lr": 0.5}, zero=True, steps=1)
        assert manager.load_latest(model=again, optimizer=other).step == 4
        for net, stepper in ((model, optimizer), (again, other)):
            stepper.zero_grad()
            (net(batch(ddp.get_rank(), 9)) ** 2).mean().backward()
            stepper.step()
        manager.close()
        ddp.destroy_process_group()
        return bits(model), bits(again)

    for going_on, resumed in run_ranks(body, SIZE):
        assert going_on == resumed


@pytest.mark.parametrize("norm_type", [2.0, float("inf")])
def test_clipping_by_the_norm_of_all_pieces(norm_type: float) -> None:
    def body() -> list[np.ndarray]:
        ddp.init_process_group(timeout=20)
        found = []
        for attach in (None, False, True):
            model = ddp.DistributedDataParallel(network())
            optimizer = ZeroRedundancyOptimizer(model.parameters(), optim.SGD, lr=0.1)
            if attach:
                optimizer.attach(model)
            (model(batch(ddp.get_rank(), 0)) ** 2).mean().backward()
            if attach is None:
                norm = nn.utils.clip_grad_norm_(model.parameters(), 0.01, norm_type)
            else:
                norm = optimizer.clip_grad_norm_(0.01, norm_type)
            optimizer.step()
            flat = [p.detach().numpy().reshape(-1) for p in model.parameters()]
            found.append(np.concatenate([*flat, [norm.item()]]))
        ddp.destroy_process_group()
        return found

    for plain, sharded, attached in run_ranks(body, SIZE):
        np.testing.assert_allclose(sharded, plain, rtol=1e-5)
        np.testing.assert_allclose(attached, plain, rtol=1e-5)


@pytest.mark.parametrize("attach", [False, True])
def test_an_overflow_on_one_rank_skips_the_step_on_all(attach: bool) -> None:
    def body() -> tuple[bytes, bytes, float]:
        ddp.init_process_group(timeout=20)
        model = ddp.DistributedDataParallel(network())
        optimizer = ZeroRedundancyOptimizer(model.parameters(), optim.SGD, lr=0.1)
        if attach:
            optimizer.attach(model)
        scaler = GradScaler("cpu", init_scale=1024.0)
        before = bits(model)
        loss = (model(batch(ddp.get_rank(), 0)) ** 2).mean()
        if ddp.get_rank() == 2:
            loss = loss * float("inf")
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        result = before, bits(model), scaler.get_scale()
        ddp.destroy_process_group()
        return result

    for before, after, scale in run_ranks(body, SIZE):
        assert before == after
        assert scale == 512.0


def test_more_ranks_than_parameters_and_a_parameter_without_gradient() -> None:
    def body() -> bytes:
        ddp.init_process_group(timeout=20)
        ag.manual_seed(0)
        layer = nn.Linear(1, 1)
        unused = nn.Parameter(ag.ones(1))
        for kind in (optim.Adam, optim.LAMB):
            optimizer = ZeroRedundancyOptimizer([*layer.parameters(), unused], kind, lr=0.1)
            layer(ag.ones(2, 1)).sum().backward()
            optimizer.step()
        result = bits(layer)
        assert unused.item() == 1
        ddp.destroy_process_group()
        return result

    assert len(set(run_ranks(body, 4))) == 1


def test_mistakes_are_explained() -> None:
    def body() -> None:
        ddp.init_process_group(timeout=20)
        model = ddp.DistributedDataParallel(network())
        with pytest.raises(OptionError, match="LBFGS"):
            ZeroRedundancyOptimizer(model.parameters(), optim.LBFGS)
        with pytest.raises(OptionError, match="attach"):
            ZeroRedundancyOptimizer(model.parameters(), optim.Adam, overlap_with_ddp=True)
        part = ZeroRedundancyOptimizer(list(model.parameters())[:1], optim.Adam)
        with pytest.raises(DistributedError, match="exactly the model's trainable parameters"):
            part.attach(model)
        model.register_comm_hook(None, default_hooks.allreduce_hook)
        whole = ZeroRedundancyOptimizer(model.parameters(), optim.Adam)
        with pytest.raises(DistributedError, match="communication hook"):
            whole.attach(model)
        ddp.destroy_process_group()

    run_ranks(body, 2)


@given(st.lists(st.integers(1, 50), min_size=1, max_size=8), st.integers(1, 6))
def test_every_element_belongs_to_one_rank(sizes: list[int], ranks: int) -> None:
    for cut in (by_elements, by_parameters):
        covered = [np.zeros(size, int) for size in sizes]
        pieces = cut(sizes, ranks)
        for own in pieces:
            for piece in own:
                covered[piece.index][piece.start : piece.stop] += 1
        assert all((c == 1).all() for c in covered)
    loads = [sum(p.size for p in own) for own in by_elements(sizes, ranks)]
    assert max(loads) - min(loads) <= 1
