"""Averaged weights, step by step as in PyTorch."""

import copy

import numpy as np
import pytest

import allgrad as ag
from allgrad import nn, optim
from allgrad.optim import swa_utils

AVERAGES = {
    "swa": lambda m: {},
    "swa multi": lambda m: {"multi_avg_fn": m.get_swa_multi_avg_fn()},
    "swa one": lambda m: {"avg_fn": m.get_swa_avg_fn()},
    "ema": lambda m: {"avg_fn": m.get_ema_avg_fn(0.7)},
    "ema multi": lambda m: {"multi_avg_fn": m.get_ema_multi_avg_fn(0.9)},
    "ema buffers": lambda m: {"multi_avg_fn": m.get_ema_multi_avg_fn(0.9), "use_buffers": True},
    "swa buffers": lambda m: {"use_buffers": True},
    "own": lambda m: {"avg_fn": lambda avg, new, n: avg * 0.25 + new * 0.75},
}


def network(n):
    return n.Sequential(n.Linear(3, 4), n.BatchNorm1d(4), n.Linear(4, 2))


def fill(module, other, seed):
    """Random parameters and buffers, the same for both."""
    rng = np.random.default_rng(seed)
    for (name, mine), theirs in zip(
        module.state_dict().items(), other.state_dict().values(), strict=True
    ):
        if "num_batches" in name:
            value = np.array(seed * 7, dtype=np.int64)
        else:
            value = rng.random(tuple(mine.shape)).astype(np.float32)
        mine._array[...] = value
        theirs.copy_(theirs.new_tensor(value))


def close(mine, theirs):
    assert list(mine) == list(theirs)
    for name, value in theirs.items():
        np.testing.assert_allclose(mine[name].numpy(), value.numpy(), atol=1e-6, err_msg=name)


@pytest.mark.parametrize("row", AVERAGES)
@pytest.mark.torch
def test_averages_as_torch(row):
    torch = pytest.importorskip("torch")
    model, other = network(nn), network(torch.nn)
    mine = swa_utils.AveragedModel(model, **AVERAGES[row](swa_utils))
    theirs = torch.optim.swa_utils.AveragedModel(other, **AVERAGES[row](torch.optim.swa_utils))
    for step in range(1, 6):
        fill(model, other, step)
        mine.update_parameters(model)
        theirs.update_parameters(other)
        close(mine.state_dict(), theirs.state_dict())
    assert mine.n_averaged.dtype == ag.int64


def test_the_average_is_a_copy_that_saves_and_computes():
    model = nn.Linear(2, 1)
    average = swa_utils.AveragedModel(model)
    average.update_parameters(model)
    x = ag.ones(3, 2)
    before = average(x).tolist()
    nn.init.zeros_(model.weight)
    assert average(x).tolist() == before
    again = swa_utils.AveragedModel(nn.Linear(2, 1))
    again.load_state_dict(average.state_dict())
    assert again(x).tolist() == before
    assert again.n_averaged.item() == 1
    assert isinstance(copy.deepcopy(average), swa_utils.AveragedModel)


@pytest.mark.torch
def test_update_bn_as_torch():
    torch = pytest.importorskip("torch")
    model, other = network(nn), network(torch.nn)
    fill(model, other, 3)
    rng = np.random.default_rng(0)
    batches = [rng.standard_normal((n, 3)).astype(np.float32) for n in (4, 6, 5)]
    model.eval()
    other.eval()
    swa_utils.update_bn([(ag.tensor(b), 0) for b in batches], model)
    torch.optim.swa_utils.update_bn([(torch.tensor(b), 0) for b in batches], other)
    close(model.state_dict(), other.state_dict())
    assert model[1].momentum == 0.1
    assert not model.training


def test_update_bn_without_batch_norms_looks_at_no_data():
    def untouched():
        raise AssertionError("the loader was read")
        yield

    swa_utils.update_bn(untouched(), nn.Linear(1, 1))


@pytest.mark.parametrize(
    ("make", "error"),
    [
        (lambda o: swa_utils.get_ema_avg_fn(1.5), "Invalid decay value 1.5"),
        (lambda o: swa_utils.get_ema_multi_avg_fn(-1), "Invalid decay value -1"),
        (lambda o: swa_utils.SWALR(o, 0.1, anneal_strategy="sine"), "known: 'cos', 'linear'"),
        (lambda o: swa_utils.SWALR(o, 0.1, anneal_epochs=-1), "equal or greater than 0, got -1"),
        (lambda o: swa_utils.SWALR(o, [0.1, 0.2]), "expected 1, came 2"),
    ],
)
def test_mistakes(make, error):
    with pytest.raises(ValueError, match=error):
        make(optim.SGD([ag.zeros(1, requires_grad=True)]))


def test_two_average_functions():
    with pytest.raises(AssertionError, match="Only one of"):
        swa_utils.AveragedModel(nn.Linear(1, 1), avg_fn=max, multi_avg_fn=max)
