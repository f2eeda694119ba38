"""Pending outputs (Note [Pending outputs]): a ReLU that is absorbed must never be noticed."""

from __future__ import annotations

import gc
import weakref

import numpy as np
import pytest
from support.twin import both

import allgrad as ag
from allgrad import nn

pytestmark = pytest.mark.torch


def numbers(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def conv(lib, F, t):
    return F.conv2d(t.x, t.w, t.b, padding=1)


def linear(lib, F, t):
    return F.linear(t.x, t.w, t.b)


def batch_norm(lib, F, t):
    return F.batch_norm(t.x, t.mean, t.var, t.w, t.b, training=True, momentum=0.3)


def batch_norm_inference(lib, F, t):
    return F.batch_norm(t.x, t.mean, t.var, t.w, t.b)


def addition(lib, F, t):
    return t.x + t.w


STATISTICS = {"mean": numbers(3, seed=4), "var": np.abs(numbers(3, seed=5)) + 0.5}
PRODUCERS = {
    conv: {"x": numbers(2, 3, 5, 5), "w": numbers(3, 3, 3, 3, seed=1), "b": numbers(3, seed=2)},
    linear: {"x": numbers(4, 5), "w": numbers(3, 5, seed=1), "b": numbers(3, seed=2)},
    batch_norm: {"x": numbers(4, 3, 2, 2), "w": numbers(3, seed=1), "b": numbers(3, seed=2),
                 **STATISTICS},
    batch_norm_inference: {"x": numbers(4, 3, 2, 2), "w": numbers(3, seed=1),
                           "b": numbers(3, seed=2), **STATISTICS},
    addition: {"x": numbers(2, 3, 4, 4), "w": numbers(2, 3, 4, 4, seed=1)},
}  # fmt: skip


def plain(make, lib, F, t):
    y = F.relu(make(lib, F, t))
    y.sum().backward()
    return y


def looked_at_before(make, lib, F, t):
    h = make(lib, F, t)
    seen = h.detach().clone()
    y = F.relu(h)
    (y * y).sum().backward()
    return seen, h, y


def looked_at_after(make, lib, F, t):
    h = make(lib, F, t)
    y = F.relu(h)
    seen = h.detach().clone()
    (y * y).sum().backward()
    return seen, h, y


def used_twice(make, lib, F, t):
    h = make(lib, F, t)
    y = F.relu(h)
    (y * h.sigmoid()).sum().backward()
    return y


def relu_twice(make, lib, F, t):
    h = make(lib, F, t)
    a, b = F.relu(h), F.relu(h)
    (a * b).sum().backward()
    return a, b


def relu_of_relu(make, lib, F, t):
    y = F.relu(F.relu(make(lib, F, t)))
    y.sum().backward()
    return y


def intermediate_changed_before(make, lib, F, t):
    h = make(lib, F, t)
    h.mul_(-2)
    y = F.relu(h)
    y.sum().backward()
    return h, y


def intermediate_changed_after(make, lib, F, t):
    h = make(lib, F, t)
    y = F.relu(h)
    h.mul_(3)
    (y.sum() + h.sum()).backward()
    return h, y


def weight_changed_before_relu(make, lib, F, t):
    h = make(lib, F, t)
    with lib.no_grad():
        t.w.add_(5)
    return F.relu(h).detach()


def input_alias_changed(make, lib, F, t):
    alias = t.x.detach().numpy()
    h = make(lib, F, t)
    alias[...] = 0
    return F.relu(h).detach()


def weight_alias_changed(make, lib, F, t):
    alias = t.w.detach().numpy()
    h = make(lib, F, t)
    alias += 1
    return F.relu(h).detach()


def alias_of_intermediate_changed(make, lib, F, t):
    h = make(lib, F, t)
    h.detach().numpy()[...] = 1
    return F.relu(h).detach()


def in_place_relu(make, lib, F, t):
    h = make(lib, F, t)
    y = F.relu(h, inplace=True)
    assert y is h
    (y * y).sum().backward()
    return y


def in_place_relu_after_relu(make, lib, F, t):
    h = make(lib, F, t)
    y = F.relu(h)
    F.relu(h, inplace=True)
    (y * h).sum().backward()
    return h, y


def in_place_relu_without_grad(make, lib, F, t):
    h = make(lib, F, t)
    with lib.no_grad():
        F.relu(h, inplace=True)
    h.sum().backward()
    return h


def hook_before(make, lib, F, t):
    seen = []
    h = make(lib, F, t)
    h.register_hook(lambda g: seen.append(g.clone()))
    y = F.relu(h)
    (y * y).sum().backward()
    return len(seen), seen[0]


def hook_after(make, lib, F, t):
    seen = []
    h = make(lib, F, t)
    y = F.relu(h)
    h.register_hook(lambda g: seen.append(g.clone()))
    (y * y).sum().backward()
    return len(seen), seen[0]


def hook_replaces(make, lib, F, t):
    h = make(lib, F, t)
    y = F.relu(h)
    h.register_hook(lambda g: g * 2)
    (y * y).sum().backward()
    return y


def retained_before(make, lib, F, t):
    h = make(lib, F, t)
    h.retain_grad()
    F.relu(h).sum().backward()
    return h.grad


def retained_after(make, lib, F, t):
    h = make(lib, F, t)
    y = F.relu(h)
    h.retain_grad()
    y.retain_grad()
    (y * 3).sum().backward()
    return h.grad, y.grad


def retained_after_two_relus(make, lib, F, t):
    h = make(lib, F, t)
    a, b = F.relu(h), F.relu(h)
    h.retain_grad()
    (a * 2 + b).sum().backward()
    return h.grad


def without_grad(make, lib, F, t):
    with lib.no_grad():
        return F.relu(make(lib, F, t))


def relu_without_grad(make, lib, F, t):
    h = make(lib, F, t)
    with lib.no_grad():
        y = F.relu(h)
    h.sum().backward()
    return y


def made_without_grad(make, lib, F, t):
    with lib.no_grad():
        h = make(lib, F, t)
    return F.relu(h)


def detached_in_place(make, lib, F, t):
    h = make(lib, F, t)
    h.detach_()
    return F.relu(h)


def viewed(make, lib, F, t):
    h = make(lib, F, t)
    y = F.relu(h)
    (y.flatten() * h.flatten()).sum().backward()
    return y


def never_looked_at(make, lib, F, t):
    h = make(lib, F, t)
    del h


def backward_twice(make, lib, F, t):
    y = F.relu(make(lib, F, t))
    y.sum().backward(retain_graph=True)
    (y * 2).sum().backward()
    return y


SCENARIOS = [
    plain, looked_at_before, looked_at_after, used_twice, relu_twice, relu_of_relu,
    intermediate_changed_before, intermediate_changed_after, weight_changed_before_relu,
    input_alias_changed, weight_alias_changed, alias_of_intermediate_changed, in_place_relu,
    in_place_relu_after_relu, in_place_relu_without_grad, hook_before, hook_after, hook_replaces,
    retained_before, retained_after, retained_after_two_relus, without_grad, relu_without_grad,
    made_without_grad, detached_in_place, viewed, never_looked_at, backward_twice,
]  # fmt: skip


@pytest.mark.parametrize("make", PRODUCERS, ids=lambda f: f.__name__)
@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda f: f.__name__)
def test_like_torch(scenario, make):
    both(
        lambda lib, F, t: scenario(make, lib, F, t),
        constants=("mean", "var"),
        **PRODUCERS[make],
    )


