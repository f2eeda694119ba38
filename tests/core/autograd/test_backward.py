"""The backward pass: accumulation, hooks, callbacks, freeing, threads, depth."""

from __future__ import annotations

import gc
import threading
import weakref

import numpy as np
import pytest
from support.twin import both

import allgrad as ag
import allgrad.nn.functional as F
from allgrad import nn
from allgrad.autograd import queue_callback

X = np.arange(6.0).reshape(2, 3) - 2.2
W = np.linspace(-1, 1, 12).reshape(4, 3)


def leaf(*shape, value=1.0):
    return ag.tensor(np.full(shape, value, np.float32), requires_grad=True)


# -- scenarios compared with PyTorch -----------------------------------------------------------
def shared_weight(lib, F, t):
    h = F.linear(t.x, t.w)
    y = F.linear(h @ t.w, t.w).sum() + t.w.sum()
    y.backward()
    return y


def accumulate(lib, F, t):
    for _ in range(3):
        (t.x * t.x).sum().backward()


def gradient_argument(lib, F, t):
    (t.x @ t.w.t()).backward(lib.tensor(np.ones((2, 4))))


def vector_root(lib, F, t):
    y = t.x * 2
    y.backward(lib.ones_like(y))
    y = t.x.sum(1)
    y.backward(gradient=lib.tensor([1.0, 2.0], dtype=lib.float64))


def leaf_as_root(lib, F, t):
    t.x.backward(lib.ones_like(t.x))
    t.x.backward(lib.ones_like(t.x))


def unused_branch(lib, F, t):
    t.w.exp()
    (t.x * 2).sum().backward()
    return t.w.grad is None


def retain_graph(lib, F, t):
    y = t.x.exp().sum()
    y.backward(retain_graph=True)
    y.backward(retain_graph=True)
    y.backward()


def shared_part_without_saved_values(lib, F, t):
    """Sums and views keep nothing, so several backward passes may meet in them."""
    h = (t.x + 1).t()
    h.sum().backward()
    (h[0] + 0).sum().backward()


def leaf_hook_sees_the_sum_once(lib, F, t):
    seen = []
    t.w.register_hook(lambda g: seen.append(g.clone()))
    (F.linear(t.x, t.w).sum() + (t.w * t.w).sum()).backward()
    return len(seen), seen[0]


def hooks_in_order(lib, F, t):
    t.x.register_hook(lambda g: g + 1)
    t.x.register_hook(lambda g: g * 10)
    h = t.x * 2
    h.register_hook(lambda g: g * 3)
    h.register_hook(lambda g: g - 1)
    h.retain_grad()
    h.register_hook(lambda g: g * 2)
    (h * h).sum().backward()
    return h.grad


def hook_removed(lib, F, t):
    calls = []
    first = t.x.register_hook(lambda g: calls.append("leaf"))
    h = t.x * 2
    second = h.register_hook(lambda g: calls.append("inner"))
    h.sum().backward(retain_graph=True)
    first.remove()
    second.remove()
    first.remove()
    h.sum().backward()
    return " ".join(calls)


def hook_removed_by_hook(lib, F, t):
    calls = []
    handles = []
    t.x.register_hook(lambda g: handles[0].remove())
    handles.append(t.x.register_hook(lambda g: calls.append(1)))
    t.x.sum().backward()
    t.x.sum().backward()
    return min(len(calls), 1) * 0


def hook_of_a_view(lib, F, t):
    seen = []
    part = t.x[0]
    part.register_hook(lambda g: seen.append(g.clone()))
    (t.x.sum() + (part * part).sum()).backward()
    return seen[0]


def ready_hook(lib, F, t):
    calls = []
    t.w.register_post_accumulate_grad_hook(lambda p: calls.append(p.grad.clone()))
    h = F.linear(t.x, t.w)
    (F.linear(h @ t.w, t.w).sum() + (t.w * 2).sum()).backward()
    return len(calls), calls[0]


def ready_hook_clears_the_gradient(lib, F, t):
    def step(p):
        with lib.no_grad():
            p.sub_(0.1 * p.grad)
        p.grad = None

    t.w.register_post_accumulate_grad_hook(step)
    for _ in range(2):
        (F.linear(t.x, t.w) ** 2).sum().backward()


