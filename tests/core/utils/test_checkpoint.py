"""`utils.checkpoint`: the same gradients with less memory, in every setting that could notice."""

from __future__ import annotations

import contextlib
import gc
import weakref

import numpy as np
import pytest

import allgrad as ag
from allgrad import nn
from allgrad.utils.checkpoint import checkpoint, checkpoint_sequential


class Block(nn.Module):
    """Everything that could go wrong: dropout, fused ReLU, in-place change, norm, two outputs."""

    def __init__(self):
        super().__init__()
        self.first = nn.Linear(4, 8)
        self.norm = nn.LayerNorm(8)
        self.second = nn.Linear(8, 4)

    def forward(self, x, scale=1.0):
        h = ag.nn.functional.relu(self.first(x))
        h = ag.nn.functional.dropout(self.norm(h), 0.5, training=True)
        h = h * scale
        h += 1
        return self.second(h.tanh()) + x, h.sum()


def gradients(block, run, x):
    block.zero_grad()
    x.grad = None
    ag.manual_seed(3)
    y, extra = run(block, x)
    after = ag.rand(2)
    ((y * y).sum() + extra).backward()
    grads = [p.grad.clone() for p in block.parameters()]
    return [y.detach(), after, x.grad, *grads]


def same(ours, want):
    for a, b in zip(ours, want, strict=True):
        np.testing.assert_array_equal(a.numpy(), b.numpy())


@pytest.fixture
def block():
    return Block()


@pytest.fixture
def x():
    return ag.randn(5, 4).requires_grad_(True)


@pytest.mark.parametrize("reentrant", [None, True, False])
def test_gradients_are_the_same(block, x, reentrant):
    plain = gradients(block, lambda b, x: b(x, scale=2.0), x)
    ours = gradients(block, lambda b, x: checkpoint(b, x, use_reentrant=reentrant, scale=2.0), x)
    same(ours, plain)


def test_nested_and_shared(block, x):
    def twice(b, x):
        y, a = b(x)
        z, c = b(y)
        return z, a + c

    def inner(x):
        y, a = checkpoint(block, x)
        z, c = checkpoint(block, y)
        return z, a + c

    same(gradients(block, lambda b, x: checkpoint(inner, x), x), gradients(block, twice, x))


def test_autograd_grad_and_second_derivatives(block, x):
    def penalty(run):
        ag.manual_seed(1)
        y, _ = run(x)
        (slope,) = ag.autograd.grad(y.sum(), x, create_graph=True)
        return [slope.detach(), *ag.autograd.grad((slope**2).sum(), list(block.parameters())[:2])]

    same(penalty(lambda x: checkpoint(block, x)), penalty(block))


def test_input_without_gradient_and_no_grad(block):
    x = ag.randn(3, 4)
    y, _ = checkpoint(block, x)
    y.sum().backward()
    assert block.first.weight.grad is not None
    with ag.no_grad():
        assert not checkpoint(block, x)[0].requires_grad


def test_what_is_saved_is_freed_until_backward(x):
    refs = []

    def function(x):
        h = x * 2
        refs.append(weakref.ref(h))
        saved = (h.exp() * h).tanh()
        refs.append(weakref.ref(saved.grad_fn.saved[0]))
        return saved * x

    y = checkpoint(function, x)
    assert [r() for r in refs] == [None, None]
    y.sum().backward()
    assert len(refs) == 4  # it ran again
    assert [r() for r in refs] == [None] * 4


def test_no_reference_cycle(x):
    gc.collect()
    gc.disable()
    try:
        y = checkpoint(lambda x: (x * 2).exp(), x)
        node = weakref.ref(y.grad_fn)
        y.sum().backward()
        del y
        assert node() is None
    finally:
        gc.enable()


def test_hooks_fire_once(block, x):
    seen = []
    for p in block.parameters():
        p.register_post_accumulate_grad_hook(lambda p: seen.append(p))
    x.register_hook(lambda g: seen.append(x))
    y, extra = checkpoint(block, x)
    (y.sum() + extra).backward()
    assert len(seen) == len(list(block.parameters())) + 1


