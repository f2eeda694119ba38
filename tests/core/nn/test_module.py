"""Module: registration, state, modes, hooks, containers."""

from __future__ import annotations

import copy
import pickle
from collections import OrderedDict

import numpy as np
import pytest

import allgrad as ag
import allgrad.nn.functional as F
from allgrad import nn


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 2, 3)
        self.norm = nn.BatchNorm2d(2)
        self.head = nn.Linear(8, 3)
        self.scale = nn.Parameter(ag.ones(1))
        self.register_buffer("steps", ag.zeros(1))
        self.register_buffer("scratch", ag.zeros(1), persistent=False)
        self.nothing = None
        self.size = 3

    def forward(self, x):
        return self.head(F.relu(self.norm(self.conv(x))).flatten(1)) * self.scale


def parameter(*shape):
    return nn.Parameter(ag.ones(*shape))


# -- registration -----------------------------------------------------------------------------
def test_what_is_registered():
    net = Net()
    assert [n for n, _ in net.named_children()] == ["conv", "norm", "head"]
    assert [n for n, _ in net.named_parameters()] == [
        "scale", "conv.weight", "conv.bias", "norm.weight", "norm.bias", "head.weight",
        "head.bias",
    ]  # fmt: skip
    assert [n for n, _ in net.named_buffers()] == [
        "steps", "scratch", "norm.running_mean", "norm.running_var", "norm.num_batches_tracked",
    ]  # fmt: skip
    assert [n for n, _ in net.named_modules()] == ["", "conv", "norm", "head"]
    assert len(list(net.parameters(recurse=False))) == 1
    assert len(list(net.buffers())) == 5
    assert [n for n, _ in net.named_parameters(prefix="net")][1] == "net.conv.weight"
    assert "scratch" not in net.state_dict()
    assert "steps" in net.state_dict()
    assert net.size == 3
    assert "conv" in dir(net)


def test_parameters_require_grad_whatever_they_are_made_of():
    with ag.no_grad():
        p = nn.Parameter(ag.ones(2) * 2)
    assert p.requires_grad
    assert p.is_leaf
    assert nn.Parameter((ag.ones(2, requires_grad=True) * 2).detach()).is_leaf
    assert not nn.Parameter(ag.ones(2), requires_grad=False).requires_grad


def test_assignment_moves_a_name_between_registries():
    m = nn.Module()
    m.x = ag.zeros(1)
    assert list(m.parameters()) == []
    m.x = parameter(1)
    assert len(list(m.parameters())) == 1
    m.x = None
    assert m.x is None
    assert list(m.state_dict()) == []
    m.x = parameter(2)
    m.x = nn.Linear(1, 1)
    assert [n for n, _ in m.named_parameters()] == ["x.weight", "x.bias"]
    del m.x
    assert list(m.parameters()) == []
    with pytest.raises(AttributeError, match=r"'Module'.*'x'"):
        _ = m.x
    with pytest.raises(AttributeError):
        del m.x


def test_plain_tensor_does_not_replace_a_parameter():
    m = nn.Linear(2, 2)
    with pytest.raises(TypeError, match=r"'weight'.*Parameter.*Tensor"):
        m.weight = ag.zeros(2, 2)
    m.register_buffer("b", ag.zeros(1))
    m.b = ag.ones(1)
    assert m.state_dict()["b"].item() == 1


