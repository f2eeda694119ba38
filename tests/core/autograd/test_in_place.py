"""Views and in-place changes: the history that PyTorch gives, or an error, never a wrong one."""

from __future__ import annotations

import numpy as np
import pytest
from support.twin import both

import allgrad as ag
import allgrad.nn.functional as F

X = np.arange(1.0, 13.0).reshape(3, 4) / 4
V = np.array([0.5, -1.5, 2.0, 3.0])


def change_whole(lib, F, t):
    y = t.x * 1
    y.add_(t.v).mul_(2)
    (y * y).sum().backward()
    return y


def change_view(lib, F, t):
    y = t.x * 1
    y[0].mul_(t.v)
    (y * y).sum().backward()
    return y


def change_view_of_view(lib, F, t):
    y = t.x * 1
    y.t()[1:3][:, 0].mul_(3)
    (y * y).sum().backward()
    return y


def change_base_then_use_view(lib, F, t):
    y = t.x * 1
    view = y[:, 1:]
    y.mul_(t.v)
    (view * view).sum().backward()
    return y, view


def change_view_then_use_other_view(lib, F, t):
    y = t.x * 1
    a, b = y[0], y[:, 0]
    a.mul_(t.v)
    (b * b).sum().backward()
    return a, b, y


def change_twice(lib, F, t):
    y = t.x * 1
    view = y.view(-1)
    view[2:6].mul_(2)
    y[1].add_(t.v)
    view[5:].neg_()
    (y * y).sum().backward()
    return y, view


def change_transposed(lib, F, t):
    y = t.x * 1
    y.t().mul_(t.x.detach().t())
    (y * y).sum().backward()
    return y


def change_constant(lib, F, t):
    y = lib.zeros(3, 4, dtype=lib.float64)
    y[1] = t.v
    y[:, 2] += t.x[:, 0]
    (y * y).sum().backward()
    return y


def copy_into(lib, F, t):
    y = lib.zeros(3, 4, dtype=lib.float64)
    y.copy_(t.v)
    (y * t.x).sum().backward()
    return y


def copy_leaf_into_view(lib, F, t):
    y = t.x * 2
    y[2].copy_(t.v)
    (y * y).sum().backward()
    return y


def fill(lib, F, t):
    y = t.x * t.v
    y.fill_(3)
    y.sum().backward()
    return y


def zero_view(lib, F, t):
    y = t.x * t.v
    y[1:].zero_()
    (y * y).sum().backward()
    return y


def fill_view(lib, F, t):
    y = t.x * 1
    y[:, 1].fill_(7)
    (y * t.v).sum().backward()
    return y


def augmented(lib, F, t):
    y = t.x * 1
    y += t.v
    y -= 1
    y *= t.v
    y /= 2
    y[0] += 1
    y[1:, ::2] *= t.x[1:, ::2]
    (y * y).sum().backward()
    return y


def set_items(lib, F, t):
    y = t.x * 1
    y[0, 1] = t.v[2]
    y[lib.tensor([0, 2]), lib.tensor([3, 3])] = t.v[:2]
    y[y > 2.5] = 0
    y[..., 0] = 5
    y[2] = t.v * 2
    (y * y).sum().backward()
    return y


def set_mixed_key(lib, F, t):
    y = t.x * 1
    y[1, lib.tensor([0, 2])] = t.v[:2]
    (y * y).sum().backward()
    return y


def masked(lib, F, t):
    y = t.x * 1
    y.masked_fill_(y > 2, 1.5)
    (y * y).sum().backward()
    return y


def scatter(lib, F, t):
    y = t.x * 1
    y.scatter_(1, lib.tensor([[0, 1, 2, 3], [2, 3, 1, 0], [3, 0, 1, 2]]), t.x * 3)
    (y * y).sum().backward()
    return y


def saved_input_changed_by_own_op(lib, F, t):
    """The op that changes a tensor may itself need the old value."""
    y = t.x * 1
    y.mul_(t.v).pow_(2).clamp_(0.2, 9).div_(t.v).abs_().log_()
    y.sum().backward()
    return y


def unary_chain(lib, F, t):
    for change in ("sqrt_", "exp_", "tanh_", "sigmoid_", "reciprocal_", "neg_", "square_", "abs_",
                   "log_", "floor_", "round_", "ceil_"):  # fmt: skip
        y = t.x * 1
        getattr(y, change)()
        y.sum().backward()


