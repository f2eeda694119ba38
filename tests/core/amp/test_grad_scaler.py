"""GradScaler: the same scales, the same skipped steps and the same weights as PyTorch's."""

from __future__ import annotations

import numpy as np
import pytest

import allgrad as ag
from allgrad import amp

SETTINGS = {"init_scale": 8.0, "growth_interval": 2, "growth_factor": 4.0, "backoff_factor": 0.25}
FACTORS = (1.0, 1.0, np.inf, 2.0, np.nan, 1.0, 1.0, 1.0)  # of the loss of each iteration


def train(lib, scaler, make, clip):
    """(scales, weights) after each iteration of a small problem."""
    weight = make(np.array([[1.0, -2.0], [0.5, 3.0]], np.float32)).requires_grad_()
    bias = make(np.zeros(2, np.float32)).requires_grad_()
    optimizer = lib.optim.SGD([weight, bias], lr=0.05, momentum=0.9)
    x, history = make(np.array([[1.0, 2.0]], np.float32)), []
    for factor in FACTORS:
        optimizer.zero_grad()
        with lib.autocast("cpu"):
            loss = lib.nn.functional.linear(x, weight, bias).square().mean()
        scaler.scale(loss * factor).backward()
        if clip:
            scaler.unscale_(optimizer)
            lib.nn.utils.clip_grad_norm_([weight, bias], 0.5)
        scaler.step(optimizer)
        scaler.update()
        history.append((scaler.get_scale(), weight.detach().numpy().copy()))
    return history


@pytest.mark.torch
@pytest.mark.parametrize("clip", [False, True])
def test_like_pytorch(clip):
    torch = pytest.importorskip("torch")
    theirs = torch.amp.GradScaler(device="cpu", **SETTINGS)
    want = train(torch, theirs, torch.from_numpy, clip)
    ours = amp.GradScaler(**SETTINGS)
    got = train(ag, ours, ag.tensor, clip)
    assert [s for s, _ in got] == [s for s, _ in want]
    assert {s for s, _ in got} == {2.0, 8.0, 32.0}  # it backed off and grew
    for (_, a), (_, b) in zip(got, want, strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-2, atol=1e-3)  # both rounded to bfloat16
    assert ours.state_dict() == theirs.state_dict()


def problem(dtype=None):
    weight = ag.tensor([1.0, 2.0], requires_grad=True, dtype=dtype)
    return weight, ag.optim.SGD([weight], lr=1.0)


def test_gradients_are_unscaled_before_the_step():
    weight, optimizer = problem()
    scaler = amp.GradScaler(init_scale=1024.0)
    scaler.scale((weight * 3).sum()).backward()
    assert weight.grad.tolist() == [3072.0, 3072.0]
    scaler.step(optimizer)
    assert weight.grad.tolist() == [3.0, 3.0]
    assert weight.tolist() == [-2.0, -1.0]


@pytest.mark.parametrize("bad", [float("inf"), -float("inf"), float("nan")])
def test_a_step_with_infinite_gradients_is_skipped(bad):
    weight, optimizer = problem()
    scaler = amp.GradScaler(init_scale=4.0)
    scaler.scale((weight * ag.tensor([1.0, bad])).sum()).backward()
    assert scaler.step(optimizer) is None
    assert weight.tolist() == [1.0, 2.0]
    scaler.update()
    assert scaler.get_scale() == 2.0


def test_a_large_but_finite_gradient_is_stepped():
    weight, optimizer = problem()
    largest = ag.finfo(ag.float32).max
    scaler = amp.GradScaler(init_scale=2.0)
    weight.grad = ag.tensor([largest, largest])  # their sum is not finite
    scaler.step(optimizer)
    assert np.isfinite(weight.detach().numpy()).all()
    assert weight.tolist() != [1.0, 2.0]


def test_small_gradients_survive_float16():
    def gradient(scaler):
        weight = ag.tensor([1.0], requires_grad=True)
        with amp.autocast("cpu", dtype=ag.float16):
            y = ag.nn.functional.linear(ag.tensor([[1e-4]]), weight.reshape(1, 1))
        loss = y.float().sum() * 2e-5  # the gradient of the weight is 2e-9
        scaler.scale(loss).backward()
        scaler.unscale_(ag.optim.SGD([weight], lr=1.0))
        return weight.grad.item()

    assert gradient(amp.GradScaler(enabled=False)) == 0
    assert gradient(amp.GradScaler()) == pytest.approx(2e-9, rel=1e-2)


def test_scale_of_sequences_and_of_a_float16_loss():
    scaler = amp.GradScaler(init_scale=2.0**17)
    a, (b, c) = scaler.scale([ag.ones(1), (ag.ones(2), ag.tensor(2.0, dtype=ag.float16))])
    assert (a.item(), b.tolist(), c.item()) == (2.0**17, [2.0**17] * 2, 2.0**18)
    assert c.dtype is ag.float32
    with pytest.raises(ValueError, match="expected a tensor"):
        scaler.scale(3.0)


def test_switched_off():
    weight, optimizer = problem()
    scaler = amp.GradScaler(enabled=False)
    loss = (weight * 3).sum()
    assert scaler.scale(loss) is loss
    loss.backward()
    scaler.unscale_(optimizer)
    scaler.step(optimizer)
    scaler.update()
    assert weight.tolist() == [-2.0, -1.0]
    assert (scaler.get_scale(), scaler.state_dict(), scaler.is_enabled()) == (1.0, {}, False)
    with pytest.warns(UserWarning, match="'cuda' is not available"):
        assert not amp.GradScaler("cuda").is_enabled()


def test_state():
    first = amp.GradScaler(**SETTINGS)
    first.update(32.0)
    first.set_growth_factor(3.0)
    first.set_backoff_factor(0.1)
    first.set_growth_interval(7)
    second = amp.GradScaler()
    second.load_state_dict(first.state_dict())
    assert second.state_dict() == first.state_dict()
    assert second.get_scale() == 32.0
    found = (second.get_growth_factor(), second.get_backoff_factor(), second.get_growth_interval())
    assert found == (3.0, 0.1, 7)
    with pytest.raises(RuntimeError, match="empty"):
        second.load_state_dict({})


def test_wrong_use():
    weight, optimizer = problem()
    scaler = amp.GradScaler()
    with pytest.raises(AssertionError, match="No inf checks were recorded prior to update"):
        scaler.update()
    with pytest.raises(AssertionError, match="No inf checks were recorded for this optimizer"):
        scaler.step(optimizer)
    scaler = amp.GradScaler()
    scaler.scale(weight.sum()).backward()
    with pytest.raises(RuntimeError, match="Closure use"):
        scaler.step(optimizer, closure=lambda: None)
    scaler.unscale_(optimizer)
    with pytest.raises(RuntimeError, match="unscale_\\(\\) has already been called"):
        scaler.unscale_(optimizer)
    scaler.step(optimizer)
    with pytest.raises(RuntimeError, match="unscale_\\(\\) is being called after step"):
        scaler.unscale_(optimizer)
    with pytest.raises(RuntimeError, match="step\\(\\) has already been called"):
        scaler.step(optimizer)
    with pytest.raises(AssertionError, match=r"> 1\.0"):
        amp.GradScaler(growth_factor=1.0)
    with pytest.raises(AssertionError, match=r"< 1\.0"):
        amp.GradScaler(backoff_factor=1.0)
    half, optimizer = problem(ag.float16)
    (half * 2).sum().backward()
    with pytest.raises(ValueError, match="FP16 gradients"):
        amp.GradScaler().unscale_(optimizer)