@pytest.mark.parametrize(("call", "error"), [
    (lambda m: m.register_parameter("", parameter(1)), KeyError),
    (lambda m: m.register_parameter("a.b", parameter(1)), KeyError),
    (lambda m: m.register_parameter(3, parameter(1)), TypeError),
    (lambda m: m.register_parameter("forward", parameter(1)), KeyError),
    (lambda m: m.register_parameter("a", ag.zeros(1)), TypeError),
    (lambda m: m.register_buffer("a", 3), TypeError),
    (lambda m: m.register_buffer("weight", ag.zeros(1)), KeyError),
    (lambda m: m.register_buffer("a.b", ag.zeros(1)), KeyError),
    (lambda m: m.add_module("a", 3), TypeError),
    (lambda m: m.add_module("weight", None), KeyError),
    (lambda m: m.add_module("", None), KeyError),
    (lambda m: m.get_submodule("a.b"), AttributeError),
])  # fmt: skip
def test_bad_registrations(call, error):
    torch = pytest.importorskip("torch")
    with pytest.raises(error):
        call(nn.Linear(2, 2))
    if error is not TypeError:
        with pytest.raises(error):
            call(torch.nn.Linear(2, 2))


def test_forgotten_super_init():
    class Wrong(nn.Module):
        def __init__(self):
            self.layer = nn.ReLU()

    class Late(nn.Module):
        def __init__(self):
            self.n = 3

        def forward(self, x):
            return x

    with pytest.raises(AttributeError, match="super"):
        Wrong()
    with pytest.raises(AttributeError, match="super"):
        Late()(ag.ones(1))


def test_forgotten_forward():
    with pytest.raises(NotImplementedError, match="Module must define forward"):
        nn.Module()(3)


def test_shared_parts_count_once():
    a = nn.Linear(2, 2)
    net = nn.Sequential(a, nn.ReLU(), a)
    assert len(list(net.parameters())) == 2
    assert len(list(net.modules())) == 3
    assert list(net.state_dict()) == ["0.weight", "0.bias", "2.weight", "2.bias"]
    assert len(list(net.named_parameters(remove_duplicate=False))) == 4
    tied = nn.ModuleList([nn.Linear(2, 2), nn.Linear(2, 2)])
    tied[1].weight = tied[0].weight
    assert [n for n, _ in tied.named_parameters()] == ["0.weight", "0.bias", "1.bias"]


# -- state ----------------------------------------------------------------------------------------
def test_state_dict_shares_memory_and_loads_by_value():
    a, b = Net(), Net()
    state = a.state_dict()
    assert not state["conv.weight"].requires_grad
    b.load_state_dict(state)
    x = ag.randn(2, 1, 4, 4)
    a.eval(), b.eval()
    np.testing.assert_array_equal(a(x).detach().numpy(), b(x).detach().numpy())
    with ag.no_grad():
        a.conv.weight.fill_(7)
    assert (state["conv.weight"] == 7).all()
    assert not (b.conv.weight == 7).any()
    assert list(a.state_dict(prefix="module."))[1] == "module.steps"


def test_load_refuses_and_lists_everything_and_changes_nothing():
    net = Net()
    before = copy.deepcopy(net.state_dict())
    state = {k: v + 1 for k, v in net.state_dict().items()}
    del state["conv.bias"], state["head.weight"]
    state["extra"] = state["other"] = ag.zeros(1)
    state["conv.weight"] = ag.zeros(2, 1, 5, 5)
    with pytest.raises(RuntimeError) as err:
        net.load_state_dict(state)
    text = str(err.value)
    assert "Error(s) in loading state_dict for Net" in text
    assert "size mismatch for conv.weight" in text
    assert "[2, 1, 5, 5]" in text
    assert "[2, 1, 3, 3]" in text
    assert 'Missing key(s) in state_dict: "conv.bias", "head.weight".' in text
    assert 'Unexpected key(s) in state_dict: "extra", "other".' in text
    for key, value in net.state_dict().items():
        np.testing.assert_array_equal(value.numpy(), before[key].numpy())
    with pytest.raises(RuntimeError, match="size mismatch"):
        net.load_state_dict(state, strict=False)
    del state["conv.weight"]
    result = net.load_state_dict(state, strict=False)
    assert result.missing_keys == ["conv.weight", "conv.bias", "head.weight"]
    assert result.unexpected_keys == ["extra", "other"]
    assert net.steps.item() == 1


