"""Hooks of modules and of their state, each scenario in allgrad and in PyTorch."""

from __future__ import annotations

import numpy as np
import pytest

import allgrad as ag
from allgrad import nn
from allgrad.nn.modules import hooks as global_hooks

torch = pytest.importorskip("torch")
pytestmark = [
    pytest.mark.torch,
    pytest.mark.filterwarnings("ignore:Full backward hook is firing:UserWarning"),
]

X = np.arange(6.0).reshape(3, 2) - 2


def values(v):
    if isinstance(v, tuple | list):
        return [values(e) for e in v]
    return v.detach().tolist() if hasattr(v, "detach") else v


def both(scenario):
    """The log of a scenario ``(lib, log)``, which must be the same in both libraries."""
    logs = []
    for lib in (ag, torch):
        log = []
        scenario(lib, log)
        logs.append([values(entry) for entry in log])
    assert logs[0] == logs[1]
    return logs[0]


def test_forward_hooks_with_keywords_order_and_replacement():
    def scenario(lib, log):
        class Scale(lib.nn.Module):
            def forward(self, x, factor=1.0):
                log.append(("forward", x, factor))
                return x * factor

        layer = Scale()
        x = lib.tensor(X)
        layer.register_forward_pre_hook(lambda m, a: log.append(("pre", a)))
        layer.register_forward_pre_hook(
            lambda m, a, k: ((a[0] + 1,), {"factor": k["factor"] * 2}), with_kwargs=True
        )
        layer.register_forward_pre_hook(lambda m, a: log.append(("first", a)), prepend=True)
        handle = layer.register_forward_hook(
            lambda m, a, k, y: log.append(("with", a, k["factor"], y)), with_kwargs=True
        )
        layer.register_forward_hook(lambda m, a, y: y - 100, prepend=True)
        log.append(layer(x, factor=3.0))
        handle.remove()
        log.append(layer(x, factor=3.0))

    both(scenario)


def test_always_call():
    def scenario(lib, log):
        class Failing(lib.nn.Module):
            def forward(self, x):
                raise ValueError("no")

        layer = Failing()
        layer.register_forward_hook(lambda m, a, y: log.append("only on success"))
        layer.register_forward_hook(lambda m, a, y: log.append(("always", y)), always_call=True)
        with pytest.raises(ValueError, match="no"):
            layer(lib.tensor(X))

    assert len(both(scenario)) == 1


def test_a_bad_result_of_a_pre_hook():
    def scenario(lib, log):
        layer = lib.nn.ReLU()
        layer.register_forward_pre_hook(lambda m, a, k: 3, with_kwargs=True)
        with pytest.raises(RuntimeError, match="new_args, new_kwargs"):
            layer(lib.tensor(X))

    both(scenario)


def test_backward_hooks_see_and_replace_gradients():
    def scenario(lib, log):
        class Two(lib.nn.Module):
            def forward(self, a, b, text):
                return a * b, a + 1, text

        layer = Two()
        a = lib.tensor(X, requires_grad=True)
        b = lib.tensor(X + 5)
        layer.register_full_backward_hook(lambda m, gi, go: log.append((gi, go)))
        y, z, text = layer(a * 1, b, "text")
        ((y * 2).sum() + z.sum()).backward()
        log.append((a.grad, text))
        layer.register_full_backward_hook(lambda m, gi, go: (gi[0] * 10, gi[1], gi[2]))
        layer.register_full_backward_pre_hook(lambda m, go: (go[0] * 3, go[1], None))
        a.grad = None
        y, z, _ = layer(a * 1, b, "text")
        ((y * 2).sum() + z.sum()).backward()
        log.append(a.grad)
        a.grad = None
        layer(a * 1, b, "text")[0].sum().backward()  # nobody used the second output
        log.append(a.grad)

    assert len(both(scenario)) == 6


def test_backward_hooks_without_a_gradient_of_the_input():
    def scenario(lib, log):
        layer = lib.nn.Linear(2, 1, bias=False, dtype=lib.float64)
        with lib.no_grad():
            layer.weight.fill_(2.0)
        layer.register_full_backward_hook(lambda m, gi, go: log.append((gi, go)))
        layer(lib.tensor(X)).sum().backward()
        log.append(layer.weight.grad)
        with lib.no_grad():
            layer(lib.tensor(X))

    assert len(both(scenario)) == 2