def retained_grads(lib, F, t):
    h = t.x.exp()
    h.retain_grad()
    h.retain_grad()
    (h * h).sum().backward(retain_graph=True)
    (h * 3).sum().backward()
    t.x.retain_grad()
    return h.grad


def requires_grad_rules(lib, F, t):
    a = lib.ones(2)
    b = (t.x * 2).detach()
    c = t.x > 0
    d = t.x.argmax()
    with lib.no_grad():
        e = t.x * 2
    f = a + b[0, :2]
    return [str(v.requires_grad) + str(v.is_leaf) for v in (a, b, c, d, e, f, t.x, t.x * 2)]


def freeze(lib, F, t):
    t.w.requires_grad_(False)
    F.linear(t.x, t.w).sum().backward()
    return t.w.grad is None


def zero_dim(lib, F, t):
    y = t.x[0, 0]
    (y * y).backward()
    return y


def integer_results_carry_no_gradient(lib, F, t):
    values, indices = t.x.max(1)
    values.sum().backward()
    return indices.requires_grad, indices


def several_outputs(lib, F, t):
    a, b = t.x.split([1, 2], 1)
    c, d = lib.unbind(t.x, 0)
    ((a * 2).sum() + (b * b).sum() + (c * d).sum()).backward()


def gradient_in_another_dtype(lib, F, t):
    (t.x.to(lib.float32) * 2).sum().backward()
    return str(t.x.grad.dtype).split(".")[-1]


SCENARIOS = [
    v
    for v in list(globals().values())
    if callable(v) and getattr(v, "__module__", "") == __name__ and v is not leaf
]


@pytest.mark.torch
@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda f: f.__name__)
def test_like_torch(scenario):
    both(scenario, x=X, w=W)


# -- errors ------------------------------------------------------------------------------------
def test_second_backward_names_the_op_and_the_way_out():
    y = leaf(3).exp().sum()
    y.backward()
    with pytest.raises(RuntimeError, match=r"^Exp: .*second time.*retain_graph=True"):
        y.backward()


@pytest.mark.parametrize(("call", "message"), [
    (lambda: (leaf(3) * 2).backward(), "scalar"),
    (lambda: ag.ones(1).sum().backward(), "does not require grad"),
    (lambda: (leaf(3) * 2).backward(ag.ones(4)), r"\(4,\).*\(3,\)"),
    (lambda: ag.ones(2).register_hook(print), "does not require grad"),
    (lambda: ag.ones(2).retain_grad(), "does not require grad"),
    (lambda: (leaf(2) * 2).register_post_accumulate_grad_hook(print), "leaf"),
    (lambda: ag.tensor([1, 2], requires_grad=True), "floating"),
    (lambda: (leaf(2) * 2).requires_grad_(False), "leaf"),
    (lambda: setattr(leaf(2), "grad", ag.ones(3)), r"\(2,\).*\(3,\)"),
    (lambda: setattr(leaf(2), "grad", ag.ones(2, dtype=ag.float64)), "float64"),
    (lambda: leaf(2).numpy(), "detach"),
    (lambda: queue_callback(print), "no backward"),
])  # fmt: skip
def test_mistakes_are_runtime_errors(call, message):
    with pytest.raises(RuntimeError, match=message):
        call()


def test_gradient_must_be_a_tensor():
    with pytest.raises(TypeError, match="grad: expected a tensor"):
        leaf(2).grad = 3


def test_hook_must_return_a_gradient_of_the_same_shape():
    w = leaf(3)
    w.register_hook(lambda g: g.sum())
    with pytest.raises(RuntimeError, match=r"register_hook: .*\(3,\)"):
        w.sum().backward()


def test_error_in_a_hook_leaves_the_engine_usable():
    w = leaf(3)

    def fail(_):
        raise KeyError("mine")

    handle = w.register_hook(fail)
    with pytest.raises(KeyError, match="mine"):
        (w * 2).sum().backward()
    handle.remove()
    w.grad = None
    (w * 2).sum().backward()
    assert w.grad.tolist() == [2, 2, 2]


