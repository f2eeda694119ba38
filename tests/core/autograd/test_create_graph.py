"""Backward passes with a graph of their own, like PyTorch's: accumulation, hooks, orders."""

from __future__ import annotations

import gc
import weakref

import numpy as np
import pytest
from support.twin import both

import allgrad as ag
import allgrad.nn.functional as F
from allgrad.errors import GradientError
from allgrad.ops.base import Op
from allgrad.tensors import graph

X = np.arange(6.0).reshape(2, 3) / 4 - 0.6
W = np.linspace(-1, 1, 12).reshape(4, 3)


def third_derivative(lib, F, t):
    y = (t.x**5).sum()
    orders = []
    for _ in range(4):
        (y,) = lib.autograd.grad(y.sum(), t.x, create_graph=True)
        orders.append(y)
    return tuple(orders)


def backward_twice_accumulates(lib, F, t):
    (t.x**3).sum().backward(create_graph=True)
    first = t.x.grad
    (t.x**2).sum().backward(create_graph=True)
    (slope,) = lib.autograd.grad(t.x.grad.sum(), t.x)
    t.x.grad = None
    return first.detach(), slope


def through_grad(lib, F, t):
    y = (t.x @ t.w.t()).tanh().sum()
    y.backward(create_graph=True)
    penalty = (t.x.grad**2).sum()
    t.x.grad = t.w.grad = None
    penalty.backward()


def gradient_penalty(lib, F, t):
    score = F.softplus(F.linear(F.relu(F.linear(t.x, t.w, t.b)), t.v)).sum()
    (slope,) = lib.autograd.grad(score, t.x, create_graph=True)
    loss = score + ((slope.norm(2, dim=1) - 1) ** 2).mean()
    loss.backward()
    return loss


def hooks_see_connected_gradients(lib, F, t):
    seen = []
    h = t.x * 2
    h.register_hook(lambda g: seen.append(g.requires_grad) or g * 3)
    t.x.register_hook(lambda g: seen.append(g.requires_grad))
    h.retain_grad()
    (slope,) = lib.autograd.grad((h**3).sum(), t.x, create_graph=True)
    (slope**2).sum().backward()
    return tuple(map(str, seen))


def retained_gradient(lib, F, t):
    h = t.x.exp()
    h.retain_grad()
    (h * h).sum().backward(create_graph=True)
    (second,) = lib.autograd.grad(h.grad.sum(), t.x)
    t.x.grad = None
    return h.grad.detach(), second


def gradient_of_the_gradient_argument(lib, F, t):
    y = t.x.sin()
    v = t.v.reshape(1, 4)[:, :3].expand(2, 3)
    (slope,) = lib.autograd.grad(y, t.x, v, create_graph=True)
    slope.sum().backward()


def changed_in_place_before(lib, F, t):
    h = t.x * 1
    h[:, 1:] *= t.w[0, :2]
    h.mul_(2)
    (slope,) = lib.autograd.grad((h**3).sum(), t.x, create_graph=True)
    slope.pow(2).sum().backward()


def views(lib, F, t):
    y = t.x.t().reshape(-1)[1:5].unsqueeze(0).expand(3, 4)
    (slope,) = lib.autograd.grad((y**3).sum(), t.x, create_graph=True)
    slope.pow(2).sum().backward()


def in_no_grad(lib, F, t):
    y = (t.x**3).sum()
    with lib.no_grad():
        (slope,) = lib.autograd.grad(y, t.x, create_graph=True)
    return slope.requires_grad, slope.detach()


def inputs_of_backward(lib, F, t):
    h = t.x.exp()
    y = (h @ t.w.t()).sum()
    y.backward(inputs=[t.w, h], retain_graph=True)
    none = t.x.grad is None
    y.backward(inputs=t.x)
    return none, h.grad


def inputs_with_graph(lib, F, t):
    y = (t.x**3).sum() * t.v.sum()
    y.backward(create_graph=True, inputs=[t.x])
    slope = t.x.grad.sum()
    t.x.grad = None
    slope.backward()


def unused_inputs(lib, F, t):
    y = t.x.sum()
    some = lib.autograd.grad(y, [t.x, t.w], allow_unused=True, retain_graph=True)
    all_ = lib.autograd.grad(y, [t.x, t.w], materialize_grads=True)
    return some[1] is None, all_[1]


def hooks_behind_what_was_asked(lib, F, t):
    """`grad` walks only the way to its inputs: hooks behind them are not called."""
    called = []
    a = t.x * 2
    a.register_hook(lambda g: called.append("a"))
    b = a.exp()
    b.register_hook(lambda g: called.append("b"))
    side = t.w.exp()
    side.register_hook(lambda g: called.append("side"))
    y = b.sum() * side.sum()
    lib.autograd.grad(y, b)
    return tuple(called)


def retain_graph_defaults(lib, F, t):
    y = t.x.exp().sum()
    y.backward(create_graph=True)
    y.backward()
    try:
        y.backward()
    except RuntimeError:
        return "freed"
    finally:
        t.x.grad = t.x.grad.detach()
    return "kept"


SCENARIOS = [
    third_derivative,
    backward_twice_accumulates,
    through_grad,
    gradient_penalty,
    hooks_see_connected_gradients,
    retained_gradient,
    gradient_of_the_gradient_argument,
    changed_in_place_before,
    views,
    in_no_grad,
    inputs_of_backward,
    inputs_with_graph,
    unused_inputs,
    hooks_behind_what_was_asked,
    retain_graph_defaults,
]


