"""Lazy layers against torch: keys before and after, sizes, loading, misuse."""

from __future__ import annotations

import copy

import numpy as np
import pytest
from support.lazy_layers import LAYERS
from support.tolerances import GRADIENT, assert_close

import allgrad as ag
from allgrad import nn

torch = pytest.importorskip("torch")
pytestmark = [
    pytest.mark.torch,
    pytest.mark.filterwarnings("ignore:Lazy modules are:UserWarning"),
    pytest.mark.filterwarnings("ignore:Initializing zero-element:UserWarning"),
]


@pytest.mark.parametrize("name", LAYERS)
def test_first_batch(name):
    make, shape = LAYERS[name]
    ours, theirs = make(nn), make(torch.nn)
    assert repr(ours) == repr(theirs)
    assert list(ours.state_dict()) == list(theirs.state_dict())
    x = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    ours(ag.tensor(x)), theirs(torch.tensor(x))
    assert type(ours).__name__ == type(theirs).__name__ == name.split("_")[0].removeprefix("Lazy")
    assert repr(ours) == repr(theirs)
    assert not ours._hooks
    a, b = ours.state_dict(), theirs.state_dict()
    assert [(k, tuple(v.shape)) for k, v in a.items()] == [
        (k, tuple(v.shape)) for k, v in b.items()
    ]
    ours.load_state_dict({k: v.numpy() for k, v in b.items()})
    y, z = ours(ag.tensor(x)), theirs(torch.tensor(x))
    assert_close(y.detach().numpy(), z.detach().numpy(), GRADIENT)
    if ours.weight is not None:
        assert ours.weight.requires_grad
        y.sum().backward()
        assert ours.weight.grad is not None


def test_loading_gives_the_shape():
    layer, full = nn.LazyLinear(3), nn.Linear(4, 3)
    layer.load_state_dict(full.state_dict())
    assert layer.weight.shape == (3, 4)
    assert isinstance(layer.weight, nn.Parameter)
    x = ag.randn(2, 4)
    assert layer(x).tolist() == full(x).tolist()
    assert layer.in_features == 4
    nn.LazyLinear(3).load_state_dict(nn.LazyLinear(3).state_dict())
    with pytest.raises(RuntimeError, match="lazy"):
        full.load_state_dict(nn.LazyLinear(3).state_dict())


def test_before_the_first_batch():
    layer = nn.LazyConv2d(3, 2)
    assert repr(layer.weight) == "<UninitializedParameter>"
    for use in (lambda: layer.weight.shape, lambda: layer.weight + 1, lambda: layer.weight.numel()):
        with pytest.raises((ValueError, RuntimeError), match="no shape yet"):
            use()
    twin = copy.deepcopy(layer.double())
    twin(ag.ones(1, 4, 3, 3, dtype=ag.float64))
    assert twin.weight.dtype is ag.float64
    assert twin.weight.shape == (3, 4, 2, 2)
    assert type(layer) is nn.LazyConv2d
    with pytest.raises(RuntimeError, match=r"LazyConv2d.*\(2, 2\)"):
        layer(ag.ones(2, 2))
    with pytest.raises(ValueError, match="LazyBatchNorm1d"):
        nn.LazyBatchNorm1d()(ag.ones(2, 3, 4, 5))
