"""Groups, hooks, saving and the mistakes a user makes, on the base class."""

import numpy as np
import pytest

import allgrad as ag
from allgrad import optim
from allgrad.errors import ShapeError


def leaf(*shape):
    return ag.zeros(*shape, requires_grad=True)


class Sign(optim.Optimizer):
    """What a user writes: sign descent with its own `step`."""

    def __init__(self, params, lr=0.1):
        super().__init__(params, {"lr": lr})

    def step(self, closure=None):
        with ag.no_grad():
            for group in self.param_groups:
                for p in group["params"]:
                    p -= group["lr"] * p.grad.sign()


@pytest.mark.parametrize(
    ("cls", "settings", "message"),
    [
        (optim.SGD, {"lr": -1}, "Invalid learning rate: -1"),
        (optim.SGD, {"lr": float("nan")}, "Invalid learning rate: nan"),
        (optim.SGD, {"lr": 1, "momentum": -0.5}, "Invalid momentum value: -0.5"),
        (optim.SGD, {"lr": 1, "weight_decay": -2}, "Invalid weight_decay value: -2"),
        (optim.SGD, {"lr": 1, "nesterov": True}, "Nesterov momentum requires a momentum"),
        (optim.SGD, {"differentiable": True}, "differentiable=True is not available"),
        (optim.Adam, {"lr": -1}, "Invalid learning rate: -1"),
        (optim.Adam, {"eps": -1e-3}, "Invalid epsilon value: -0.001"),
        (optim.Adam, {"betas": (1.0, 0.9)}, "Invalid beta parameter at index 0: 1.0"),
        (optim.Adam, {"betas": (0.9, -0.1)}, "Invalid beta parameter at index 1: -0.1"),
        (optim.AdamW, {"weight_decay": -1}, "Invalid weight_decay value: -1"),
    ],
)
def test_settings_out_of_range(cls, settings, message):
    with pytest.raises(ValueError, match=message):
        cls([leaf(2)], **settings)


def test_lr_tensor_of_two_elements():
    with pytest.raises(ValueError, match=r"1-element, came shape \(2,\)"):
        optim.SGD([leaf(2)], lr=ag.zeros(2))


def test_fused_and_foreach_together():
    with pytest.raises(RuntimeError, match="cannot be `True` together"):
        optim.Adam([leaf(2)], fused=True, foreach=True)
    optim.Adam([leaf(2)], fused=True, capturable=True)
    optim.SGD([leaf(2)], foreach=True)


def test_no_parameters():
    with pytest.raises(ValueError, match="empty parameter list"):
        optim.SGD([], lr=0.1)
    used = iter([leaf(2)])
    list(used)
    with pytest.raises(ValueError, match="generator can be used only once"):
        optim.SGD(used, lr=0.1)


def test_things_that_are_not_parameters():
    with pytest.raises(TypeError, match="came one Tensor"):
        optim.SGD(leaf(2), lr=0.1)
    with pytest.raises(TypeError, match="parameter 1 is int"):
        optim.SGD([leaf(2), 3], lr=0.1)
    with pytest.raises(TypeError, match="ordered collections"):
        optim.SGD([{"params": {leaf(2)}}], lr=0.1)
    with pytest.raises(TypeError, match="expected a dict, came list"):
        optim.SGD([leaf(2)], lr=0.1).add_param_group([leaf(2)])
    with pytest.raises(ValueError, match="non-leaf Tensor: parameter 0"):
        optim.SGD([leaf(2) * 2], lr=0.1)


def test_duplicates_warn_and_shared_ones_are_refused():
    w = leaf(2)
    with pytest.warns(UserWarning, match="duplicate parameters"):
        optim.SGD([w, w], lr=0.1)
    with pytest.raises(ValueError, match=r"more than one parameter group: positions \[1\]"):
        optim.SGD([{"params": [w]}, {"params": [leaf(1), w]}], lr=0.1)