@pytest.mark.torch
@pytest.mark.filterwarnings("ignore")  # PyTorch warns of backward(create_graph=True)
@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda s: s.__name__)
def test_like_torch(scenario):
    both(scenario, x=X, w=W, b=np.array([0.1, -0.2, 0.3, 0.0]), v=np.array([[0.5, -1, 2, 0.3]]))


# -- ours alone ---------------------------------------------------------------------------------
class Odd(Op):
    """An op that nobody has written a rule for."""

    def forward(self, x):
        return x * 3

    def backward(self, grad):
        return (grad * 3,)


def test_an_op_without_rule_is_named():
    x = ag.tensor([1.0], requires_grad=True)
    y = graph.apply(Odd(), x).sum()
    with pytest.raises(GradientError, match=r"Odd: gradients with create_graph=True"):
        ag.autograd.grad(y, x, create_graph=True)
    assert ag.autograd.grad(y, x)[0].item() == 3


def test_saved_values_are_guarded():
    x = ag.tensor([1.0, 2.0], requires_grad=True)
    h = x * 1
    y = (h * h).sum()
    h.add_(1)
    with pytest.raises(RuntimeError, match="modified by an in-place operation"):
        ag.autograd.grad(y, x, create_graph=True)


def test_values_in_the_graph_of_a_gradient_are_guarded():
    x = ag.tensor([1.0, 2.0], requires_grad=True)
    h = x * 1
    (slope,) = ag.autograd.grad((h**3).sum(), x, create_graph=True)
    h.add_(1)
    with pytest.raises(RuntimeError, match="modified by an in-place operation"):
        slope.sum().backward()


@pytest.mark.parametrize("dtype", [ag.float16, ag.bfloat16, ag.float32])
def test_dtype_is_kept(dtype):
    x = ag.tensor([[0.5, -1.0], [2.0, 1.5]]).to(dtype).requires_grad_(True)
    w = ag.ones(3, 2).to(dtype).requires_grad_(True)
    (slope,) = ag.autograd.grad(F.linear(x, w).tanh().sum(), x, create_graph=True)
    assert slope.dtype == dtype
    (slope * slope).sum().backward()
    assert w.grad.dtype == dtype
    assert ag.isfinite(w.grad.float()).all()


@pytest.mark.parametrize("dtype", [ag.bfloat16, ag.float16, ag.float32])
def test_max_pool_finds_every_window_in_half_precision(dtype):
    x = ag.randperm(2 * 41 * 43).reshape(1, 2, 41, 43).float()
    x = (x % 128).to(dtype).requires_grad_(True)  # ties too: the first one is taken
    v = ag.ones(1, 2, 21, 22).to(dtype).requires_grad_(True)
    y = F.max_pool2d(x, 3, 2, 1)
    (slope,) = ag.autograd.grad(y, x, v, create_graph=True)
    (back,) = ag.autograd.grad(slope, v, x.detach())  # picks x where the windows took it
    assert (back == y).all()


def test_graphs_are_freed_without_the_garbage_collector():
    gc.collect()
    gc.disable()
    try:
        x = ag.tensor([1.0, 2.0], requires_grad=True)
        (slope,) = ag.autograd.grad((x.exp() * x).sum(), x, create_graph=True)
        node = weakref.ref(slope.grad_fn)
        (slope**2).sum().backward()
        del slope
        assert node() is None
    finally:
        gc.enable()


def test_ready_hooks_fire_once_per_run():
    x = ag.tensor([1.0, 2.0], requires_grad=True)
    calls = []
    x.register_post_accumulate_grad_hook(lambda t: calls.append(t.grad.tolist()))
    (x * x + x.exp() * 0).sum().backward(create_graph=True)
    assert calls == [[2.0, 4.0]]


def test_a_module_s_backward_hook_sees_the_gradient():
    net = ag.nn.Linear(2, 1)
    seen = []
    net.register_full_backward_hook(lambda m, gi, go: seen.append(go[0].tolist()))
    x = ag.ones(3, 2).requires_grad_(True)
    (slope,) = ag.autograd.grad(net(x).pow(2).sum(), x, create_graph=True)
    slope.pow(2).sum().backward()
    assert seen[0] == (2 * net(x)).tolist()
    assert net.weight.grad is not None


def test_batched_gradients_are_refused():
    x = ag.tensor([1.0], requires_grad=True)
    with pytest.raises(NotImplementedError, match="is_grads_batched"):
        ag.autograd.grad(x * 2, x, is_grads_batched=True)
    with pytest.raises(ValueError, match="materialize_grads"):
        ag.autograd.grad(x * 2, x, allow_unused=False, materialize_grads=True)


def test_nodes_tell_their_names_and_neighbours():
    x = ag.tensor([1.0], requires_grad=True)
    y = (x * 2).exp()
    assert y.grad_fn.name() == "ExpBackward"
    ((mul, slot),) = y.grad_fn.next_functions
    assert (mul.name(), slot) == ("MulBackward", 0)
    ends = [node for node, _ in mul.next_functions if node is not None]
    assert ends[0].name() == "AccumulateGrad"
    assert ends[0].variable is x
    assert y.retains_grad is False
    y.retain_grad()
    assert y.retains_grad is True
