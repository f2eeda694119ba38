"""Pruning, against torch: masks, keys, combinations, removal, mistakes."""

from __future__ import annotations

import numpy as np
import pytest

import allgrad as ag
from allgrad import nn
from allgrad.nn.utils import prune

torch = pytest.importorskip("torch")
import torch.nn.utils.prune as torch_prune  # noqa: E402 - only where torch is

pytestmark = pytest.mark.torch


def pair(make):
    """(ours, theirs) with the same parameters."""
    theirs, ours = make(torch.nn), make(nn)
    ours.load_state_dict({k: v.numpy() for k, v in theirs.state_dict().items()})
    return ours, theirs


def compare(ours, theirs):
    a, b = ours.state_dict(), theirs.state_dict()
    assert sorted(a) == sorted(b)
    for key in a:
        np.testing.assert_allclose(a[key].numpy(), b[key].numpy(), rtol=1e-6, err_msg=key)
    assert [n for n, _ in ours.named_parameters()] == [n for n, _ in theirs.named_parameters()]
    assert prune.is_pruned(ours) == torch_prune.is_pruned(theirs)


CASES = {
    "l1 share": lambda p, lib, m: p.l1_unstructured(m, "weight", 0.4),
    "l1 number": lambda p, lib, m: p.l1_unstructured(m, "bias", 2),
    "l1 scores": lambda p, lib, m: p.l1_unstructured(
        m, "weight", 5, importance_scores=lib.tensor(SCORES)),
    "ln 2": lambda p, lib, m: p.ln_structured(m, "weight", 0.5, n=2, dim=0),
    "ln 1": lambda p, lib, m: p.ln_structured(m, "weight", 2, n=1, dim=1),
    "ln inf": lambda p, lib, m: p.ln_structured(m, "weight", 2, n=float("inf"), dim=-1),
    "identity": lambda p, lib, m: p.identity(m, "weight"),
    "mask": lambda p, lib, m: p.custom_from_mask(m, "bias", lib.tensor([1.0, 0, 1, 1, 0, 0])),
    "twice": lambda p, lib, m: p.ln_structured(p.l1_unstructured(m, "weight", 0.3), "weight", 0.5,
                                               n=2, dim=0),
    "thrice": lambda p, lib, m: p.l1_unstructured(
        p.l1_unstructured(p.l1_unstructured(m, "weight", 0.2), "weight", 0.5), "weight", 3),
    "global": lambda p, lib, m: p.global_unstructured(
        [(m, "weight"), (m, "bias")], p.L1Unstructured, amount=0.4),
    "global scores": lambda p, lib, m: p.global_unstructured(
        [(m, "weight"), (m, "bias")], p.L1Unstructured, {(m, "weight"): lib.tensor(SCORES)},
        amount=10),
}  # fmt: skip
SCORES = np.random.default_rng(5).random((6, 4)).astype(np.float32)


@pytest.mark.parametrize("name", CASES)
def test_masks_gradients_and_removal(name):
    ours, theirs = pair(lambda nn: nn.Linear(4, 6))
    x = np.random.default_rng(0).standard_normal((3, 4)).astype(np.float32)
    CASES[name](prune, ag, ours), CASES[name](torch_prune, torch, theirs)
    compare(ours, theirs)
    y, z = ours(ag.tensor(x)), theirs(torch.tensor(x))
    np.testing.assert_allclose(y.detach().numpy(), z.detach().numpy(), rtol=1e-5, atol=1e-6)
    (y * y).sum().backward(), (z * z).sum().backward()
    for (key, p), q in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        np.testing.assert_allclose(p.grad.numpy(), q.grad.numpy(), rtol=1e-4, atol=1e-5)
        if key.endswith("_orig"):
            mask = getattr(ours, key.replace("_orig", "_mask")).numpy()
            assert not p.grad.numpy()[mask == 0].any()
    for parameter in ("weight", "bias"):
        if f"{parameter}_orig" in ours.state_dict():
            assert prune.remove(ours, parameter) is ours
            torch_prune.remove(theirs, parameter)
    compare(ours, theirs)
    assert isinstance(ours.weight, nn.Parameter)


def test_the_mask_follows_the_parameter():
    layer = prune.l1_unstructured(nn.Linear(4, 6), "weight", 0.5)
    with ag.no_grad():
        layer.weight_orig.fill_(3.0)
    layer(ag.ones(1, 4))
    np.testing.assert_array_equal(layer.weight.detach().numpy(), 3 * layer.weight_mask.numpy())


@pytest.mark.parametrize("name", ["random_unstructured", "random_structured"])
def test_random_pruning(name):
    ag.manual_seed(1)
    layer = nn.Conv2d(4, 10, 3)
    arguments = (0.3,) if name == "random_unstructured" else (0.3, 0)
    getattr(prune, name)(layer, "weight", *arguments)
    mask = layer.weight_mask.numpy()
    if name == "random_structured":
        kept = mask.reshape(10, -1)
        assert (kept == kept[:, :1]).all()
        assert kept[:, 0].sum() == 7
    else:
        assert mask.sum() == round(0.7 * mask.size)
    getattr(prune, name)(layer, "weight", *arguments)
    assert (layer.weight_mask.numpy() <= mask).all()
    assert layer.weight_mask.sum() < mask.sum()


def test_own_method_and_container():
    class EveryOther(prune.BasePruningMethod):
        def compute_mask(self, t, default_mask):
            mask = default_mask.clone()
            mask.view(-1)[::2] = 0
            return mask

    layer = nn.Linear(3, 2)
    method = EveryOther.apply(layer, "weight")
    assert layer.weight_mask.tolist() == [[0, 1, 0], [1, 0, 1]]
    container = prune.PruningContainer(method)
    assert len(container) == 1
    assert container[0] is method
    with pytest.raises(TypeError):
        container.add_pruning_method(3)
    pruned = prune.L1Unstructured(1).prune(ag.tensor([3.0, -1.0, 2.0]))
    assert pruned.tolist() == [3, 0, 2]


@pytest.mark.parametrize("call", [
    lambda p, lib, m: p.l1_unstructured(m, "weight", 1.5),
    lambda p, lib, m: p.l1_unstructured(m, "weight", -1),
    lambda p, lib, m: p.l1_unstructured(m, "weight", 99),
    lambda p, lib, m: p.l1_unstructured(m, "weight", "a"),
    lambda p, lib, m: p.l1_unstructured(m, "nothing", 0.5),
    lambda p, lib, m: p.ln_structured(m, "bias", 1, 2, 0),
    lambda p, lib, m: p.random_structured(m, "weight", 1, 5),
    lambda p, lib, m: p.remove(m, "weight"),
    lambda p, lib, m: p.global_unstructured([(m, "weight")], p.LnStructured, amount=1, n=2),
    lambda p, lib, m: p.global_unstructured(3, p.L1Unstructured, amount=1),
])  # fmt: skip
def test_mistakes(call):
    with pytest.raises(Exception) as theirs:  # noqa: PT011 - its type is what is asked for
        call(torch_prune, torch, torch.nn.Linear(2, 3))
    with pytest.raises(theirs.type):
        call(prune, ag, nn.Linear(2, 3))