def activations_in_place(lib, F, t):
    for function in (F.leaky_relu, F.elu, F.silu, F.hardtanh, F.selu, F.celu, F.mish, F.hardswish):
        y = t.x - 1.6
        function(y, inplace=True)
        y.sum().backward()


def detached_shares(lib, F, t):
    y = t.x * 1
    d = y.detach()
    y.mul_(2)
    y.sum().backward()
    return d, y, d.requires_grad, d.is_leaf


def in_place_without_grad(lib, F, t):
    y = t.x * 1
    with lib.no_grad():
        y.mul_(3)
    (y + 0).sum().backward()
    return y


def leaf_without_grad(lib, F, t):
    with lib.no_grad():
        t.x.mul_(2)
        t.x[0] = 1
        t.x.view(-1)[5] = -1
    (t.x * t.x).sum().backward()
    return t.x._version if hasattr(t.x._version, "__len__") else 0


def expanded_view(lib, F, t):
    y = t.x[:, :1] * 1
    wide = y.expand(3, 4)
    y.mul_(2)
    (wide * t.v).sum().backward()
    return wide


def view_in_no_grad(lib, F, t):
    y = t.x * 1
    with lib.no_grad():
        y[0].mul_(2)
    y.sum().backward()
    return y


def diagonal(lib, F, t):
    y = t.x * 1
    lib.diagonal(y).mul_(t.v[:3])
    (y * y).sum().backward()
    return y


def dtype_kept(lib, F, t):
    y = (t.x * 1).to(lib.float32)
    y.mul_(t.v)
    y.sum().backward()
    return str(y.dtype).split(".")[-1]


def requires_grad_spreads(lib, F, t):
    y = lib.zeros(3, 4, dtype=lib.float64)
    view = y[0]
    before = (y.requires_grad, view.requires_grad)
    y.add_(t.x)
    return str(before), y.requires_grad, view.requires_grad, y.is_leaf, view.is_leaf


def view_joins_the_graph_later(lib, F, t):
    y = lib.zeros(3, 4, dtype=lib.float64)
    view, other = y[0], y.t()[1]
    y.add_(t.x)
    (view * 2).sum().backward(retain_graph=True)
    (other.view(-1) * 3).sum().backward(retain_graph=True)
    view.fill_(1)
    (y * y).sum().backward()
    return view, other


def copy_of_a_view_that_joined(lib, F, t):
    y, z = lib.zeros(3, 4, dtype=lib.float64), lib.zeros(4, dtype=lib.float64)
    view = y[0]
    y.add_(t.x)
    z.copy_(view)
    z.sum().backward()
    return z, view.is_leaf


def retained_then_changed(lib, F, t):
    y = t.x * 2
    z = y * 3
    y.retain_grad()
    z.sum().backward()
    return y.grad, y.is_leaf


SCENARIOS = [v for v in list(globals().values())
             if callable(v) and getattr(v, "__module__", "") == __name__]  # fmt: skip


@pytest.mark.torch
@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda f: f.__name__)
def test_like_torch(scenario):
    if scenario is leaf_without_grad:
        both(lambda *a: (leaf_without_grad(*a), None)[1], x=X, v=V)
    else:
        both(scenario, x=X, v=V)


# -- more than PyTorch allows: values are saved before they are overwritten --------------------
ALLOWED = {
    "itself": (lambda y: y.mul_(y), lambda y: y * y),
    "square": (lambda y: y.sigmoid_().square_().reciprocal_(),
               lambda y: 1 / (y.sigmoid() ** 2)),
    "chain": (lambda y: F.elu(F.selu(y, inplace=True), inplace=True), lambda y: F.elu(F.selu(y))),
}  # fmt: skip


@pytest.mark.parametrize("name", ALLOWED)
def test_like_the_form_out_of_place(name):
    in_place, plain = ALLOWED[name]
    a, b = (ag.tensor(X - 1.6, requires_grad=True) for _ in range(2))
    in_place(a * 1).sum().backward()
    plain(b * 1).sum().backward()
    np.testing.assert_allclose(a.grad.numpy(), b.grad.numpy(), rtol=1e-12)