def test_load_casts_and_keeps_requires_grad():
    net = nn.Linear(2, 2)
    net.load_state_dict({"weight": np.ones((2, 2)), "bias": ag.ones(2, dtype=ag.float64)})
    assert net.weight.dtype is ag.float32
    assert net.weight.requires_grad
    assert net.weight.is_leaf


def test_copies_are_independent():
    net = Net()
    net(ag.randn(3, 1, 4, 4)).sum().backward()
    for other in (copy.deepcopy(net), pickle.loads(pickle.dumps(net))):
        x = ag.randn(3, 1, 4, 4)
        net.eval(), other.eval()
        np.testing.assert_array_equal(net(x).detach().numpy(), other(x).detach().numpy())
        with ag.no_grad():
            other.head.weight.zero_()
        assert net.head.weight.any()
        assert isinstance(other.head.weight, nn.Parameter)


# -- modes and conversions -----------------------------------------------------------------------
def test_modes():
    net = nn.Sequential(nn.Dropout(), nn.Sequential(nn.BatchNorm1d(2)))
    assert net.train() is net
    assert all(m.training for m in net.modules())
    assert net.eval() is net
    assert not any(m.training for m in net.modules())
    net[1].train()
    assert (net.training, net[1][0].training) == (False, True)


def test_zero_grad():
    net = nn.Linear(2, 1)
    net(ag.ones(1, 2)).sum().backward()
    memory = net.weight.grad
    net.zero_grad(set_to_none=False)
    assert net.weight.grad is memory
    assert not memory.any()
    net.zero_grad()
    assert net.weight.grad is None


def test_freeze():
    net = Net()
    assert net.conv.requires_grad_(False) is net.conv
    net(ag.randn(2, 1, 4, 4)).sum().backward()
    assert net.conv.weight.grad is None
    assert net.head.weight.grad is not None


def test_conversion_keeps_the_parameters_and_integers():
    net = Net()
    weight = net.conv.weight
    assert net.double() is net
    assert net.conv.weight is weight
    assert weight.dtype is ag.float64
    assert weight.requires_grad
    assert net.norm.running_mean.dtype is ag.float64
    assert net.norm.num_batches_tracked.dtype is ag.int64
    net(ag.randn(2, 1, 4, 4, dtype=ag.float64)).sum().backward()
    assert weight.grad.dtype is ag.float64
    net.to(ag.float32)
    net(ag.randn(2, 1, 4, 4)).sum().backward()
    assert net.to("cpu") is net
    for move in (lambda: net.to("cuda"), net.cuda, lambda: net.cuda(1)):
        with pytest.raises(RuntimeError, match="cuda"):
            move()


def test_apply_goes_from_the_leaves_up():
    order = []
    net = nn.Sequential(nn.ReLU(), nn.Sequential(nn.Tanh()))
    assert net.apply(lambda m: order.append(type(m).__name__)) is net
    assert order == ["ReLU", "Tanh", "Sequential", "Sequential"]


# -- hooks ----------------------------------------------------------------------------------------
def test_forward_hooks():
    layer, log = nn.Linear(2, 2), []
    first = layer.register_forward_pre_hook(lambda m, args: log.append("pre") or (args[0] * 2,))
    layer.register_forward_pre_hook(lambda m, args: args[0] + 1)
    after = layer.register_forward_hook(lambda m, args, y: log.append(args[0].tolist()))
    second = layer.register_forward_hook(lambda m, args, y: y * 0 + 5)
    y = layer(ag.ones(1, 2))
    assert log == ["pre", [[3.0, 3.0]]]
    assert y.tolist() == [[5, 5]]
    for handle in (first, after, second):
        handle.remove()
    assert layer(ag.ones(1, 2)).tolist() == F.linear(
        ag.ones(1, 2) + 1, layer.weight, layer.bias
    ).tolist()  # fmt: skip
    assert len(log) == 2