def test_running_statistics_are_current_when_read():
    """The layer's output is pending, yet its statistics must show the batch at once."""
    torch = pytest.importorskip("torch")
    ours, theirs = nn.BatchNorm2d(3), torch.nn.BatchNorm2d(3)
    for step in range(3):
        x = numbers(4, 3, 2, 2, seed=step)
        y, _ = ours(ag.tensor(x)), theirs(torch.tensor(x))
        if step == 1:
            del y  # nobody ever looks
        np.testing.assert_allclose(ours.running_mean.numpy(), theirs.running_mean, rtol=1e-5)
        np.testing.assert_allclose(ours.running_var.numpy(), theirs.running_var, rtol=1e-5)
    assert ours.num_batches_tracked.item() == 3


def test_running_statistics_are_current_in_numpys_view():
    layer = nn.BatchNorm1d(3)
    alias = layer.running_mean.numpy()
    y = layer(ag.tensor(numbers(5, 3)))
    assert alias.any()
    assert y.shape == (5, 3)


def test_running_statistics_count_each_batch_once():
    torch = pytest.importorskip("torch")
    ours, theirs = nn.BatchNorm2d(3, momentum=None), torch.nn.BatchNorm2d(3, momentum=None)
    for step in range(3):
        x = numbers(4, 3, 2, 2, seed=step)
        h, g = ours(ag.tensor(x)), theirs(torch.tensor(x))
        y = h.relu()
        z = h.relu() + h  # computed again, with and without ReLU
        np.testing.assert_allclose((y + z).detach().numpy(), (g.relu() * 2 + g).detach(), 1e-4)
    np.testing.assert_allclose(ours.running_mean.numpy(), theirs.running_mean, rtol=1e-4)
    np.testing.assert_allclose(ours.running_var.numpy(), theirs.running_var, rtol=1e-5)