def test_change_by_an_own_view():
    """Either the right gradient or an error (PyTorch: an error)."""
    x = ag.tensor(X, requires_grad=True)
    y = x * 1
    y[0].mul_(y[1])
    try:
        y.sum().backward()
    except RuntimeError as err:
        assert "in-place" in str(err)  # noqa: PT017 - both outcomes are right
    else:
        expected = np.ones_like(X)
        expected[0] = X[1]
        expected[1] += X[0]
        np.testing.assert_allclose(x.grad.numpy(), expected)


# -- what backward needs was changed: an error that names the op -------------------------------
def leaf(*shape):
    return ag.tensor(np.ones(shape, np.float32), requires_grad=True)


NEEDED = {
    "Mul": (lambda h, w: h * w, lambda h, y: h.add_(1)),
    "Exp": (lambda h, w: h.exp(), lambda h, y: y.mul_(2)),
    "ReLU": (lambda h, w: h.relu(), lambda h, y: y.mul_(2)),
    "Sigmoid": (lambda h, w: h.sigmoid(), lambda h, y: y.add_(1)),
    "MatMul": (lambda h, w: h @ w, lambda h, y: h.zero_()),
    "Linear": (lambda h, w: F.linear(h, w), lambda h, y: h.add_(1)),
    "Div": (lambda h, w: w / h, lambda h, y: h.add_(1)),
    "Softmax": (lambda h, w: F.softmax(h, 1), lambda h, y: y.add_(1)),
    "LogSoftmax": (lambda h, w: F.log_softmax(h, 1), lambda h, y: y[0].zero_()),
    "MSE": (lambda h, w: F.mse_loss(h, w), lambda h, y: h.view(-1)[3:].mul_(2)),
    "Maximum": (lambda h, w: ag.maximum(h, w), lambda h, y: h.t().add_(1)),
    "Conv": (lambda h, w: F.conv2d(h[None, None], w[None, None]), lambda h, y: h.add_(1)),
    "BatchNorm": (lambda h, w: F.batch_norm(h, None, None, training=True),
                  lambda h, y: (y.sum(), h.add_(1))),
}  # fmt: skip


@pytest.mark.parametrize("name", NEEDED)
def test_changed_value_is_an_error_that_names_the_op(name):
    function, change = NEEDED[name]
    h = leaf(3, 3) * 1
    y = function(h, leaf(3, 3))
    change(h, y)
    with pytest.raises(RuntimeError, match=rf"^{name}: .*in-place.*version 1, expected version 0"):
        y.sum().backward()


def test_weight_changed_between_forward_and_backward():
    x, w = leaf(2, 3), leaf(4, 3)
    y = F.linear(x, w)
    with ag.no_grad():
        w.mul_(2)
    y.sum()
    z = F.linear(x, w)
    z.sum()
    with ag.no_grad():
        w.mul_(2)
    with pytest.raises(RuntimeError, match=r"^Linear: input 1 of shape \(4, 3\)"):
        z.sum().backward()


def test_change_of_a_value_that_nobody_needs_is_allowed():
    h = leaf(3, 3) * 1
    y = h + 2
    h.mul_(5)
    y.sum().backward()


def test_only_the_detached_alias_is_changed():
    h = leaf(3, 3) * 1
    y = h * h
    h.detach().zero_()
    with pytest.raises(RuntimeError, match="Mul"):
        y.sum().backward()


@pytest.mark.parametrize("change", [
    lambda w: w.add_(1), lambda w: w.zero_(), lambda w: w[0].mul_(2), lambda w: w.relu_(),
    lambda w: w.copy_(ag.zeros(2, 2)), lambda w: w.view(-1)[1:].fill_(3),
    lambda w: w.__setitem__(0, 1.0), lambda w: w.normal_(), lambda w: F.relu(w, inplace=True),
    lambda w: w.masked_fill_(w > 0, 1.0), lambda w: w.t().neg_(),
])  # fmt: skip
def test_leaf_that_requires_grad_refuses_recorded_changes(change):
    w = leaf(2, 2)
    with pytest.raises(RuntimeError, match="leaf"):
        change(w)
    with ag.no_grad():
        change(w)


