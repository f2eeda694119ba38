"""Parametrisations, weight norm, spectral norm, fusion, functional_call: against torch."""

from __future__ import annotations

import copy

import numpy as np
import pytest

import allgrad as ag
from allgrad import nn
from allgrad.func import functional_call
from allgrad.nn.utils import parametrizations, parametrize

torch = pytest.importorskip("torch")
pytestmark = [
    pytest.mark.torch,
    pytest.mark.filterwarnings("ignore:.*deprecated in favor of:FutureWarning"),
]

LAYERS = {
    "linear": (lambda nn: nn.Linear(4, 3), (5, 4)),
    "wide": (lambda nn: nn.Linear(3, 5), (5, 3)),
    "square": (lambda nn: nn.Linear(4, 4), (5, 4)),
    "conv": (lambda nn: nn.Conv2d(2, 3, 3), (2, 2, 5, 5)),
    "transposed": (lambda nn: nn.ConvTranspose2d(2, 3, 3), (2, 2, 3, 3)),
}
NORMS = {
    "weight_norm": lambda u, m: u.parametrizations.weight_norm(m),
    "weight_norm 1": lambda u, m: u.parametrizations.weight_norm(m, dim=1),
    "weight_norm None": lambda u, m: u.parametrizations.weight_norm(m, dim=None),
    "spectral_norm": lambda u, m: u.parametrizations.spectral_norm(m, n_power_iterations=2),
    "old weight_norm": lambda u, m: u.weight_norm(m),
    "old weight_norm None": lambda u, m: u.weight_norm(m, dim=None),
    "old spectral_norm": lambda u, m: u.spectral_norm(m),
    "old spectral_norm 1": lambda u, m: u.spectral_norm(m, dim=1),
    "orthogonal": lambda u, m: u.parametrizations.orthogonal(m),
    "cayley": lambda u, m: u.parametrizations.orthogonal(m, orthogonal_map="cayley"),
    "exponential": lambda u, m: u.parametrizations.orthogonal(m, orthogonal_map="matrix_exp"),
    "householder": lambda u, m: u.parametrizations.orthogonal(m, orthogonal_map="householder"),
    "plain cayley": lambda u, m: u.parametrizations.orthogonal(
        m, orthogonal_map="cayley", use_trivialization=False),
    "plain householder": lambda u, m: u.parametrizations.orthogonal(
        m, orthogonal_map="householder", use_trivialization=False),
}  # fmt: skip
CASES = [
    (n, layer) for n in NORMS for layer in LAYERS
    if ("norm" in n) != (layer in ("wide", "square")) or layer == "linear"
    if "norm" in n or layer in ("linear", "wide", "square")
]  # fmt: skip


def copy_state(ours, theirs):
    ours.load_state_dict({k: v.numpy() for k, v in theirs.state_dict().items()})


def close(a, b, what=""):
    np.testing.assert_allclose(a, b, rtol=1e-7, atol=1e-9, err_msg=what)


@pytest.mark.parametrize(("norm", "layer"), CASES)
def test_as_torch(norm, layer):
    make, shape = LAYERS[layer]
    theirs, ours = make(torch.nn).double(), make(nn).double()
    copy_state(ours, theirs)
    before = ours.weight.detach().numpy().copy()
    NORMS[norm](nn.utils, ours), NORMS[norm](torch.nn.utils, theirs)
    assert list(ours.state_dict()) == list(theirs.state_dict())
    assert [n for n, _ in ours.named_parameters()] == [n for n, _ in theirs.named_parameters()]
    assert repr(ours) == repr(theirs)
    if "spectral" not in norm:  # random starting vectors
        for key, value in theirs.state_dict().items():
            columns = min(before.shape) if key.endswith("base") else None  # the rest is random
            a, b = ours.state_dict()[key].numpy(), value.numpy()
            close(a[..., :columns] if columns else a, b[..., :columns] if columns else b, key)
    if "weight_norm" in norm:
        close(ours.weight.detach().numpy(), before)
    copy_state(ours, theirs)
    x = np.random.default_rng(0).standard_normal(shape)
    for _ in range(2):
        y, z = ours(ag.tensor(x)), theirs(torch.tensor(x))
        close(y.detach().numpy(), z.detach().numpy(), "output")
        (y * y).sum().backward(), (z * z).sum().backward()
    for (key, p), q in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        close(p.grad.numpy(), q.grad.numpy(), f"gradient of {key}")
    for key, value in theirs.state_dict().items():
        close(ours.state_dict()[key].numpy(), value.numpy(), key)
    if "norm" not in norm:
        w = ours.weight.detach().numpy()
        gram = w @ w.T if w.shape[0] <= w.shape[1] else w.T @ w
        np.testing.assert_allclose(gram, np.eye(len(gram)), atol=1e-9)