# -- what ddp builds on ------------------------------------------------------------------------
def test_ready_hooks_fire_while_backward_still_runs():
    order = []
    a, b, c = leaf(3), leaf(3), leaf(3)
    for name, p in (("a", a), ("b", b), ("c", c)):
        p.register_post_accumulate_grad_hook(lambda p, name=name: order.append(name))
    h = a * 2
    h.register_hook(lambda g: order.append("h"))
    g = (h * b) * 3
    g.register_hook(lambda g: order.append("g"))
    (g * c).sum().backward()
    assert order == ["c", "g", "b", "h", "a"]


def test_ready_hook_fires_once_on_the_thread_of_backward():
    calls = []
    w = leaf(2, 2)
    w.register_post_accumulate_grad_hook(lambda p: calls.append(threading.get_ident()))
    y = (w @ w @ w).sum()
    thread = threading.Thread(target=y.backward)
    thread.start()
    thread.join()
    assert calls == [thread.ident]


def test_ready_hook_of_a_leaf_that_an_op_gives_nothing():
    """Some consumers may return no gradient: the leaf is complete when the run ends."""
    calls = []
    w = leaf(3)
    w.register_post_accumulate_grad_hook(lambda p: calls.append(p.grad.tolist()))
    t = F.one_hot(ag.tensor([0]), 3)[0].float()
    loss = F.cross_entropy(w[None], w.detach()[None] * 0 + t[None]) + (w * 2).sum()
    loss.backward()
    assert len(calls) == 1


def test_callbacks_run_once_at_the_end():
    order = []
    w = leaf(3)

    def hook(_):
        queue_callback(lambda: order.append("end"))
        order.append("hook")

    w.register_post_accumulate_grad_hook(hook)
    h = w * 2
    h.register_hook(lambda g: order.append("inner"))
    h.sum().backward()
    (w * 1).sum().backward()
    assert order == ["inner", "hook", "end", "hook", "end"]


def test_callback_may_queue_another():
    order = []
    w = leaf(1)
    w.register_post_accumulate_grad_hook(
        lambda _: queue_callback(lambda: queue_callback(lambda: order.append(1)))
    )
    w.sum().backward()
    assert order == [1]


def test_backward_inside_a_hook():
    w, v = leaf(2), leaf(2)
    w.register_hook(lambda g: (v * 3).sum().backward())
    (w * 2).sum().backward()
    assert v.grad.tolist() == [3, 3]
    assert w.grad.tolist() == [2, 2]


LAYERS = {
    "linear": (lambda: nn.Linear(4, 3), (5, 4)),
    "conv": (lambda: nn.Conv2d(2, 3, 3), (2, 2, 5, 5)),
    "conv_transpose": (lambda: nn.ConvTranspose2d(2, 3, 3), (2, 2, 5, 5)),
    "batch_norm": (lambda: nn.BatchNorm2d(2), (3, 2, 4, 4)),
    "layer_norm": (lambda: nn.LayerNorm(4), (3, 4)),
}


@pytest.mark.parametrize("name", LAYERS)
def test_gradient_lies_in_the_buffer(name):
    make, shape = LAYERS[name]
    layer = make()
    x = ag.randn(*shape)
    layer(x).square().sum().backward()
    expected = [p.grad.numpy().copy() for p in layer.parameters()]
    buffers = []
    for p in layer.parameters():
        p.grad = None
        p._grad_buffer = np.full(p.shape, np.nan, np.float32)
        buffers.append(p._grad_buffer)
    for times in (1, 2):  # the second run accumulates
        layer(x).square().sum().backward()
        for p, buffer, want in zip(layer.parameters(), buffers, expected, strict=True):
            assert p.grad._array is buffer
            np.testing.assert_allclose(buffer, times * want, rtol=1e-4, atol=1e-4)


def test_buffer_of_a_weight_that_is_used_several_times():
    w, x = leaf(3, 3, value=0.5), ag.randn(2, 3)
    w._grad_buffer = buffer = np.full((3, 3), np.nan, np.float32)
    h = F.linear(F.linear(x, w).relu(), w)
    (h @ w).sum().backward()
    got = buffer.copy()
    w.grad = w._grad_buffer = None
    (F.linear(F.linear(x, w).relu(), w) @ w).sum().backward()
    np.testing.assert_allclose(got, w.grad.numpy(), rtol=1e-5)