def test_retained_graph(x):
    y = checkpoint(lambda x: x.exp().exp(), x).sum()
    y.backward(retain_graph=True)
    once = x.grad.clone()
    y.backward()
    np.testing.assert_allclose(x.grad.numpy(), 2 * once.numpy())


def test_random_numbers_may_be_left_alone():
    draws = []

    def function(x):
        draws.append(ag.rand(1).item())
        return x.exp()

    x = ag.ones(1, requires_grad=True)
    for preserve in (True, False):
        ag.manual_seed(0)
        checkpoint(function, x, preserve_rng_state=preserve).backward()
    assert draws[0] == draws[1] == draws[2] != draws[3]


def test_contexts_are_entered(x):
    entered = []

    @contextlib.contextmanager
    def context(name):
        entered.append(name)
        yield

    y = checkpoint(lambda x: x.exp(), x, context_fn=lambda: (context("first"), context("again")))
    y.sum().backward()
    assert entered == ["first", "again"]


class Custom(ag.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        y = x.exp()
        ctx.save_for_backward(x, y)
        return y

    @staticmethod
    def backward(ctx, grad):
        x, y = ctx.saved_tensors
        return grad * y + 0 * x


def test_precision_is_that_of_forward(block, x):
    def run(function):
        ag.manual_seed(2)
        block.zero_grad()
        with ag.autocast("cpu"):
            block.first(x)  # casts a weight before the region
            y, extra = function(x)
        assert y.dtype == ag.float32
        (y.sum() + extra.float()).backward()
        return [p.grad.clone() for p in block.parameters()]

    same(run(lambda x: checkpoint(block, x)), run(block))


def test_users_functions_inside(x):
    checkpoint(lambda x: Custom.apply(x) * 2, x).sum().backward()
    np.testing.assert_allclose(x.grad.numpy(), 2 * np.exp(x.detach().numpy()), rtol=1e-6)


def test_dictionaries_and_lists(x):
    out = checkpoint(lambda d: {"y": [d["x"].exp()], "n": 3}, {"x": x})
    assert out["n"] == 3
    out["y"][0].sum().backward()
    np.testing.assert_allclose(x.grad.numpy(), np.exp(x.detach().numpy()), rtol=1e-6)


def test_changed_inputs_are_an_error(x):
    h = x * 1
    y = checkpoint(lambda h: h.exp(), h).sum()
    h.add_(1)
    with pytest.raises(RuntimeError, match="modified by an in-place operation"):
        y.backward()


def test_other_results_are_an_error(x):
    calls = []

    def grows(x):
        calls.append(1)
        return x.exp() if len(calls) == 1 else x.exp().exp()

    def changes(x):
        calls.append(1)
        return (x.exp() if len(calls) == 1 else x.tanh()).sum()

    def shrinks(x):
        calls.append(1)
        return x[: 5 - len(calls)].exp().sum()

    for function, message in ((grows, "recorded 1 operations"), (changes, "recorded Exp"),
                              (shrinks, "recorded Exp of shape")):  # fmt: skip
        calls.clear()
        y = checkpoint(function, x).sum()
        with pytest.raises(RuntimeError, match=message):
            y.backward()


def test_sequential(x):
    net = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 6), nn.Tanh(), nn.Linear(6, 1))
    net(x).sum().backward()
    want = [x.grad, *[p.grad for p in net.parameters()]]
    for segments in (1, 2, 5):
        x.grad = None
        net.zero_grad()
        checkpoint_sequential(net, segments, x, use_reentrant=False).sum().backward()
        same([x.grad, *[p.grad for p in net.parameters()]], want)
    for count, options in ((0, {}), (6, {}), (2, {"unknown": 1})):
        with pytest.raises(ValueError, match="checkpoint_sequential"):
            checkpoint_sequential(net, count, x, **options)


def test_unknown_settings(x):
    with pytest.raises(ValueError, match="determinism_check"):
        checkpoint(lambda x: x, x, determinism_check="always")