def test_names_in_all_groups_or_in_none():
    named = optim.SGD([("a", leaf(1)), ("b", leaf(1))], lr=0.1)
    assert named.param_groups[0]["param_names"] == ["a", "b"]
    assert named.state_dict()["param_groups"][0]["param_names"] == ["a", "b"]
    with pytest.raises(ValueError, match="with/without names"):
        named.add_param_group({"params": [leaf(1)]})
    with pytest.raises(ValueError, match="1 of 2 have one"):
        optim.SGD([("a", leaf(1)), leaf(1)], lr=0.1)


def test_groups_with_their_own_settings():
    a, b = leaf(1), leaf(1)
    optimizer = optim.SGD([{"params": a}, {"params": [b], "lr": 1.0}], lr=0.1)
    a.grad = b.grad = ag.ones(1)
    optimizer.step()
    assert a.item() == pytest.approx(-0.1)
    assert b.item() == pytest.approx(-1.0)
    assert "Parameter Group 1" in repr(optimizer)
    assert "lr: 1.0" in repr(optimizer)


def test_a_required_setting_is_missing():
    class Needy(optim.Optimizer):
        def __init__(self, params):
            super().__init__(params, {"lr": optim.optimizer.required})

    with pytest.raises(ValueError, match="required optimization parameter lr"):
        Needy([leaf(1)])
    assert Needy([{"params": [leaf(1)], "lr": 2}]).param_groups[0]["lr"] == 2
    with pytest.raises(NotImplementedError, match="Needy must define step"):
        Needy([{"params": [leaf(1)], "lr": 2}]).step()


def test_zero_grad():
    w = leaf(2)
    optimizer = optim.SGD([w], lr=0.1)
    w.grad = ag.ones(2)
    held = w.grad
    optimizer.zero_grad(set_to_none=False)
    assert w.grad.tolist() == [0, 0]
    assert held.tolist() == [0, 0]
    optimizer.zero_grad()
    assert w.grad is None
    optimizer.zero_grad(set_to_none=False)
    assert w.grad is None


def test_closure_is_recorded_even_under_no_grad():
    w = ag.ones(1).requires_grad_()
    optimizer = optim.SGD([w], lr=0.5)

    def closure():
        loss = (w * 3).sum()
        loss.backward()
        return loss

    with ag.no_grad():
        loss = optimizer.step(closure)
    assert loss.item() == 3
    assert w.item() == pytest.approx(-0.5)


def test_a_users_optimizer_gets_hooks_and_order_checks():
    w = leaf(1)
    optimizer = Sign([w])
    w.grad = ag.ones(1)
    seen = []
    pre = optimizer.register_step_pre_hook(lambda *a: seen.append(("pre", w.item())))
    optimizer.register_step_post_hook(lambda *a: seen.append(("post", round(w.item(), 3))))
    optimizer.step()
    pre.remove()
    optimizer.step()
    assert seen == [("pre", 0.0), ("post", -0.1), ("post", -0.2)]
    assert optimizer._opt_called


def test_a_pre_hook_may_change_the_arguments():
    w = leaf(1)
    w.grad = ag.ones(1)
    optimizer = optim.SGD([w], lr=1)
    optimizer.register_step_pre_hook(lambda opt, args, kwargs: ((lambda: "loss",), {}))
    assert optimizer.step() == "loss"


def test_hooks_run_once_when_step_calls_its_parent():
    class Twice(optim.SGD):
        def step(self, closure=None):
            super().step()
            return super().step()

    w = leaf(1)
    w.grad = ag.ones(1)
    optimizer = Twice([w], lr=1)
    count = []
    optimizer.register_step_post_hook(lambda *a: count.append(1))
    optimizer.step()
    assert len(count) == 1
    assert w.item() == -2