def test_backward_hooks_of_shared_inputs_and_layers_above():
    """An input that also goes elsewhere: the hook sees the module's part of its gradient alone."""

    def scenario(lib, log):
        layer = lib.nn.Tanh()
        layer.register_full_backward_hook(lambda m, gi, go: log.append(gi))
        x = lib.tensor(X / 4, requires_grad=True)
        h = x * 2
        (layer(h) + h * 7).sum().backward()
        log.append(x.grad)

    for a, b in zip(*[run(scenario, lib) for lib in (ag, torch)], strict=True):
        np.testing.assert_allclose(a, b)


def run(scenario, lib):
    log = []
    scenario(lib, log)
    return [np.array(values(entry)) for entry in log]


def test_an_in_place_layer_with_a_backward_hook():
    layer = nn.ReLU(inplace=True)
    seen = []
    layer.register_full_backward_hook(lambda m, gi, go: seen.append(gi[0].tolist()))
    x = ag.tensor(X, requires_grad=True)
    layer(x * 1).sum().backward()
    assert x.grad.tolist() == (X > 0).astype(float).tolist()
    assert seen == [x.grad.tolist()]


def test_wrong_number_of_gradients():
    def scenario(lib, log):
        layer = lib.nn.ReLU()
        layer.register_full_backward_hook(lambda m, gi, go: (gi[0], gi[0]))
        with pytest.raises(RuntimeError):
            layer(lib.tensor(X, requires_grad=True)).sum().backward()

    both(scenario)


def test_global_hooks():
    def scenario(lib, log):
        module = lib.nn.modules.module
        name = lambda m: type(m).__name__  # noqa: E731 - shorter than a function
        handles = [
            module.register_module_forward_pre_hook(lambda m, a: log.append(("pre", name(m)))),
            module.register_module_forward_hook(lambda m, a, y: log.append(("post", name(m)))),
            module.register_module_full_backward_pre_hook(
                lambda m, go: log.append(("back", name(m)))
            ),
            module.register_module_full_backward_hook(
                lambda m, gi, go: log.append(("done", name(m), gi))
            ),
        ]
        net = lib.nn.Sequential(lib.nn.ReLU(), lib.nn.Flatten())
        net[0].register_forward_hook(lambda m, a, y: log.append("own"))
        net(lib.tensor(X, requires_grad=True)).sum().backward()
        for handle in handles:
            handle.remove()
        log.append("removed")
        net(lib.tensor(X))

    log = both(scenario)
    assert log[-2:] == ["removed", "own"]
    assert not global_hooks.has_global_hooks()


def test_state_hooks_and_extra_state():
    def scenario(lib, log):
        class Counter(lib.nn.Linear):
            count = 3

            def get_extra_state(self):
                return lib.tensor(self.count)

            def set_extra_state(self, state):
                self.count = int(state)

        layer = Counter(1, 1, bias=False)
        layer.register_state_dict_pre_hook(lambda m, p, k: log.append(("saving", p, k)))
        layer.register_state_dict_post_hook(lambda m, s, p, meta: s.update(extra=s[p + "weight"]))
        net = lib.nn.Sequential(layer)
        state = net.state_dict()
        log.append(sorted(state))
        del state["extra"]
        state["0._extra_state"] = lib.tensor(7)
        layer.register_load_state_dict_pre_hook(
            lambda m, s, p, meta, strict, missing, unexpected, errors: log.append(("loading", p))
        )
        layer.register_load_state_dict_post_hook(lambda m, keys: keys.unexpected_keys.clear())
        state["0.unknown"] = lib.tensor(1.0)
        log.append(str(tuple(net.load_state_dict(state))))
        log.append(layer.count)
        del state["0._extra_state"]
        with pytest.raises(RuntimeError, match="_extra_state"):
            net.load_state_dict(state)

    both(scenario)