def removed(lib, norm, m):
    if norm == "weight_norm":
        return lib.nn.utils.remove_weight_norm(m)
    return lib.nn.utils.remove_spectral_norm(m)


@pytest.mark.parametrize("norm", ["weight_norm", "spectral_norm"])
def test_removing_the_old_forms(norm):
    theirs, ours = torch.nn.Linear(3, 2), nn.Linear(3, 2)
    getattr(torch.nn.utils, norm)(theirs), getattr(nn.utils, norm)(ours)
    copy_state(ours, theirs)
    removed(ag, norm, ours), removed(torch, norm, theirs)
    assert sorted(ours.state_dict()) == sorted(theirs.state_dict())
    np.testing.assert_allclose(ours.weight.detach().numpy(), theirs.weight.detach().numpy(), 1e-6)
    assert not ours._hooks
    with pytest.raises(ValueError, match="not found"):
        removed(ag, norm, ours)
    getattr(nn.utils, norm)(ours)
    with pytest.raises(RuntimeError, match="two"):
        getattr(nn.utils, norm)(ours)


class Symmetric(nn.Module):
    calls = 0

    def forward(self, x):
        Symmetric.calls += 1
        return x.triu() + x.triu(1).transpose(-1, -2)

    def right_inverse(self, x):
        return x.triu()


class Double(nn.Module):
    def forward(self, x):
        return 2 * x

    def right_inverse(self, x):
        return x / 2


def test_register_assign_cache_remove():
    layer = nn.Linear(3, 3)
    parametrize.register_parametrization(layer, "weight", Symmetric())
    assert parametrize.is_parametrized(layer)
    assert parametrize.is_parametrized(layer, "weight")
    assert not parametrize.is_parametrized(layer, "bias")
    assert type(layer).__name__ == "ParametrizedLinear"
    assert parametrize.type_before_parametrizations(layer) is nn.Linear
    assert isinstance(layer, nn.Linear)
    value = ag.tensor([[1.0, 2, 3], [2, 4, 5], [3, 5, 6]])
    layer.weight = value
    assert layer.weight.tolist() == value.tolist()
    parametrize.register_parametrization(layer, "weight", Double())
    assert layer.weight.tolist() == value.tolist()
    Symmetric.calls = 0
    with parametrize.cached():
        assert layer.weight is layer.weight
    assert Symmetric.calls == 1
    layer(ag.ones(1, 3)).sum().backward()
    assert layer.parametrizations.weight.original.grad is not None
    twin = copy.deepcopy(layer)
    assert twin.weight.tolist() == value.tolist()
    assert twin.parametrizations.weight.original is not layer.parametrizations.weight.original
    parametrize.remove_parametrizations(layer, "weight")
    assert type(layer) is nn.Linear
    assert list(layer.state_dict()) == ["bias", "weight"]
    assert layer.weight.tolist() == value.tolist()
    assert isinstance(layer.weight, nn.Parameter)
    parametrize.remove_parametrizations(twin, "weight", leave_parametrized=False)
    assert twin.weight.tolist() == [[0.5, 1, 1.5], [0, 2, 2.5], [0, 0, 3]]


def test_parametrisations_train_and_cast_with_their_module():
    layer = parametrizations.spectral_norm(nn.Linear(3, 2))
    layer.eval().double()
    assert layer(ag.ones(1, 3, dtype=ag.float64)).dtype is ag.float64
    u = layer.parametrizations.weight[0]._u.numpy().copy()
    layer(ag.ones(1, 3, dtype=ag.float64))
    np.testing.assert_array_equal(u, layer.parametrizations.weight[0]._u.numpy())


