"""L-BFGS against PyTorch's, iteration by iteration, and its state on disk."""

import numpy as np
import pytest

import allgrad as ag
from allgrad import optim
from allgrad.checkpoint import load_checkpoint, save_checkpoint
from allgrad.errors import OptionError

SETTINGS = {
    "plain": {"lr": 0.05, "max_iter": 6},
    "history": {"lr": 0.05, "history_size": 3},
    "wolfe": {"line_search_fn": "strong_wolfe"},
    "wolfe short": {"line_search_fn": "strong_wolfe", "max_iter": 3, "history_size": 2},
    "wolfe evaluations": {"line_search_fn": "strong_wolfe", "max_eval": 4},
    "wolfe far": {"line_search_fn": "strong_wolfe", "lr": 20.0, "max_iter": 5},
    "tolerance": {"line_search_fn": "strong_wolfe", "tolerance_grad": 0.5},
}


def rosenbrock(x, y):
    return ((1 - x) ** 2 + 20 * (y - x**2) ** 2).sum()


def closure_of(optimizer, x, y, count):
    def closure():
        optimizer.zero_grad()
        loss = rosenbrock(x, y)
        loss.backward()
        count.append(loss.item())
        return loss

    return closure


def start(module, double):
    return [
        module.tensor(v, dtype=double, requires_grad=True)
        for v in ([[-1.2, 0.3], [2.0, 1.1]], [[1.0, -0.5], [0.2, 1.9]])
    ]


@pytest.mark.parametrize("row", SETTINGS)
@pytest.mark.torch
def test_same_path_as_torch(row):
    torch = pytest.importorskip("torch")
    mine, theirs = start(ag, ag.float64), start(torch, torch.float64)
    a, b = optim.LBFGS(mine, **SETTINGS[row]), torch.optim.LBFGS(theirs, **SETTINGS[row])
    seen, expected = [], []
    for _ in range(4):
        first = a.step(closure_of(a, *mine, seen))
        other = b.step(closure_of(b, *theirs, expected))
        assert first.item() == pytest.approx(other.item(), rel=1e-6, abs=1e-9)
        assert len(seen) == len(expected)
    np.testing.assert_allclose(seen, expected, rtol=1e-5, atol=1e-9)
    for p, q in zip(mine, theirs, strict=True):
        np.testing.assert_allclose(p.detach().numpy(), q.detach().numpy(), rtol=1e-5, atol=1e-7)
    assert a.state_dict()["state"][0].keys() == b.state_dict()["state"][0].keys()
    assert a.state_dict()["param_groups"] == b.state_dict()["param_groups"]


def test_finds_the_minimum():
    params = start(ag, ag.float64)
    optimizer = optim.LBFGS(params, line_search_fn="strong_wolfe", max_iter=100)
    count = []
    optimizer.step(closure_of(optimizer, *params, count))
    assert count[-1] < 1e-10
    np.testing.assert_allclose(params[0].detach().numpy(), np.ones((2, 2)), atol=1e-4)


@pytest.mark.parametrize("row", ["plain", "wolfe short"])
def test_resumes_from_a_checkpoint_with_the_same_bits(row, tmp_path):
    params = start(ag, ag.float32)
    optimizer = optim.LBFGS(params, **SETTINGS[row])
    for _ in range(2):
        optimizer.step(closure_of(optimizer, *params, []))
    path = save_checkpoint(tmp_path / "last", optimizer=optimizer)
    copies = [p.detach().clone().requires_grad_() for p in params]
    resumed = optim.LBFGS(copies, lr=7.0)
    load_checkpoint(path, optimizer=resumed)
    for _ in range(2):
        optimizer.step(closure_of(optimizer, *params, []))
        resumed.step(closure_of(resumed, *copies, []))
    for p, q in zip(params, copies, strict=True):
        np.testing.assert_array_equal(p.detach().numpy(), q.detach().numpy())


@pytest.mark.torch
def test_continues_from_the_state_of_torch():
    torch = pytest.importorskip("torch")
    theirs = start(torch, torch.float64)
    settings = SETTINGS["wolfe short"]
    other = torch.optim.LBFGS(theirs, **settings)
    other.step(closure_of(other, *theirs, []))

    def convert(value):
        if isinstance(value, list):
            return [convert(v) for v in value]
        return ag.tensor(value.numpy()) if isinstance(value, torch.Tensor) else value

    saved = other.state_dict()
    saved["state"] = {i: {k: convert(v) for k, v in s.items()} for i, s in saved["state"].items()}
    mine = [ag.tensor(q.detach().numpy().copy(), requires_grad=True) for q in theirs]
    optimizer = optim.LBFGS(mine)
    optimizer.load_state_dict(saved)
    optimizer.step(closure_of(optimizer, *mine, []))
    other.step(closure_of(other, *theirs, []))
    for p, q in zip(mine, theirs, strict=True):
        np.testing.assert_allclose(p.detach().numpy(), q.detach().numpy(), rtol=1e-6, atol=1e-9)


def test_a_parameter_without_gradient_counts_as_zero():
    x, y, unused = *start(ag, ag.float64), ag.ones(3, dtype=ag.float64, requires_grad=True)
    optimizer = optim.LBFGS([x, unused, y], lr=0.01)
    optimizer.step(closure_of(optimizer, x, y, []))
    assert unused.tolist() == [1, 1, 1]


def test_mistakes():
    w = ag.zeros(1, requires_grad=True)
    with pytest.raises(ValueError, match="Invalid learning rate: -1"):
        optim.LBFGS([w], lr=-1)
    with pytest.raises(ValueError, match="parameter groups"):
        optim.LBFGS([{"params": [w]}, {"params": [ag.zeros(1, requires_grad=True)]}])
    with pytest.raises(OptionError, match="known: 'strong_wolfe'"):
        optim.LBFGS([w], line_search_fn="armijo")
    with pytest.raises(TypeError, match="closure"):
        optim.LBFGS([w]).step()