def test_handle_as_context():
    layer, log = nn.ReLU(), []
    with layer.register_forward_hook(lambda m, a, y: log.append(1)):
        layer(ag.ones(1))
    layer(ag.ones(1))
    assert log == [1]


# -- containers ---------------------------------------------------------------------------------
def test_sequential():
    net = nn.Sequential(OrderedDict(a=nn.Linear(2, 3), b=nn.ReLU()))
    assert list(net.state_dict()) == ["a.weight", "a.bias"]
    assert net.a is net[0]
    assert net[-1] is net.b
    assert len(net) == 2
    assert [type(m).__name__ for m in net] == ["Linear", "ReLU"]
    assert isinstance(net[:1], nn.Sequential)
    assert net[:1][0] is net.a
    net.append(nn.Linear(3, 1))
    assert list(net.state_dict())[-1] == "2.bias"
    assert net(ag.ones(4, 2)).shape == (4, 1)
    net[1] = nn.Tanh()
    assert isinstance(net.b, nn.Tanh)
    net.insert(0, nn.Flatten())
    assert isinstance(net[0], nn.Flatten)
    assert len(net) == 4
    net.extend([nn.ReLU(), nn.ReLU()])
    del net[0]
    assert len(net) == 5
    with pytest.raises(IndexError, match="9 is out of range"):
        _ = net[9]
    with pytest.raises(TypeError):
        nn.Sequential(3)


def test_module_list():
    layers = nn.ModuleList([nn.Linear(1, 1) for _ in range(3)])
    layers.append(nn.ReLU())
    layers.insert(0, nn.Tanh())
    layers.extend([nn.Flatten()])
    layers += [nn.Identity()]
    assert len(layers) == 7
    assert isinstance(layers[0], nn.Tanh)
    assert isinstance(layers[-1], nn.Identity)
    assert isinstance(layers[1:3], nn.ModuleList)
    layers[1] = nn.ReLU()
    del layers[0]
    assert list(layers.state_dict()) == ["1.weight", "1.bias", "2.weight", "2.bias"]
    assert [n for n, _ in layers.named_children()] == [str(i) for i in range(6)]


def test_module_dict():
    layers = nn.ModuleDict({"a": nn.Linear(1, 1), "b": nn.ReLU()})
    layers["c"] = nn.Tanh()
    layers.update({"b": nn.Flatten()})
    assert list(layers) == list(layers.keys()) == ["a", "b", "c"]
    assert len(layers) == 3
    assert "c" in layers
    assert isinstance(layers["b"], nn.Flatten)
    assert [type(m).__name__ for m in layers.values()] == ["Linear", "Flatten", "Tanh"]
    del layers["a"]
    assert isinstance(layers.pop("b"), nn.Flatten)
    assert [k for k, _ in layers.items()] == ["c"]
    layers.clear()
    assert len(layers) == 0


def test_parameter_containers():
    many = nn.ParameterList([parameter(1), parameter(2)])
    many.append(parameter(3))
    assert [n for n, _ in many.named_parameters()] == ["0", "1", "2"]
    assert many[-1].shape == (3,)
    assert len(many) == len(list(many)) == 3
    named = nn.ParameterDict({"w": parameter(1)})
    named["v"] = parameter(2)
    many[0] = parameter(5)
    many.extend([parameter(1)])
    assert many[0].shape == (5,)
    assert list(named) == ["w", "v"] == [n for n, _ in named.named_parameters()]
    assert "v" in named
    assert named["v"].shape == (2,)