def test_hooks_of_saving_and_loading():
    w = leaf(1)
    optimizer = optim.SGD([w], lr=1)
    calls = []
    optimizer.register_state_dict_pre_hook(lambda o: calls.append("second"))
    optimizer.register_state_dict_pre_hook(lambda o: calls.append("first"), prepend=True)
    optimizer.register_state_dict_post_hook(lambda o, s: {**s, "extra": 1})
    optimizer.register_load_state_dict_pre_hook(lambda o, s: calls.append(s["extra"]))
    optimizer.register_load_state_dict_post_hook(lambda o: calls.append("loaded"))
    optimizer.load_state_dict(optimizer.state_dict())
    assert calls == ["first", "second", 1, "loaded"]


def test_loading_a_state_of_other_groups():
    one = optim.SGD([leaf(1)], lr=1)
    two = optim.SGD([{"params": [leaf(1)]}, {"params": [leaf(1)]}], lr=1)
    long = optim.SGD([leaf(1), leaf(1)], lr=1)
    with pytest.raises(ValueError, match="number of parameter groups: expected 1, came 2"):
        one.load_state_dict(two.state_dict())
    with pytest.raises(ValueError, match=r"expected sizes \[1\], came \[2\]"):
        one.load_state_dict(long.state_dict())


def test_loading_state_of_another_shape_changes_nothing():
    a, b = leaf(2, 3), leaf(3, 2)
    first, second = optim.Adam([a], lr=1), optim.Adam([b], lr=5)
    a.grad = ag.ones(2, 3)
    first.step()
    with pytest.raises(ShapeError, match=r"'exp_avg' of parameter 0.*\(2, 3\).*\(3, 2\)"):
        second.load_state_dict(first.state_dict())
    assert second.param_groups[0]["lr"] == 5
    assert not second.state


def test_loaded_state_is_a_copy_in_the_parameters_dtype():
    a, b = leaf(2), ag.zeros(2, dtype=ag.float64, requires_grad=True)
    first, second = optim.Adam([a], lr=1), optim.Adam([b], lr=5)
    a.grad = ag.ones(2)
    first.step()
    second.load_state_dict(first.state_dict())
    state = second.state[b]
    assert state["exp_avg"].dtype == ag.float64
    assert state["step"].dtype == ag.float32
    before = first.state[a]["exp_avg"].tolist()
    b.grad = ag.ones(2, dtype=ag.float64)
    second.step()
    assert first.state[a]["exp_avg"].tolist() == before
    assert second.param_groups[0]["lr"] == 1


def test_loading_settings_of_an_older_version():
    w = leaf(1)
    optimizer = optim.SGD([w], lr=1, momentum=0.9)
    saved = optimizer.state_dict()
    saved["param_groups"] = [
        {k: v for k, v in g.items() if k in ("lr", "momentum", "params")}
        for g in saved["param_groups"]
    ]
    optimizer.load_state_dict(saved)
    assert optimizer.param_groups[0]["maximize"] is False


def test_adamw_stays_decoupled():
    w = leaf(1)
    optimizer = optim.AdamW([w])
    saved = optim.Adam([leaf(1)]).state_dict()
    optimizer.load_state_dict(saved)
    assert optimizer.param_groups[0]["decoupled_weight_decay"] is True


def test_amsgrad_switched_on_late():
    w = ag.ones(2).requires_grad_()
    optimizer = optim.Adam([w], lr=0.1)
    w.grad = ag.ones(2)
    optimizer.step()
    optimizer.param_groups[0]["amsgrad"] = True
    optimizer.step()
    np.testing.assert_array_equal(
        optimizer.state[w]["max_exp_avg_sq"].numpy(), optimizer.state[w]["exp_avg_sq"].numpy()
    )


def test_a_step_between_forward_and_backward_is_noticed():
    w = ag.ones(2).requires_grad_()
    loss = (w * w).sum()
    w.grad = ag.ones(2)
    optim.SGD([w], lr=0.1).step()
    with pytest.raises(RuntimeError):
        loss.backward()