def test_buffer_and_hook():
    w = leaf(3, 3)
    w._grad_buffer = np.full((3, 3), np.nan, np.float32)
    w.register_hook(lambda g: g * 2)
    F.linear(ag.ones(2, 3), w).sum().backward()
    assert w.grad._array is w._grad_buffer
    assert (w._grad_buffer == 4).all()


def test_gradient_is_nobody_elses_array():
    """What a hook saw or returned must not become the gradient's memory."""
    w, seen = leaf(2, 2), []
    mine = ag.ones(2, 2)
    w.register_hook(lambda g: seen.append(g))
    w.register_hook(lambda g: mine)
    F.linear(ag.ones(3, 2), w).sum().backward()
    w.grad.zero_()
    assert mine.tolist() == [[1, 1], [1, 1]]
    assert seen[0].tolist() == [[3, 3], [3, 3]]


def test_gradient_argument_is_not_changed():
    g = ag.ones(2, 2)
    w = leaf(2, 2)
    y = w + 0
    (y + y).backward(g)
    w.grad.mul_(7)
    assert g.tolist() == [[1, 1], [1, 1]]


# -- memory, depth, threads --------------------------------------------------------------------
def test_saved_memory_is_freed_by_backward():
    w = leaf(50, 50)
    h = w.exp()
    memory = weakref.ref(h._array)
    loss = (h * 2).sum()
    del h
    assert memory() is not None
    loss.backward()
    assert memory() is None


@pytest.mark.parametrize("use", [
    lambda h: None, lambda h: h.retain_grad(), lambda h: h.register_hook(lambda g: None),
])  # fmt: skip
def test_graph_needs_no_garbage_collector(use):
    gc.collect()
    gc.disable()
    try:
        w = leaf(5, 5)
        h = F.relu(F.linear(w * 2, w))
        use(h)
        tensor, memory = weakref.ref(h), weakref.ref(h._array)
        (h.view(-1) * 2).sum().backward()
        del h
        assert tensor() is None
        assert memory() is None
    finally:
        gc.enable()


def test_deep_graph():
    """Neither backward nor freeing the graph may use Python's stack."""
    w = leaf(2)
    y = w
    for _ in range(20_000):
        y = y + 1
    y.sum().backward()
    assert w.grad.tolist() == [1, 1]
    y = w * 1
    for _ in range(20_000):
        y = y * 1
    del y  # freed without backward
    gc.collect()


def test_wide_graph():
    w = leaf(2)
    total = sum((w * i for i in range(500)), start=ag.zeros(2))
    total.sum().backward()
    assert w.grad.tolist() == [124750, 124750]


def train(seed, steps=5):
    ag.manual_seed(seed)
    net = nn.Sequential(
        nn.Conv2d(1, 3, 3, padding=1),
        nn.BatchNorm2d(3),
        nn.ReLU(),
        nn.Dropout(0.2),
        nn.Flatten(),
        nn.Linear(3 * 36, 5),
    )
    x, t = ag.randn(8, 1, 6, 6), ag.randint(0, 5, (8,))
    for _ in range(steps):
        F.cross_entropy(net(x), t).backward()
        with ag.no_grad():
            for p in net.parameters():
                p.sub_(0.1 * p.grad)
        net.zero_grad()
    return [v.numpy().copy() for v in net.state_dict().values()]


def test_threads_train_as_if_alone():
    alone = [train(seed) for seed in range(4)]
    results = [None] * 4
    barrier = threading.Barrier(4)

    def work(i):
        barrier.wait()
        results[i] = train(i)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    for mine, expected in zip(results, alone, strict=True):
        for a, b in zip(mine, expected, strict=True):
            np.testing.assert_array_equal(a, b)


def test_recording_is_switched_per_thread():
    seen = []
    with ag.no_grad():
        thread = threading.Thread(target=lambda: seen.append(ag.is_grad_enabled()))
        thread.start()
        thread.join()
        assert not ag.is_grad_enabled()
    assert seen == [True]
