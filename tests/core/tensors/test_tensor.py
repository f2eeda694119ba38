"""The rest of Tensor: conversions, copies, printing, iteration, random numbers, edge values."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest

import allgrad as ag
import allgrad.nn.functional as F


def test_conversions():
    t = ag.tensor([[1.5]])
    assert (t.item(), float(t), int(t), bool(t)) == (1.5, 1.5, 1, True)
    assert ag.tensor([[1, 2], [3, 4]]).tolist() == [[1, 2], [3, 4]]
    assert [10, 20, 30][ag.tensor(1)] == 20
    assert f"{ag.tensor(0.123456):.2f}" == "0.12"
    assert np.asarray(ag.ones(2)).tolist() == [1, 1]
    assert np.array(ag.ones(2), dtype=np.int64).dtype == np.int64
    assert 3.0 in ag.tensor([1.0, 3.0])


def test_description():
    t = ag.zeros(2, 3, 4, dtype=ag.float64)
    assert t.shape == (2, 3, 4) == t.size()
    assert (t.size(1), t.size(-1), t.dim(), t.ndim, t.numel(), t.nelement()) == (3, 4, 3, 3, 24, 24)
    assert (t.itemsize, t.element_size(), t.nbytes, len(t)) == (8, 8, 192, 2)
    assert t.shape.numel() == 24
    assert t.is_floating_point()
    assert t.device == ag.device("cpu")
    assert (t.stride(), t.stride(1)) == ((12, 4, 1), 4)
    assert ag.is_tensor(t)
    assert not ag.is_tensor(t.numpy())


@pytest.mark.parametrize(("make", "text"), [
    (lambda: ag.tensor([1.0, 2.5]), "tensor([1.0000, 2.5000])"),
    (lambda: ag.tensor([1, 2]), "tensor([1, 2])"),
    (lambda: ag.tensor(True), "tensor(True)"),
    (lambda: ag.ones(2, dtype=ag.float64), "tensor([1., 1.], dtype=allgrad.float64)"),
    (lambda: ag.ones(1, requires_grad=True), "tensor([1.], requires_grad=True)"),
    (lambda: ag.ones(1, requires_grad=True).exp(), "tensor([2.7183], grad_fn=<ExpBackward>)"),
    (lambda: ag.zeros(2, 0), "tensor([], size=(2, 0))"),
    (lambda: ag.nn.Parameter(ag.ones(1)),
     "Parameter containing:\ntensor([1.], requires_grad=True)"),
])  # fmt: skip
def test_printed_form(make, text):
    assert repr(make()) == text


def test_long_tensors_print_short():
    assert len(repr(ag.zeros(100, 100))) < 700


def test_iteration_gives_views():
    t = ag.zeros(3, 2)
    for i, part in enumerate(t):
        part.add_(i)
    assert t.tolist() == [[0, 0], [1, 1], [2, 2]]


def test_deepcopy():
    w = ag.ones(2, requires_grad=True)
    (w * 3).sum().backward()
    c = copy.deepcopy(w)
    assert c.requires_grad
    assert c.grad.tolist() == [3, 3]
    c.grad.zero_()
    with ag.no_grad():
        c.zero_()
    assert w.tolist() == [1, 1]
    assert w.grad.tolist() == [3, 3]
    shared = copy.deepcopy([w, w])
    assert shared[0] is shared[1]
    with pytest.raises(RuntimeError, match="leaf"):
        copy.deepcopy(w * 2)


def test_pickle():
    w = pickle.loads(pickle.dumps(ag.nn.Parameter(ag.arange(4.0).reshape(2, 2).t())))
    assert isinstance(w, ag.nn.Parameter)
    assert w.requires_grad
    assert w.tolist() == [[0, 2], [1, 3]]
    with pytest.raises(RuntimeError, match="leaf"):
        pickle.dumps(w * 2)


def test_numpy_shares_memory_both_ways():
    array = np.zeros(3, np.float32)
    t = ag.from_numpy(array)
    t.add_(1)
    assert array.tolist() == [1, 1, 1]
    t.numpy()[0] = 7
    assert t.tolist() == [7, 1, 1]
    c = ag.tensor(array)
    array[...] = 0
    assert c.tolist() == [7, 1, 1]


def test_data_is_outside_the_graph_and_its_checks():
    w = ag.ones(2, requires_grad=True)
    y = (w * w).sum()
    w.data.mul_(3)  # PyTorch's back door: not noticed by the version check
    y.backward()
    assert w.grad.tolist() == [6, 6]
    w.data = ag.zeros(3)
    assert w.shape == (3,)
    assert w.is_leaf


def test_arrays_of_numpy_give_way_to_tensors():
    assert isinstance(np.float32(2) * ag.ones(2), ag.Tensor)
    assert isinstance(np.float64(2) - ag.ones(2), ag.Tensor)
    with pytest.raises(TypeError):
        _ = np.ones(2) * ag.ones(2)


def test_hash_is_identity():
    a, b = ag.ones(2), ag.ones(2)
    assert len({a, b, a}) == 2
    assert {a: 1}[a] == 1


# -- autograd.grad and autograd.backward ----------------------------------------------------------
def test_grad():
    x = ag.tensor([1.0, 2.0], requires_grad=True)
    w = ag.tensor([3.0, 4.0], requires_grad=True)
    h = x * w
    y = h.relu()
    gx, gh = ag.autograd.grad((y * y).sum(), [x, h], retain_graph=True)
    assert gx.tolist() == [18, 64]
    assert gh.tolist() == [6, 16]
    assert x.grad is None is w.grad
    (gw,) = ag.autograd.grad([y, h], w, [ag.ones(2), ag.tensor([1.0, 0.0])])
    assert gw.tolist() == [2, 2]


def test_grad_of_an_absorbed_value():
    x = ag.randn(4, 3)
    h = F.linear(x, ag.randn(2, 3, requires_grad=True))
    y = F.relu(h)
    (g,) = ag.autograd.grad(y.sum(), h)
    np.testing.assert_array_equal(g.numpy(), (h > 0).numpy())


def test_grad_of_what_is_not_used():
    x, w = ag.ones(2, requires_grad=True), ag.ones(2, requires_grad=True)
    with pytest.raises(RuntimeError, match=r"input 0 .*allow_unused"):
        ag.autograd.grad(x.sum(), w)
    assert ag.autograd.grad(x.sum(), [w, x], allow_unused=True)[0] is None
    with pytest.raises(RuntimeError, match=r"input 0 .*does not require"):
        ag.autograd.grad(x.sum(), ag.ones(2))
    with pytest.raises(RuntimeError, match="1 gradients for 2"):
        ag.autograd.backward([x.sum(), x.sum()], [None])


def test_result_of_grad_belongs_to_the_caller():
    x = ag.ones(2, requires_grad=True)
    g0 = ag.ones(2)
    (g,) = ag.autograd.grad(x + 0, x, g0)
    g.zero_()
    assert g0.tolist() == [1, 1]


# -- random numbers --------------------------------------------------------------------------------
@pytest.mark.parametrize("draw", [
    lambda g: ag.rand(5, generator=g), lambda g: ag.randn(2, 3, generator=g),
    lambda g: ag.randint(0, 9, (7,), generator=g), lambda g: ag.randperm(9, generator=g),
    lambda g: ag.bernoulli(ag.full((9,), 0.5), generator=g),
    lambda g: ag.multinomial(ag.ones(4), 9, True, generator=g),
    lambda g: ag.zeros(4).normal_(generator=g), lambda g: ag.zeros(4).uniform_(generator=g),
    lambda g: ag.zeros(9).bernoulli_(generator=g),
])  # fmt: skip
def test_same_seed_same_numbers(draw):
    a, b = (draw(ag.Generator(3)) for _ in range(2))
    assert a.equal(b)
    ag.manual_seed(3)
    state = ag.get_rng_state()
    a = draw(None)
    ag.set_rng_state(state)
    assert a.equal(draw(None))


def test_distributions():
    n = 20_000
    x = ag.randn(n, dtype=ag.float64)
    assert abs(x.mean().item()) < 0.03
    assert abs(x.std().item() - 1) < 0.03
    u = ag.rand(n)
    assert 0 <= u.min().item() < 0.01
    assert 0.99 < u.max().item() < 1
    assert abs(ag.zeros(n).normal_(3, 0.5).mean().item() - 3) < 0.02
    assert abs(ag.zeros(n).uniform_(-1, 3).mean().item() - 1) < 0.03
    assert sorted(ag.randperm(50).tolist()) == list(range(50))
    counts = ag.multinomial(ag.tensor([1.0, 3.0]), n, replacement=True).float().mean().item()
    assert abs(counts - 0.75) < 0.02
    assert set(ag.randint(2, 5, (200,)).tolist()) == {2, 3, 4}
    assert ag.randint(5, (3, 2)).shape == (3, 2)


# -- nan, infinity, and the like -------------------------------------------------------------------
NAN, INF = float("nan"), float("inf")
EDGES = [
    lambda lib, F: lib.tensor([0.0, -1.0, 1.0]).log(),
    lambda lib, F: lib.tensor([0.0, -1.0]).sqrt(),
    lambda lib, F: lib.tensor([0.0, -0.0]).reciprocal(),
    lambda lib, F: lib.tensor([1.0, 0.0, -1.0]) / 0,
    lambda lib, F: lib.tensor([1000.0, -1000.0]).exp(),
    lambda lib, F: lib.tensor([1e30]) * 1e30,
    lambda lib, F: lib.tensor([INF]) - INF,
    lambda lib, F: lib.tensor([1.0, NAN, 3.0]).max(),
    lambda lib, F: lib.tensor([[1.0, NAN, 3.0]]).max(1)[1],
    lambda lib, F: lib.tensor([1.0, NAN, 3.0]).argmax(),
    lambda lib, F: lib.tensor([2.0, NAN, 3.0]).min(),
    lambda lib, F: lib.tensor([2.0, NAN, 3.0, INF]).sort()[0],
    lambda lib, F: lib.tensor([2.0, NAN, 3.0, INF]).sort(descending=True)[0],
    lambda lib, F: lib.tensor([2.0, NAN, 3.0]).topk(2)[0],
    lambda lib, F: lib.maximum(lib.tensor([NAN, 1.0]), lib.tensor([1.0, NAN])),
    lambda lib, F: lib.tensor([NAN, 5.0]).clamp(0, 1),
    lambda lib, F: lib.tensor([NAN, -1.0, INF]).relu(),
    lambda lib, F: lib.tensor([-INF, -1.0, 0.0, 2.0]).sign(),
    lambda lib, F: F.softmax(lib.tensor([[-INF, -INF], [0.0, -INF], [INF, 0.0]]), 1),
    lambda lib, F: F.log_softmax(lib.tensor([[0.0, -INF], [1000.0, 0.0], [-1e30, 1e30]]), 1),
    lambda lib, F: lib.logsumexp(lib.tensor([[-INF, -INF], [INF, 1.0], [800.0, 800.0]]), 1),
    lambda lib, F: lib.tensor([100.0, -100.0, INF, -INF]).sigmoid(),
    lambda lib, F: F.logsigmoid(lib.tensor([100.0, -100.0, 1e30])),
    lambda lib, F: F.softplus(lib.tensor([100.0, -100.0, 1e30])),
    lambda lib, F: F.gelu(lib.tensor([100.0, -100.0])),
    lambda lib, F: F.silu(lib.tensor([100.0, -100.0])),
    lambda lib, F: F.elu(lib.tensor([100.0, -1000.0])),
    lambda lib, F: lib.tensor([30.0, -30.0, INF]).erf(),
    lambda lib, F: lib.zeros(0).sum(),
    lambda lib, F: lib.zeros(0).mean(),
    lambda lib, F: lib.zeros(0).prod(),
    lambda lib, F: lib.zeros(2, 0).sum(1),
    lambda lib, F: lib.zeros(0, 3).mean(0),
    lambda lib, F: lib.ones(1).var(unbiased=False),
    lambda lib, F: lib.tensor([0.0, 0.0]) ** 0,
    lambda lib, F: lib.tensor([0.0, -8.0]) ** 0.5,
    lambda lib, F: lib.tensor([-2.0]) ** 3,
    lambda lib, F: lib.tensor([5.0, -5.0]) % 3,
    lambda lib, F: lib.tensor([5.0, -5.0]) // 3,
    lambda lib, F: lib.tensor([5.0, -5.0]).fmod(3),
    lambda lib, F: lib.tensor([0.5, 1.5, 2.5, -0.5]).round(),
    lambda lib, F: lib.tensor([1.0, NAN, INF]).isfinite(),
    lambda lib, F: lib.tensor([NAN]) == lib.tensor([NAN]),
    lambda lib, F: lib.tensor([NAN, INF, -INF]).isnan(),
    lambda lib, F: F.cross_entropy(lib.tensor([[1e4, -1e4]]), lib.tensor([1])),
    lambda lib, F: F.cross_entropy(lib.ones(2, 3), lib.tensor([-100, -100])),
    lambda lib, F: F.binary_cross_entropy(lib.tensor([0.0, 1.0]), lib.tensor([1.0, 1.0])),
    lambda lib, F: F.binary_cross_entropy_with_logits(lib.tensor([1e4]), lib.tensor([0.0])),
    lambda lib, F: F.kl_div(lib.tensor([-1.0]), lib.tensor([0.0]), reduction="sum"),
    lambda lib, F: F.normalize(lib.zeros(2, 3)),
    lambda lib, F: F.max_pool2d(lib.tensor([[[[NAN, NAN], [NAN, NAN]]]]), 2),
    lambda lib, F: F.layer_norm(lib.ones(2, 3), (3,)),
]


@pytest.mark.torch
@pytest.mark.filterwarnings("error::RuntimeWarning")
@pytest.mark.parametrize("number", range(len(EDGES)))
def test_edge_values(number):
    torch = pytest.importorskip("torch")
    ours, theirs = EDGES[number](ag, F), EDGES[number](torch, torch.nn.functional)
    assert tuple(ours.shape) == tuple(theirs.shape)
    assert ours.dtype.name == str(theirs.dtype)[6:]
    np.testing.assert_allclose(ours.numpy(), theirs.numpy(), rtol=1e-5, atol=1e-30)


EDGE_GRADIENTS = {
    "norm of 0": (lambda lib, F, x: x.norm(), [0.0, 0.0]),
    "norm of 0, p=3": (lambda lib, F, x: lib.norm(x, 3), [0.0, 0.0]),
    "std of equal": (lambda lib, F, x: x.std(), [2.0, 2.0]),
    "normalize 0": (lambda lib, F, x: F.normalize(x, dim=0).sum(), [0.0, 0.0]),
    "abs": (lambda lib, F, x: x.abs().sum(), [0.0, -1.0]),
    "relu": (lambda lib, F, x: F.relu(x).sum(), [0.0, 1.0]),
    "sqrt": (lambda lib, F, x: x.sqrt().sum(), [0.0, 4.0]),
    "log": (lambda lib, F, x: x.log().sum(), [0.0, 2.0]),
    "max of equal": (lambda lib, F, x: x.max(), [3.0, 3.0]),
    "amax of equal": (lambda lib, F, x: x.amax(0), [3.0, 3.0]),
    "max along": (lambda lib, F, x: x.max(0)[0], [3.0, 3.0]),
    "maximum of equal": (lambda lib, F, x: lib.maximum(x, x.detach()).sum(), [3.0, 1.0]),
    "clamp at bounds": (lambda lib, F, x: x.clamp(0, 1).sum(), [0.0, 1.0]),
    "pow zero": (lambda lib, F, x: (x**0).sum(), [0.0, 1.0]),
    "pow one": (lambda lib, F, x: (x**1.0).sum(), [0.0, 1.0]),
    "zero to tensor": (lambda lib, F, x: (x ** lib.tensor([0.0, 2.0])).sum(), [0.0, 0.0]),
    "tensor exponent": (lambda lib, F, x: (lib.tensor([0.0, 2.0]) ** x).sum(), [2.0, 1.0]),
    "prod with zero": (lambda lib, F, x: x.prod(), [0.0, 3.0]),
    "where hides nan": (lambda lib, F, x: lib.where(x > 0, x * 2, 0.0).sum(), [-1.0, 1.0]),
    "leaky at 0": (lambda lib, F, x: F.leaky_relu(x).sum(), [0.0, -1.0]),
    "relu6 at bounds": (lambda lib, F, x: F.relu6(x).sum(), [0.0, 6.0]),
    "hardtanh at bounds": (lambda lib, F, x: F.hardtanh(x).sum(), [-1.0, 1.0]),
    "hardsigmoid at bounds": (lambda lib, F, x: F.hardsigmoid(x).sum(), [-3.0, 3.0]),
    "hardswish at bounds": (lambda lib, F, x: F.hardswish(x).sum(), [-3.0, 3.0]),
    "smooth_l1": (lambda lib, F, x: F.smooth_l1_loss(x, x.detach() - 1), [0.0, 1.0]),
    "huge logits": (lambda lib, F, x: F.log_softmax(x * 1e4, 0)[0], [1.0, -1.0]),
    "bce": (lambda lib, F, x: F.binary_cross_entropy_with_logits(x, x.detach() * 0), [90.0, -90.0]),
}  # fmt: skip


@pytest.mark.torch
@pytest.mark.filterwarnings("error::RuntimeWarning")
@pytest.mark.parametrize("name", EDGE_GRADIENTS)
def test_edge_gradients(name):
    torch = pytest.importorskip("torch")
    function, values = EDGE_GRADIENTS[name]
    grads = []
    for lib, functional in ((ag, F), (torch, torch.nn.functional)):
        x = lib.tensor(values, requires_grad=True)
        function(lib, functional, x).backward()
        grads.append(x.grad.numpy())
    np.testing.assert_allclose(*grads, rtol=1e-5)


def test_the_users_numpy_settings_are_untouched():
    with np.errstate(all="raise"):
        ag.tensor([0.0]).log()
        with pytest.raises(FloatingPointError):
            np.log(np.zeros(1))
