"""Initialisation: ranges, variances, structure."""

from __future__ import annotations

import math

import numpy as np
import pytest

import allgrad as ag
from allgrad.nn import init


def empty(*shape):
    return ag.empty(*shape, requires_grad=True)


def spread(t):
    return t.detach().numpy().astype(np.float64)


@pytest.mark.parametrize(("fill", "shape", "variance"), [
    (lambda t: init.uniform_(t, -1, 3), (100, 90), 16 / 12),
    (lambda t: init.normal_(t, 0, 0.3), (100, 90), 0.09),
    (lambda t: init.xavier_uniform_(t, gain=2), (100, 60), 4 * 2 / 160),
    (lambda t: init.xavier_normal_(t), (100, 60), 2 / 160),
    (lambda t: init.kaiming_uniform_(t, nonlinearity="relu"), (100, 60), 2 / 60),
    (lambda t: init.kaiming_normal_(t, mode="fan_out", nonlinearity="relu"), (100, 60), 2 / 100),
    (lambda t: init.kaiming_uniform_(t, a=math.sqrt(5)), (80, 20, 3, 3), 1 / 3 / 180),
    (lambda t: init.xavier_uniform_(t), (40, 20, 3, 3), 2 / (540)),
])  # fmt: skip
def test_variance(fill, shape, variance):
    t = empty(*shape)
    assert fill(t) is t
    assert t.requires_grad
    assert t.is_leaf
    values = spread(t)
    assert abs(values.var() / variance - 1) < 0.06
    middle = 1.0 if values.min() < -0.9 and values.max() > 2.9 else 0.0
    assert abs(values.mean() - middle) < 0.05 * max(values.std(), 1e-3) + 0.01


def test_uniform_stays_in_range():
    values = spread(init.uniform_(empty(5000), 2, 3))
    assert 2 <= values.min() < 2.01 < 2.99 < values.max() < 3


def test_trunc_normal():
    values = spread(init.trunc_normal_(empty(5000), 1, 2, -1, 2.5))
    assert -1 <= values.min() < -0.95
    assert 2.45 < values.max() <= 2.5


def test_trunc_normal_far_from_its_mean():
    with pytest.warns(UserWarning, match="2 std"):
        values = spread(init.trunc_normal_(empty(2000), 6, 1, -2, 2))
    assert values.min() > -1.0
    assert values.max() <= 2
    assert abs(values.mean() - 1.77) < 0.03  # of a normal distribution 4 std below its mean


def test_nothing_to_fill():
    for fill in (init.kaiming_uniform_, init.kaiming_normal_):
        with pytest.warns(UserWarning, match="no-op"):
            assert fill(empty(0, 3)).shape == (0, 3)
    assert init.orthogonal_(empty(0, 3)).shape == (0, 3)


MISTAKES = {
    "gain name": lambda lib, init: init.calculate_gain("x"),
    "gain slope": lambda lib, init: init.calculate_gain("leaky_relu", "a"),
    "xavier": lambda lib, init: init.xavier_uniform_(lib.empty(3)),
    "kaiming": lambda lib, init: init.kaiming_normal_(lib.empty(3)),
    "kaiming mode": lambda lib, init: init.kaiming_uniform_(lib.empty(3, 3), mode="x"),
    "eye": lambda lib, init: init.eye_(lib.empty(3)),
    "dirac": lambda lib, init: init.dirac_(lib.empty(3, 3)),
    "dirac groups": lambda lib, init: init.dirac_(lib.empty(3, 3, 3), 2),
    "orthogonal": lambda lib, init: init.orthogonal_(lib.empty(3)),
    "sparse": lambda lib, init: init.sparse_(lib.empty(3), 0.1),
}


@pytest.mark.torch
@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes_raise_what_pytorch_raises(name):
    torch = pytest.importorskip("torch")
    with pytest.raises(Exception) as theirs:  # noqa: PT011 - its type is what is asked for
        MISTAKES[name](torch, torch.nn.init)
    with pytest.raises(theirs.type):
        MISTAKES[name](ag, init)


def test_constants():
    assert spread(init.constant_(empty(3), 4)).tolist() == [4, 4, 4]
    assert spread(init.ones_(empty(2))).tolist() == [1, 1]
    assert spread(init.zeros_(empty(2))).tolist() == [0, 0]
    assert spread(init.eye_(empty(2, 3))).tolist() == [[1, 0, 0], [0, 1, 0]]


@pytest.mark.parametrize("shape", [(4, 6), (6, 4), (5, 3, 2, 2)])
def test_orthogonal(shape):
    q = spread(init.orthogonal_(empty(*shape), gain=2)).reshape(shape[0], -1)
    small = q @ q.T if q.shape[0] <= q.shape[1] else q.T @ q
    np.testing.assert_allclose(small, 4 * np.eye(len(small)), atol=1e-5)


def test_sparse():
    values = spread(init.sparse_(empty(20, 50), 0.25, std=3))
    assert ((values == 0).sum(axis=0) == 5).all()
    assert abs(values[values != 0].std() - 3) < 0.3


@pytest.mark.torch
@pytest.mark.parametrize(
    ("shape", "groups"), [((4, 3, 3), 1), ((4, 2, 3, 5), 2), ((3, 5, 1, 1, 3), 1)]
)
def test_dirac(shape, groups):
    torch = pytest.importorskip("torch")
    expected = torch.nn.init.dirac_(torch.empty(*shape), groups)
    np.testing.assert_array_equal(spread(init.dirac_(empty(*shape), groups)), expected.numpy())


@pytest.mark.torch
def test_gains():
    torch = pytest.importorskip("torch")
    for name in ("linear", "conv2d", "sigmoid", "tanh", "relu", "selu", "leaky_relu"):
        assert init.calculate_gain(name) == torch.nn.init.calculate_gain(name)
    assert init.calculate_gain("leaky_relu", 0.3) == torch.nn.init.calculate_gain("leaky_relu", 0.3)


def test_generator():
    a, b = (init.normal_(empty(5), generator=ag.Generator(4)) for _ in range(2))
    assert a.equal(b)


@pytest.mark.parametrize(("call", "message"), [
    (lambda: init.calculate_gain("swish"), "'swish'.*relu"),
    (lambda: init.kaiming_normal_(empty(2, 2), mode="fan"), "'fan'.*fan_in"),
    (lambda: init.xavier_normal_(empty(2)), r"\(2,\)"),
    (lambda: init.eye_(empty(2)), "eye_"),
    (lambda: init.dirac_(empty(2, 2)), "dirac_"),
    (lambda: init.sparse_(empty(2), 0.1), "sparse_"),
    (lambda: init.orthogonal_(empty(2)), "orthogonal_"),
])  # fmt: skip
def test_mistakes(call, message):
    with pytest.raises((ValueError, RuntimeError), match=message):
        call()