def _containers(lib, log):
    nn = lib.nn
    net = nn.Sequential(nn.ReLU(), nn.Tanh())
    log += [repr(net * 2), repr(3 * net), repr(net + nn.Sequential(nn.ReLU()))]
    net += nn.Sequential(nn.Linear(2, 3))
    log += [repr(net), repr(net.pop(0)), repr(net)]
    net *= 2
    log.append(list(net.state_dict()))
    log.append(repr(nn.ModuleList([nn.ReLU()]) + nn.ModuleList([nn.Tanh(), nn.Tanh()])))
    log.append(repr(nn.ModuleDict([("a", nn.ReLU()), ("b", nn.Tanh())])))
    many = nn.ParameterList([lib.ones(2), nn.Parameter(lib.ones(1, 3)), 3])
    many += [lib.zeros(1)]
    log += [repr(many), list(many.state_dict()), many[2], many[-1].tolist(), len(many[1:3])]
    many[0] = nn.Parameter(lib.zeros(4))
    log += [list(many.state_dict()), many[0].shape[0]]
    named = nn.ParameterDict({"a": lib.ones(2), "b": "x"})
    named |= {"c": lib.zeros(1)}
    log += [repr(named), list(named.state_dict()), sorted(named.keys()), list(reversed(named))]
    log += [list((named | {"d": 1}).keys()), list(({"e": 1} | named).keys())]
    log += [named.get("nothing", 5), named.setdefault("d", 7), named.pop("b"), named.popitem()]
    log += [sorted(named.copy()), list(named.fromkeys(["x", "y"], 0).items()), "a" in named]
    del named["a"]
    log += [len(named), [v.tolist() for v in named.values()]]
    named.clear()
    log += [repr(named), len(named)]


MISTAKEN_CONTAINERS = {
    "repeated": lambda nn: nn.Sequential(nn.ReLU()) * -1,
    "repeated by a float": lambda nn: nn.Sequential(nn.ReLU()) * 1.5,
    "joined": lambda nn: nn.Sequential(nn.ReLU()) + 3,
    "insert": lambda nn: nn.Sequential(nn.ReLU()).insert(9, nn.ReLU()),
    "insert a number": lambda nn: nn.Sequential(nn.ReLU()).insert(0, 3),
    "append": lambda nn: nn.Sequential().append(3),
    "ModuleList": lambda nn: nn.ModuleList(3),
    "ModuleList index": lambda nn: nn.ModuleList([nn.ReLU()])[5],
    "ModuleList called": lambda nn: nn.ModuleList([nn.ReLU()])(3),
    "ModuleDict": lambda nn: nn.ModuleDict(3),
    "ModuleDict key": lambda nn: nn.ModuleDict()["a"],
    "ParameterList": lambda nn: nn.ParameterList(3),
    "ParameterList index": lambda nn: nn.ParameterList()[0],
    "ParameterDict": lambda nn: nn.ParameterDict(3),
}


@pytest.mark.torch
def test_containers_as_in_pytorch():
    torch = pytest.importorskip("torch")
    ours, theirs = [], []
    _containers(ag, ours)
    _containers(torch, theirs)
    for a, b in zip(ours, theirs, strict=True):
        assert str(a) == str(b).replace("torch.", "allgrad.") or a == b


@pytest.mark.torch
@pytest.mark.parametrize("name", MISTAKEN_CONTAINERS)
def test_mistakes_with_containers(name):
    torch = pytest.importorskip("torch")
    with pytest.raises(Exception) as theirs:  # noqa: PT011 - its type is what is asked for
        MISTAKEN_CONTAINERS[name](torch.nn)
    with pytest.raises(theirs.type):
        MISTAKEN_CONTAINERS[name](nn)


@pytest.mark.torch
def test_printed_forms_of_containers():
    torch = pytest.importorskip("torch")

    def forms(nn):
        return [
            repr(nn.Sequential()),
            repr(nn.ModuleList([nn.ReLU(), nn.Sequential(nn.Tanh())])),
            repr(nn.ModuleDict({"a": nn.Linear(1, 2)})),
            repr(nn.Sequential(nn.ReLU(), nn.Linear(3, 4, bias=False))),
        ]

    assert forms(nn) == forms(torch.nn)
