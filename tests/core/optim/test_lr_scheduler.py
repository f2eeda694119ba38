"""Every schedule gives PyTorch's numbers, step by step, and can be saved and resumed."""

import json
import warnings

import pytest

import allgrad as ag
from allgrad import optim
from allgrad.errors import OptionError
from allgrad.optim import lr_scheduler

# name: (class, settings, number of steps)
ROWS = {
    "lambda": ("LambdaLR", {"lr_lambda": lambda t: 0.97**t}, 200),
    "lambda per group": ("LambdaLR", {"lr_lambda": [lambda t: 1 / (1 + t), lambda t: t]}, 200),
    "step": ("StepLR", {"step_size": 7, "gamma": 0.7}, 300),
    "multi step": ("MultiStepLR", {"milestones": [3, 10, 10, 90], "gamma": 0.3}, 300),
    "constant": ("ConstantLR", {"factor": 0.3, "total_iters": 11}, 40),
    "linear": ("LinearLR", {"start_factor": 0.1, "total_iters": 60}, 200),
    "linear down": ("LinearLR", {"start_factor": 1.0, "end_factor": 0.2, "total_iters": 9}, 20),
    "exponential": ("ExponentialLR", {"gamma": 0.98}, 300),
    "cosine": ("CosineAnnealingLR", {"T_max": 50}, 300),
    "cosine min": ("CosineAnnealingLR", {"T_max": 13, "eta_min": 0.003}, 300),
    "cosine one": ("CosineAnnealingLR", {"T_max": 1}, 10),
    "one cycle": ("OneCycleLR", {"max_lr": 0.5, "total_steps": 300}, 300),
    "one cycle linear": (
        "OneCycleLR",
        {"max_lr": [0.5, 0.1], "epochs": 10, "steps_per_epoch": 20, "anneal_strategy": "linear"},
        200,
    ),
    "one cycle three": (
        "OneCycleLR",
        {"max_lr": 0.3, "total_steps": 101, "three_phase": True, "pct_start": 0.25},
        101,
    ),
    "one cycle plain": (
        "OneCycleLR",
        {"max_lr": 0.3, "total_steps": 50, "cycle_momentum": False, "div_factor": 4.0},
        50,
    ),
}
CLOSED = ["step", "multi step", "constant", "linear", "linear down", "exponential", "cosine"]
OPTIMIZERS = {"SGD": {"momentum": 0.9}, "Adam": {}}

rows = pytest.mark.parametrize("row", ROWS)


def ours(kind="SGD"):
    groups = [
        {"params": [ag.zeros(1, requires_grad=True)]},
        {"params": [ag.zeros(1, requires_grad=True)], "lr": 0.02},
    ]
    return getattr(optim, kind)(groups, lr=0.1, **OPTIMIZERS[kind])


def theirs(torch, kind="SGD"):
    groups = [
        {"params": [torch.zeros(1, requires_grad=True)]},
        {"params": [torch.zeros(1, requires_grad=True)], "lr": 0.02},
    ]
    return getattr(torch.optim, kind)(groups, lr=0.1, **OPTIMIZERS[kind])


def moving(optimizer):
    """What a schedule may change in a group."""
    return [(g["lr"], g.get("momentum"), g.get("betas")) for g in optimizer.param_groups]


@rows
@pytest.mark.parametrize("kind", OPTIMIZERS)
@pytest.mark.torch
def test_same_numbers_as_torch(row, kind):
    torch = pytest.importorskip("torch")
    name, settings, steps = ROWS[row]
    mine, other = ours(kind), theirs(torch, kind)
    a = getattr(lr_scheduler, name)(mine, **settings)
    b = getattr(torch.optim.lr_scheduler, name)(other, **settings)
    assert moving(mine) == moving(other)
    for _ in range(steps):
        mine.step()
        other.step()
        a.step()
        b.step()
        assert moving(mine) == moving(other)
        assert a.get_last_lr() == b.get_last_lr()
    assert a.last_epoch == b.last_epoch


@pytest.mark.parametrize("row", CLOSED)
@pytest.mark.torch
def test_closed_form_as_torch(row):
    torch = pytest.importorskip("torch")
    name, settings, _ = ROWS[row]
    mine, other = ours(), theirs(torch)
    a = getattr(lr_scheduler, name)(mine, **settings)
    b = getattr(torch.optim.lr_scheduler, name)(other, **settings)
    mine.step()
    other.step()
    for epoch in (5, 60, 13, 0, 200):
        with pytest.warns(UserWarning, match="deprecated"):
            a.step(epoch)
        with pytest.warns(UserWarning, match="deprecated"):
            b.step(epoch)
        assert moving(mine) == moving(other)


@rows
def test_resume_continues_the_schedule(row):
    name, settings, steps = ROWS[row]
    whole = ours()
    scheduler = getattr(lr_scheduler, name)(whole, **settings)
    resumed = ours()
    for t in range(steps):
        if t == steps // 2:
            again = getattr(lr_scheduler, name)(resumed, **settings)
            resumed.load_state_dict(whole.state_dict())
            again.load_state_dict(dict(scheduler.state_dict()))
        whole.step()
        scheduler.step()
        if t >= steps // 2:
            resumed.step()
            again.step()
            assert moving(resumed) == moving(whole)
            assert again.get_last_lr() == scheduler.get_last_lr()


@rows
def test_the_state_without_functions_is_json(row):
    name, settings, _ = ROWS[row]
    state = getattr(lr_scheduler, name)(ours(), **settings).state_dict()
    json.dumps({k: v for k, v in state.items() if k != "milestones"})