@pytest.mark.parametrize("call", [
    lambda lib, m: lib.nn.utils.parametrizations.weight_norm(m, "w"),
    lambda lib, m: lib.nn.utils.parametrizations.orthogonal(m, "bias"),
    lambda lib, m: lib.nn.utils.parametrizations.orthogonal(m, orthogonal_map="x"),
    lambda lib, m: lib.nn.utils.parametrizations.spectral_norm(m, n_power_iterations=0),
    lambda lib, m: lib.nn.utils.parametrize.remove_parametrizations(m, "weight"),
    lambda lib, m: lib.nn.utils.parametrize.register_parametrization(
        m, "weight", lib.nn.Flatten(0)),
    lambda lib, m: lib.nn.utils.fuse_conv_bn_eval(lib.nn.Conv2d(1, 1, 1), lib.nn.BatchNorm2d(1)),
    lambda lib, m: lib.nn.utils.skip_init(lib.Tensor, 2),
    lambda lib, m: lib.func.functional_call(m, {"weight": m.weight}, (m.weight,), strict=True),
    lambda lib, m: lib.func.functional_call(
        m, ({"weight": m.weight}, {"weight": m.weight}), (m.weight,)),
])  # fmt: skip
def test_mistakes(call):
    with pytest.raises(Exception) as theirs:  # noqa: PT011 - its type is what is asked for
        call(torch, torch.nn.Linear(2, 3))
    with pytest.raises(theirs.type):
        call(ag, nn.Linear(2, 3))


@pytest.mark.parametrize("kind", ["conv", "transposed", "linear"])
@pytest.mark.parametrize("bias", [False, True])
def test_fusion(kind, bias):
    make = {"conv": lambda nn: (nn.Conv2d(2, 3, 3, bias=bias), nn.BatchNorm2d(3)),
            "transposed": lambda nn: (nn.ConvTranspose2d(2, 3, 3, bias=bias), nn.BatchNorm2d(3)),
            "linear": lambda nn: (nn.Linear(2, 3, bias=bias), nn.BatchNorm1d(3))}[kind]  # fmt: skip
    layer, norm = make(nn)
    x = ag.randn(6, 2) if kind == "linear" else ag.randn(4, 2, 5, 5)
    for _ in range(3):
        norm(layer(x))
    with ag.no_grad():
        norm.weight.uniform_(0.5, 2), norm.bias.uniform_(-1, 1)
    layer.eval(), norm.eval()
    if kind == "linear":
        fused = nn.utils.fuse_linear_bn_eval(layer, norm)
    else:
        fused = nn.utils.fuse_conv_bn_eval(layer, norm, transpose=kind == "transposed")
    expected = norm(layer(x)).detach().numpy()
    np.testing.assert_allclose(fused(x).detach().numpy(), expected, rtol=1e-4, atol=1e-5)
    assert isinstance(fused.bias, nn.Parameter)


def test_functional_call():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.norm = nn.Linear(2, 2), nn.BatchNorm1d(2)
            self.second = nn.Linear(2, 2)
            self.second.weight = self.first.weight

        def forward(self, x, scale=1):
            return self.second(self.norm(self.first(x))) * scale

    net = Net()
    weight = ag.ones(2, 2, requires_grad=True)
    mean = ag.zeros(2)
    before = net.first.weight
    x = ag.randn(5, 2)
    state = {"first.weight": weight, "norm.running_mean": mean}
    y = functional_call(net, state, (x,), {"scale": 2})
    y.sum().backward()
    assert net.first.weight is before
    assert net.second.weight is before
    assert before.grad is None
    assert weight.grad is not None
    assert mean.any()
    assert not net.norm.running_mean.any()
    with pytest.raises(AttributeError, match="nothing"):
        functional_call(net, {"nothing": weight}, (x,))
    loose = functional_call(net, {"first.weight": weight}, (x,), tie_weights=False)
    assert not np.allclose(loose.detach().numpy(), y.detach().numpy() / 2)


def test_skip_init_leaves_the_generator_alone():
    ag.manual_seed(3)
    expected = ag.randn(3).tolist()
    ag.manual_seed(3)
    layer = nn.utils.skip_init(nn.Linear, 3, 2)
    assert layer.weight.shape == (2, 3)
    assert ag.randn(3).tolist() == expected
