"""Loss layers: the options that the op table does not reach, and single samples."""

from __future__ import annotations

import numpy as np
import pytest
from support.twin import both

import allgrad as ag
from allgrad import nn

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.torch

RNG = np.random.default_rng(0)
LOGITS = RNG.standard_normal((4, 5))
IMAGE = RNG.standard_normal((2, 5, 3, 3))
SHARES = RNG.dirichlet(np.ones(5), 4)
WEIGHT = RNG.uniform(0.5, 2, 5)
CLASSES = np.array([1, 0, 4, 4])
PLANE = RNG.integers(0, 5, (2, 3, 3))
UNIT = RNG.uniform(0.05, 0.95, (4, 5))

LOSSES = {
    "MSELoss": ({"x": LOGITS, "y": SHARES}, [{}, {"reduction": "sum"}, {"reduction": "none"}]),
    "L1Loss": ({"x": LOGITS, "y": SHARES}, [{}, {"reduction": "sum"}]),
    "SmoothL1Loss": ({"x": LOGITS, "y": SHARES}, [{}, {"beta": 0.3}]),
    "HuberLoss": ({"x": LOGITS, "y": SHARES}, [{}, {"delta": 0.3}]),
    "BCELoss": ({"x": UNIT, "y": SHARES}, [{}, {"reduction": "sum"}]),
    "BCEWithLogitsLoss": ({"x": LOGITS, "y": SHARES}, [{}, {"reduction": "none"}]),
    "KLDivLoss": ({"x": LOGITS, "y": SHARES}, [{"reduction": "batchmean"}, {"reduction": "sum"},
                  {"reduction": "sum", "log_target": True}]),
    "NLLLoss": ({"x": LOGITS, "y": CLASSES}, [{}, {"ignore_index": 4}]),
    "CrossEntropyLoss": ({"x": LOGITS, "y": CLASSES}, [{}, {"ignore_index": 4},
                         {"label_smoothing": 0.1}]),
}  # fmt: skip
CASES = [(name, i) for name, (_, options) in LOSSES.items() for i in range(len(options))]


@pytest.mark.parametrize(("name", "number"), CASES)
def test_layers(name, number):
    arrays, options = LOSSES[name]

    def scenario(lib, F, t):
        loss = getattr(lib.nn, name)(**options[number])(t.x, t.y)
        loss.sum().backward()
        return loss, repr(getattr(lib.nn, name)())

    both(scenario, **arrays)


@pytest.mark.parametrize("name", ["NLLLoss", "CrossEntropyLoss", "BCELoss", "BCEWithLogitsLoss"])
def test_weights_are_buffers(name):
    def scenario(lib, F, t):
        loss = getattr(lib.nn, name)(weight=t.w)
        loss(t.x, t.y).backward()
        return str(list(loss.state_dict())), len(list(loss.parameters()))

    arrays = dict(LOSSES[name][0])
    both(scenario, constants=("w",), w=WEIGHT, **arrays)


def test_positive_weight():
    def scenario(lib, F, t):
        loss = lib.nn.BCEWithLogitsLoss(pos_weight=t.w)
        loss(t.x, t.y).backward()
        return str(list(loss.state_dict()))

    both(scenario, constants=("w",), w=WEIGHT, x=LOGITS, y=SHARES)


def test_images():
    def scenario(lib, F, t):
        loss = lib.nn.CrossEntropyLoss(t.w, ignore_index=2, label_smoothing=0.1)(t.x, t.y)
        loss.backward()
        return loss, F.nll_loss(F.log_softmax(t.x, 1), t.y, reduction="none")

    both(scenario, constants=("w",), w=WEIGHT, x=IMAGE, y=PLANE)


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_single_sample(reduction, smoothing):
    def scenario(lib, F, t):
        options = {"reduction": reduction, "label_smoothing": smoothing}
        a = F.cross_entropy(t.x, t.y, **options)
        b = F.cross_entropy(t.x, t.p, **options)
        c = F.nll_loss(F.log_softmax(t.x, 0), t.y, reduction=reduction)
        (a + 2 * b + 3 * c).backward()
        return a, b, c

    both(scenario, x=LOGITS[0], y=CLASSES[0], p=SHARES[0])


def test_everything_ignored_is_nan_as_in_pytorch():
    def scenario(lib, F, t):
        loss = F.cross_entropy(t.x, t.y, reduction="sum")
        loss.backward()
        return loss, bool(F.cross_entropy(t.x, t.y).isnan())

    both(scenario, x=LOGITS, y=np.full(4, -100))


def test_target_of_another_dtype():
    def scenario(lib, F, t):
        loss = F.mse_loss(t.x, (t.x > 0).to(lib.float64)) + F.mse_loss(t.x, lib.ones(4, 5))
        loss.backward()
        return loss

    both(scenario, x=LOGITS)


def test_broadcast_target_of_mse():
    x = ag.tensor(LOGITS, requires_grad=True)
    t = ag.tensor(SHARES[:1], requires_grad=True)
    nn.functional.mse_loss(x, t).backward()
    assert t.grad.shape == (1, 5)
    np.testing.assert_allclose(t.grad.numpy(), -x.grad.numpy().sum(0, keepdims=True))


def test_weighted_mse():
    def scenario(lib, F, t):
        loss = F.mse_loss(t.x, t.y, weight=t.w)
        loss.backward()
        return loss

    both(scenario, constants=("w",), x=LOGITS, y=SHARES, w=np.broadcast_to(WEIGHT, (4, 5)))