@pytest.mark.parametrize("change", [
    lambda e: e.add_(1), lambda e: e.copy_(ag.zeros(3, 4)),
    lambda e: e[:2].copy_(ag.ones(2, 4)), lambda e: e.__setitem__(slice(2), ag.ones(4)),
    lambda e: e.__setitem__([0, 1], ag.ones(4)),
])  # fmt: skip
def test_expanded_memory_refuses_changes(change):
    e = ag.zeros(1, 4).expand(3, 4)
    with pytest.raises(RuntimeError, match="share one memory"):
        change(e)


def test_expanded_memory_may_be_filled():
    x = ag.ones(1, 4, requires_grad=True)
    base = x * 2
    e = base.expand(3, 4)
    e.fill_(5)
    assert base.tolist() == [[5] * 4]
    e[..., 0] = 7
    e[0] = ag.tensor([1.0, 2.0, 3.0, 4.0])  # one row of it is ordinary memory
    assert e.tolist() == [[1, 2, 3, 4]] * 3
    (e.sum() + base.sum()).backward()
    assert x.grad.tolist() == [[0] * 4]


def test_expanding_nothing_leaves_a_tensor_writable():
    t = ag.zeros(1, 4).expand(1, 4)
    t.add_(1)
    assert t.tolist() == [[1, 1, 1, 1]]


@pytest.mark.parametrize(("make", "change"), [
    (lambda: ag.zeros(2, dtype=ag.int64), lambda t: t.add_(0.5)),
    (lambda: ag.zeros(2, dtype=ag.int64), lambda t: t.div_(2)),
    (lambda: ag.zeros(2, dtype=ag.bool), lambda t: t.add_(1)),
    (lambda: ag.zeros(2, dtype=ag.int32), lambda t: t.mul_(ag.ones(2))),
])  # fmt: skip
def test_result_of_a_higher_kind_does_not_fit(make, change):
    with pytest.raises(RuntimeError, match=r"result type allgrad\.\w+ cannot be stored"):
        change(make())


def test_in_place_keeps_the_lower_precision():
    t = ag.ones(2, dtype=ag.float32)
    t.mul_(ag.full((2,), 2.0, dtype=ag.float64))
    assert t.dtype is ag.float32
    assert ag.ones(2, dtype=ag.int32).add_(ag.ones(2, dtype=ag.int64)).dtype is ag.int32


def test_in_place_result_must_not_be_larger():
    with pytest.raises(RuntimeError, match=r"add_.*\(3,\).*\(2, 3\)"):
        ag.zeros(3).add_(ag.zeros(2, 3))


def test_views_share_memory_and_version():
    base = ag.zeros(3, 4)
    views = [base[0], base.view(12), base.t(), base.narrow(1, 1, 2), base.unsqueeze(0),
             base.detach(), base.permute(1, 0), base.expand(2, 3, 4), base.diagonal(),
             base.split(2)[0], base.flatten(), base.squeeze()]  # fmt: skip
    base.add_(1)
    for v in views:
        assert v.sum().item() == v.numel()
        assert v._version is base._version


@pytest.mark.parametrize("copy", [
    lambda t: t.clone(), lambda t: t.flip(0), lambda t: t.roll(0), lambda t: t.repeat(1, 1),
    lambda t: t[[0]], lambda t: t[ag.tensor([True])], lambda t: t.tril(9), lambda t: t + 0,
    lambda t: F.pad(t, (0, 0)), lambda t: t.cumsum(0), lambda t: t.sort(0)[0],
    lambda t: ag.cat([t]), lambda t: t.clamp(-9), lambda t: t.relu(), lambda t: t.sum(0, True),
    lambda t: t.gather(1, ag.zeros(1, 1, dtype=ag.int64)),
    lambda t: t.index_select(1, ag.tensor([0])), lambda t: t.masked_fill(t < t, 1.0),
    lambda t: t.amax(0, True), lambda t: ag.where(t == t, t, t),
    lambda t: ag.maximum(t, t), lambda t: t.round(), lambda t: ag.tensor(t), lambda t: t.abs(),
])  # fmt: skip
def test_results_that_are_no_views_have_their_own_memory(copy):
    t = ag.ones(1, 1)
    out = copy(t)
    out.fill_(5)
    assert t.item() == 1
