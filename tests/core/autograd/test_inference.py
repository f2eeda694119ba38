"""`inference_mode`, and `Variable`, the old name of tensors."""

from __future__ import annotations

import pytest

import allgrad as ag
import allgrad.nn.functional as F
from allgrad import nn


def test_what_is_made_inside_is_marked():
    w = ag.ones(2, requires_grad=True)
    with ag.inference_mode():
        assert ag.is_inference_mode_enabled()
        assert not ag.is_grad_enabled()
        y = w * 2
        made = ag.zeros(2)
        linear = F.linear(w, ag.ones(3, 2))
    for t in (y, made, linear, y.view(2, 1), y[0]):
        assert t.is_inference()
        assert not t.requires_grad
    assert not w.is_inference()
    assert not w.detach().is_inference()
    assert not ag.is_inference_mode_enabled()
    assert not y.clone().is_inference()


def test_views_of_normal_tensors_stay_normal():
    x = ag.ones(2, 2)
    with ag.inference_mode():
        assert not x.t().is_inference()


def test_they_cannot_enter_a_graph():
    with ag.inference_mode():
        c = ag.ones(2) * 3
    w = ag.ones(2, requires_grad=True)
    with pytest.raises(RuntimeError, match="inference tensors cannot be saved for backward"):
        w * c
    (w + c).sum().backward()  # an addition saves nothing
    assert w.grad.tolist() == [1.0, 1.0]
    (w * c.clone()).sum().backward()
    with pytest.raises(RuntimeError, match="inference_mode"):
        c.requires_grad_(True)
    with pytest.raises(RuntimeError, match="inference_mode"):
        c.add_(1)
    with ag.inference_mode():
        c.add_(1)
    assert c.tolist() == [4.0, 4.0]


def test_nesting_decorators_and_modes():
    with ag.inference_mode():
        with ag.inference_mode(False):
            assert ag.is_grad_enabled()
            assert not ag.is_inference_mode_enabled()
        assert ag.is_inference_mode_enabled()

    @ag.inference_mode()
    def predict(x):
        return x * 2

    @ag.inference_mode
    def also(x):
        return x * 2

    w = ag.ones(1, requires_grad=True)
    assert predict(w).is_inference()
    assert also(w).is_inference()
    assert not ag.is_inference_mode_enabled()


def test_a_model_predicts_the_same():
    net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.ReLU(), nn.Flatten(),
                        nn.Linear(8, 2)).eval()  # fmt: skip
    x = ag.randn(3, 1, 4, 4)
    want = net(x)
    with ag.inference_mode():
        got = net(x)
    assert got.is_inference()
    assert (got == want).all()


def test_variables_are_tensors():
    from allgrad.autograd import Variable

    t = ag.ones(2)
    v = Variable(t, requires_grad=True)
    assert v.requires_grad
    assert not t.requires_grad
    assert isinstance(t, Variable)
    assert isinstance(v, ag.Tensor)
    v.detach().zero_()
    assert t.sum().item() == 0
    assert not isinstance(3, Variable)
    with pytest.raises(TypeError):
        Variable(3)
    with pytest.raises(RuntimeError, match="volatile"):
        Variable(t, volatile=True)