@pytest.mark.parametrize("row", [r for r in ROWS if "one cycle" not in r])
@pytest.mark.torch
def test_starting_at_a_later_step(row):
    torch = pytest.importorskip("torch")
    name, settings, _ = ROWS[row]
    mine, other = ours(), theirs(torch)
    for group in [*mine.param_groups, *other.param_groups]:
        group["initial_lr"] = group["lr"]
    a = getattr(lr_scheduler, name)(mine, **settings, last_epoch=4)
    b = getattr(torch.optim.lr_scheduler, name)(other, **settings, last_epoch=4)
    for _ in range(20):
        assert moving(mine) == moving(other)
        mine.step()
        other.step()
        a.step()
        b.step()


@pytest.mark.torch
def test_two_schedules_on_one_optimizer():
    torch = pytest.importorskip("torch")
    mine, other = ours(), theirs(torch)
    pairs = [
        (mine, lr_scheduler.LinearLR(mine, 0.1, total_iters=5), lr_scheduler.StepLR(mine, 4)),
        (
            other,
            torch.optim.lr_scheduler.LinearLR(other, 0.1, total_iters=5),
            torch.optim.lr_scheduler.StepLR(other, 4),
        ),
    ]
    for _ in range(20):
        for optimizer, *schedulers in pairs:
            optimizer.step()
            for scheduler in schedulers:
                scheduler.step()
        assert moving(mine) == moving(other)


def test_a_learning_rate_that_is_a_tensor_stays_that_tensor():
    lr = ag.tensor(0.5, dtype=ag.float64)
    optimizer = optim.SGD([ag.zeros(1, requires_grad=True)], lr=lr)
    scheduler = lr_scheduler.StepLR(optimizer, 1, gamma=0.5)
    optimizer.step()
    scheduler.step()
    assert optimizer.param_groups[0]["lr"] is lr
    assert lr.item() == 0.25
    assert scheduler.get_last_lr() == [0.25]


def test_warns_when_the_order_is_wrong():
    scheduler = lr_scheduler.StepLR(ours(), 3)
    with pytest.warns(UserWarning, match="before `optimizer.step"):
        scheduler.step()


def test_does_not_warn_when_the_order_is_right():
    optimizer = ours()
    scheduler = lr_scheduler.StepLR(optimizer, 3)
    optimizer.step()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        scheduler.step()
        scheduler.step()


def test_warns_when_step_was_replaced():
    optimizer = ours()
    scheduler = lr_scheduler.StepLR(optimizer, 3)
    optimizer.step = lambda: None
    with pytest.warns(UserWarning, match="overridden"):
        scheduler.step()


def test_get_lr_outside_of_step_warns():
    scheduler = lr_scheduler.StepLR(ours(), 3)
    with pytest.warns(UserWarning, match="get_last_lr"):
        scheduler.get_lr()


def test_a_users_schedule():
    class Halving(lr_scheduler.LRScheduler):
        def get_lr(self):
            return [lr / 2**self.last_epoch for lr in self.base_lrs]

    optimizer = ours()
    scheduler = Halving(optimizer)
    optimizer.step()
    scheduler.step()
    assert scheduler.get_last_lr() == [0.05, 0.01]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda o: lr_scheduler.StepLR("no", 3), "str is not an Optimizer"),
        (lambda o: lr_scheduler.StepLR(o, 0), "positive integer step_size"),
        (lambda o: lr_scheduler.StepLR(o, 3, last_epoch=2), "initial_lr"),
        (lambda o: lr_scheduler.LambdaLR(o, [abs]), "expected 2, came 1"),
        (lambda o: lr_scheduler.ConstantLR(o, 1.5), "between 0 and 1, came 1.5"),
        (lambda o: lr_scheduler.LinearLR(o, 0.0), "greater than 0"),
        (lambda o: lr_scheduler.LinearLR(o, 0.1, 2.0), "between 0 and 1, came 2.0"),
        (lambda o: lr_scheduler.OneCycleLR(o, 1.0), "must define either total_steps"),
        (lambda o: lr_scheduler.OneCycleLR(o, 1.0, 0), "positive integer total_steps"),
        (lambda o: lr_scheduler.OneCycleLR(o, 1.0, epochs=2, steps_per_epoch=-1), "steps_per_e"),
        (lambda o: lr_scheduler.OneCycleLR(o, 1.0, 9, pct_start=2.0), "pct_start, but got 2.0"),
        (lambda o: lr_scheduler.OneCycleLR(o, [1.0], 9), "max_lr must have the same length"),
    ],
)
def test_mistakes(make, message):
    with pytest.raises((ValueError, TypeError, KeyError), match=message):
        make(ours())


def test_an_unknown_strategy_lists_the_known_ones():
    with pytest.raises(OptionError, match="known: 'cos', 'linear'"):
        lr_scheduler.OneCycleLR(ours(), 1.0, 9, anneal_strategy="sine")


def test_one_cycle_needs_something_to_cycle():
    class Plain(optim.Optimizer):
        def __init__(self, params):
            super().__init__(params, {"lr": 1.0})

        def step(self, closure=None):
            pass

    with pytest.raises(ValueError, match="must support momentum or beta1"):
        lr_scheduler.OneCycleLR(Plain([ag.zeros(1, requires_grad=True)]), 1.0, 9)


def test_one_cycle_ends():
    optimizer = ours()
    scheduler = lr_scheduler.OneCycleLR(optimizer, 1.0, 5)
    optimizer.step()
    for _ in range(5):
        scheduler.step()
    with pytest.raises(ValueError, match="Tried to step 6 times"):
        scheduler.step()
