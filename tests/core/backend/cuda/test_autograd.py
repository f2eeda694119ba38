"""Gradients on a GPU: accumulation, hooks, in-place changes, second derivatives, own functions."""

from __future__ import annotations

import gc
import weakref

import numpy as np
import pytest
from support.emulated_gpu.state import counts

import allgrad as ag
import allgrad.nn.functional as F
from allgrad import autograd
from allgrad.utils.checkpoint import checkpoint, checkpoint_sequential

pytestmark = pytest.mark.usefixtures("gpu")


def leaf(*values):
    return ag.tensor(values, device="cuda", requires_grad=True)


def test_accumulation_and_hooks():
    x = leaf(1.0, 2.0)
    seen = []
    x.register_hook(lambda g: seen.append(g.device.type))
    x.register_post_accumulate_grad_hook(lambda t: seen.append(t.grad.device.type))
    y = x * 3
    y.retain_grad()
    y.register_hook(lambda g: g * 2)
    before = counts["synchronisations"]
    y.sum().backward()
    (x * x).sum().backward()
    assert counts["synchronisations"] == before
    assert x.grad.tolist() == [8, 10]
    assert y.grad.tolist() == [2, 2]
    assert seen == ["cuda"] * 4


def test_changes_in_place():
    x = leaf(1.0, 2.0)
    y = x.exp()
    y.add_(1)
    with pytest.raises(RuntimeError, match=r"modified|in place|changed"):
        y.sum().backward()
    z = x * 1
    z[0] = 5
    z.mul_(x)
    z.sum().backward()
    assert x.grad.tolist() == [5, 4]
    view = ag.zeros(2, 2, device="cuda")
    view[0].add_(x.detach())
    assert view.tolist() == [[1, 2], [0, 0]]
    with pytest.raises(RuntimeError, match="leaf"):
        x.add_(1)


def test_second_derivatives():
    x = leaf(1.0, 2.0)
    (g,) = autograd.grad((x**3).sum(), x, create_graph=True)
    (h,) = autograd.grad(g.sum(), x)
    assert (g.tolist(), h.tolist()) == ([3, 12], [6, 12])
    assert h.is_cuda
    net = ag.nn.Sequential(ag.nn.Linear(2, 3), ag.nn.Tanh(), ag.nn.Linear(3, 1)).cuda()
    image = leaf(0.3, 0.4)
    (slope,) = autograd.grad(net(image).sum(), image, create_graph=True)
    (slope.norm() - 1).square().backward()
    assert all(p.grad.is_cuda for p in net[:1].parameters())


def test_functional():
    x = leaf(1.0, 2.0)
    f = autograd.functional
    jacobian = f.jacobian(lambda t: t**2, x)
    assert (jacobian.is_cuda, jacobian.tolist()) == (True, [[2, 0], [0, 4]])
    assert f.hessian(lambda t: (t**3).sum(), x).tolist() == [[6, 0], [0, 12]]
    ones = ag.ones(2, device="cuda")
    assert f.vjp(lambda t: t**2, x, ones)[1].tolist() == [2, 4]
    assert f.jvp(lambda t: t**2, x, ones)[1].tolist() == [2, 4]
    assert f.hvp(lambda t: (t**3).sum(), x, ones)[1].tolist() == [6, 12]


def test_gradcheck():
    x = ag.randn(2, 3, device="cuda", dtype=ag.float64, requires_grad=True)
    assert autograd.gradcheck(lambda t: (t * t).tanh(), (x,))
    assert autograd.gradgradcheck(lambda t: t**3, (x,))


class Cube(autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x**3

    @staticmethod
    def backward(ctx, grad):
        (x,) = ctx.saved_tensors
        return grad * 3 * x**2


def test_functions_of_users():
    x = leaf(1.0, 2.0)
    y = Cube.apply(x)
    assert y.is_cuda
    y.sum().backward()
    assert x.grad.tolist() == [3, 12]
    (g,) = autograd.grad(Cube.apply(x).sum(), x, create_graph=True)
    assert autograd.grad(g.sum(), x)[0].tolist() == [6, 12]


def test_anomaly():
    with autograd.detect_anomaly():
        y = leaf(-1.0).sqrt().sum()
        with pytest.raises(RuntimeError, match="nan"):
            y.backward()


def test_no_grad_and_detach():
    x = leaf(1.0)
    with ag.no_grad():
        assert not (x * 2).requires_grad
    with ag.inference_mode():
        assert (x * 2).is_inference()
    d = x.detach()
    d += 1
    assert x.tolist() == [2]


def test_checkpoint():
    ag.manual_seed(0)
    net = ag.nn.Sequential(ag.nn.Linear(4, 8), ag.nn.Dropout(0.5), ag.nn.ReLU(), ag.nn.Linear(8, 2))
    net.cuda()
    x = ag.randn(3, 4, device="cuda")
    grads = []
    for run in (
        net,
        lambda t: checkpoint(net, t, use_reentrant=False),
        lambda t: checkpoint(net, t.clone().requires_grad_(), use_reentrant=True),
        lambda t: checkpoint_sequential(net, 2, t, use_reentrant=False),
    ):
        ag.manual_seed(3)
        net.zero_grad()
        run(x).square().sum().backward()
        grads.append([p.grad.cpu().numpy() for p in net.parameters()])
    for other in grads[1:]:
        for a, b in zip(grads[0], other, strict=True):
            np.testing.assert_array_equal(a, b)


def test_saved_memory_is_given_back():
    x = leaf(1.0, 2.0, 3.0)
    y = x.exp()
    saved = weakref.ref(y._array)
    loss = y.sum()
    del y
    loss.backward()
    gc.collect()
    assert saved() is None
    with pytest.raises(RuntimeError, match=r"second time|freed"):
        loss.backward()


def test_graph_of_both_devices():
    x = ag.tensor([1.0, 2.0], requires_grad=True)
    y = (x.cuda() * 2).cpu() + x
    F.mse_loss(y.cuda(), ag.zeros(2, device="cuda")).backward()
    assert x.grad.is_cpu
    assert x.grad.tolist() == [9, 18]