def test_evaluation_keeps_the_statistics_of_its_call():
    """A pending evaluation must not see what a later training batch does to the statistics."""
    layer = nn.BatchNorm1d(3).eval()
    x = ag.tensor(numbers(5, 3))
    expected = layer(x).detach().numpy().copy()
    pending = layer(x)
    layer.train()(x + 7).sum()
    np.testing.assert_array_equal(pending.detach().numpy(), expected)


def test_state_dict_of_a_layer_with_pending_output():
    layer = nn.BatchNorm1d(3)
    y = layer(ag.tensor(numbers(5, 3)))
    assert layer.state_dict()["running_mean"].numpy().any()
    assert y.shape == (5, 3)


def test_loading_statistics_while_output_is_pending():
    layer = nn.BatchNorm1d(3)
    y = layer(ag.tensor(numbers(5, 3)))
    layer.load_state_dict(nn.BatchNorm1d(3).state_dict())
    assert not layer.running_mean.numpy().any()
    assert y.shape == (5, 3)


def test_only_a_living_alias_stops_the_fusion():
    """Looking at a weight through NumPy must not slow the network down for ever."""
    layer, x = nn.Linear(5, 3), ag.tensor(numbers(4, 5))

    def fusable(x):
        return layer(x)._pending is not None

    assert fusable(x)
    alias = layer.weight.detach().numpy()
    part = alias[:1]
    assert not fusable(x)
    del alias
    assert not fusable(x)
    del part
    assert fusable(x)
    x = ag.from_numpy(numbers(4, 5))
    assert fusable(x)
    array = numbers(4, 5)
    x = ag.from_numpy(array)
    assert not fusable(x)
    np.array(layer.weight.detach(), copy=True)
    assert fusable(ag.tensor(array))


def test_pending_output_does_not_keep_its_input_alive_for_long():
    x = ag.tensor(numbers(4, 5))
    memory = weakref.ref(x._array)
    y = nn.Linear(5, 3)(x)
    z = y.relu()
    del x, y, z
    gc.collect()
    assert memory() is None


@pytest.mark.parametrize("layer", [nn.Linear(5, 3), nn.BatchNorm1d(5)])
def test_many_pending_outputs(layer):
    x = ag.tensor(numbers(4, 5))
    outputs = [layer(x) for _ in range(200)]
    total = sum(float(y.sum()) for y in outputs)
    assert np.isfinite(total)