def test_state_with_variables_prefix_destination_and_assignment():
    def scenario(lib, log):
        layer = lib.nn.BatchNorm1d(2)
        kept = layer.state_dict(keep_vars=True)
        log.append(kept["weight"] is layer.weight)
        into = {"old": 1}
        log.append(layer.state_dict(destination=into, prefix="net.") is into)
        log.append(sorted(into))
        state = {k: v + 1 for k, v in lib.nn.BatchNorm1d(2, dtype=lib.float64).state_dict().items()}
        weight = layer.weight
        layer.load_state_dict(state, assign=True)
        log.append((layer.weight is weight, str(layer.weight.dtype)[-7:], layer.weight))
        log.append((isinstance(layer.weight, lib.nn.Parameter), layer.weight.requires_grad))
        log.append((layer.running_mean, layer.num_batches_tracked))

    both(scenario)


def test_reports_of_what_does_not_fit():
    def scenario(lib, log):
        layer = lib.nn.Linear(2, 2)
        for state in (
            {"weight": lib.ones(3, 2), "x": lib.ones(1)},
            {"weight": lib.ones(2, 2), "bias": lib.ones(3)},
        ):
            with pytest.raises(RuntimeError) as error:
                layer.load_state_dict(state)
            log.append(str(error.value).replace("torch.Size", "allgrad.Size"))
        log.append(str(layer.load_state_dict({"weight": lib.ones(2, 2)}, strict=False)[0]))
        log.append(str(layer.load_state_dict(layer.state_dict())))
        with pytest.raises(TypeError, match="dict-like"):
            layer.load_state_dict(3)

    both(scenario)


def test_submodules_parameters_and_buffers_by_path():
    def scenario(lib, log):
        net = lib.nn.Sequential(lib.nn.Sequential(lib.nn.Linear(2, 2)), lib.nn.BatchNorm1d(2))
        log.append(net.get_submodule("") is net)
        log.append(net.get_parameter("0.0.weight") is net[0][0].weight)
        log.append(net.get_buffer("1.running_mean") is net[1].running_mean)
        net.set_submodule("0.0", lib.nn.ReLU())
        log.append(type(net[0][0]).__name__)
        net.set_submodule("0.new", lib.nn.Tanh())
        log.append([n for n, _ in net.named_modules()])
        for call in (
            lambda: net.get_submodule("0.9"),
            lambda: net.get_parameter("0.0.weight"),
            lambda: net.get_parameter("1.running_mean"),
            lambda: net.get_buffer("1.weight"),
            lambda: net.set_submodule("7.0", lib.nn.ReLU()),
            lambda: net.set_submodule("0.other", lib.nn.ReLU(), strict=True),
        ):
            with pytest.raises(AttributeError):
                call()
        for call in (
            lambda: net.set_submodule("", lib.nn.ReLU()),
            lambda: net.train(3),
        ):
            with pytest.raises(ValueError):  # noqa: PT011 - the type is PyTorch's
                call()

    both(scenario)


def test_casts_of_modules():
    def scenario(lib, log):
        net = lib.nn.BatchNorm1d(2)
        net(lib.tensor(X, dtype=lib.float32)).sum().backward()

        def dtypes():
            named = [*net.named_parameters(), *net.named_buffers()]
            log.append([(n, str(t.dtype).split(".")[-1]) for n, t in named])
            log.append(None if net.weight.grad is None else str(net.weight.grad.dtype)[-7:])

        for cast in (net.double, net.half, net.float):
            cast(), dtypes()
        net.type(lib.float64), dtypes()
        with pytest.raises(TypeError, match="floating"):
            net.to(lib.int32)

    both(scenario)


def test_buffers_by_assignment():
    def scenario(lib, log):
        m = lib.nn.Module()
        m.kept = lib.nn.Buffer(lib.tensor([1.0]))
        m.scratch = lib.nn.Buffer(lib.tensor([2.0]), persistent=False)
        log.append(([n for n, _ in m.named_buffers()], list(m.state_dict())))
        m.kept = lib.tensor([5.0])
        log.append((m.state_dict()["kept"], list(m.parameters())))

    both(scenario)
