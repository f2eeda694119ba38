"""Every schedule gives PyTorch's numbers, step by step, and can be saved and resumed."""

import json
import warnings

import numpy as np
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
ROWS |= {
    "multiplicative": ("MultiplicativeLR", {"lr_lambda": lambda t: 0.9 + 0.1 / (1 + t)}, 60),
    "polynomial": ("PolynomialLR", {"total_iters": 30}, 60),
    "polynomial power": ("PolynomialLR", {"total_iters": 50, "power": 2.5}, 60),
    "restarts": ("CosineAnnealingWarmRestarts", {"T_0": 7}, 60),
    "restarts longer": ("CosineAnnealingWarmRestarts", {"T_0": 4, "T_mult": 2, "eta_min": 0.1}, 60),
    "cyclic": ("CyclicLR", {"base_lr": 0.01, "max_lr": 0.1, "step_size_up": 7}, 60),
    "cyclic halving": (
        "CyclicLR",
        {"base_lr": [0.01, 0.02], "max_lr": [0.1, 0.3], "step_size_up": 5, "step_size_down": 9,
         "mode": "triangular2", "base_momentum": 0.7, "max_momentum": 0.95},
        60,
    ),
    "cyclic exp": (
        "CyclicLR",
        {"base_lr": 0.01, "max_lr": 0.1, "step_size_up": 6, "mode": "exp_range", "gamma": 0.97,
         "cycle_momentum": False},
        60,
    ),
    "cyclic own": (
        "CyclicLR",
        {"base_lr": 0.01, "max_lr": 0.1, "step_size_up": 6, "scale_fn": lambda x: 1 / (5 + x),
         "scale_mode": "iterations"},
        60,
    ),
    "swa": ("SWALR", {"swa_lr": 0.05}, 60),
    "swa linear": ("SWALR", {"swa_lr": [0.5, 0.01], "anneal_epochs": 20,
                             "anneal_strategy": "linear"}, 60),
    "swa at once": ("SWALR", {"swa_lr": 0.05, "anneal_epochs": 0}, 20),
}  # fmt: skip
# schedules made of others: name -> how they are made from the module and the optimizer
COMBINED = {
    "sequential": lambda m, o: m.SequentialLR(
        o, [m.LinearLR(o, 0.1, total_iters=5), m.CosineAnnealingLR(o, 30), m.StepLR(o, 6)], [5, 35]
    ),
    "sequential cyclic": lambda m, o: m.SequentialLR(
        o, [m.ConstantLR(o, 0.5, 100), m.ExponentialLR(o, 0.9), m.PolynomialLR(o, 9)], [10, 20]
    ),
    "chained": lambda m, o: m.ChainedScheduler(
        [m.LinearLR(o, 0.1, total_iters=9), m.ExponentialLR(o, 0.97), m.MultiStepLR(o, [8, 30])]
    ),
    "chained warm-up": lambda m, o: m.ChainedScheduler([m.ConstantLR(o, 0.2, 6)], o),
}
CLOSED = [
    "polynomial",
    "polynomial power",
    "step",
    "multi step",
    "constant",
    "linear",
    "linear down",
    "exponential",
    "cosine",
]
OPTIMIZERS = {"SGD": {"momentum": 0.9}, "Adam": {}}


def schedule(module, name):
    """A class of lr_scheduler or of swa_utils, of allgrad or of torch."""
    return getattr(module.swa_utils if name == "SWALR" else module.lr_scheduler, name)


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
    a = schedule(optim, name)(mine, **settings)
    b = schedule(torch.optim, name)(other, **settings)
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
    a = schedule(optim, name)(mine, **settings)
    b = schedule(torch.optim, name)(other, **settings)
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
    scheduler = schedule(optim, name)(whole, **settings)
    resumed = ours()
    for t in range(steps):
        if t == steps // 2:
            again = schedule(optim, name)(resumed, **settings)
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
    state = schedule(optim, name)(ours(), **settings).state_dict()
    json.dumps({k: v for k, v in state.items() if k != "milestones"})
    assert "optimizer" not in state


@pytest.mark.parametrize("row", [r for r in ROWS if not r.startswith(("one cycle", "cyclic"))])
@pytest.mark.torch
def test_starting_at_a_later_step(row):
    torch = pytest.importorskip("torch")
    name, settings, _ = ROWS[row]
    mine, other = ours(), theirs(torch)
    for group in [*mine.param_groups, *other.param_groups]:
        group["initial_lr"] = group["lr"]
    a = schedule(optim, name)(mine, **settings, last_epoch=4)
    b = schedule(torch.optim, name)(other, **settings, last_epoch=4)
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


@pytest.mark.parametrize("name", COMBINED)
@pytest.mark.torch
def test_combined_schedules_as_torch(name):
    torch = pytest.importorskip("torch")
    mine, other = ours(), theirs(torch)
    a = COMBINED[name](lr_scheduler, mine)
    b = COMBINED[name](torch.optim.lr_scheduler, other)
    with warnings.catch_warnings():  # PyTorch warns of its own step(0)
        warnings.simplefilter("ignore")
        for t in range(60):
            assert moving(mine) == moving(other)
            assert a.get_last_lr() == b.get_last_lr()
            if t == 25:  # saved and resumed, on new objects, in PyTorch's layout
                state = a.state_dict()
                assert state.keys() == b.state_dict().keys()
                assert [s.keys() for s in state["_schedulers"]] == [
                    s.keys() for s in b.state_dict()["_schedulers"]
                ]
                resumed = ours()
                a = COMBINED[name](lr_scheduler, resumed)
                resumed.load_state_dict(mine.state_dict())
                a.load_state_dict(state)
                mine = resumed
            for step in (mine.step, other.step, a.step, b.step):
                step()


@rows
@pytest.mark.torch
def test_state_has_the_keys_of_torch(row):
    torch = pytest.importorskip("torch")
    name, settings, _ = ROWS[row]
    a = schedule(optim, name)(ours(), **settings).state_dict()
    b = schedule(torch.optim, name)(theirs(torch), **settings).state_dict()
    assert a.keys() == b.keys()
    assert a["base_lrs"] == b["base_lrs"]
    assert a["last_epoch"] == b["last_epoch"]


PLATEAU = {
    "default": {"patience": 2},
    "max": {"mode": "max", "patience": 1, "factor": 0.5, "threshold": 0.05},
    "abs": {"threshold_mode": "abs", "threshold": 0.1, "patience": 0, "cooldown": 3},
    "max abs": {"mode": "max", "threshold_mode": "abs", "threshold": 0.2, "patience": 1},
    "bounds": {"patience": 0, "factor": 0.3, "min_lr": [0.01, 0.001], "eps": 1e-3},
}


@pytest.mark.parametrize("row", PLATEAU)
@pytest.mark.torch
def test_plateau_as_torch(row):
    torch = pytest.importorskip("torch")
    random = np.random.default_rng(0)
    mine, other = ours(), theirs(torch)
    a = lr_scheduler.ReduceLROnPlateau(mine, **PLATEAU[row])
    b = torch.optim.lr_scheduler.ReduceLROnPlateau(other, **PLATEAU[row])
    for t in range(60):
        metric = 1 / (1 + t) + 0.3 * random.random()
        a.step(ag.tensor(metric, dtype=ag.float64) if t % 2 else metric)
        b.step(metric)
        assert moving(mine) == moving(other)
        assert a.get_last_lr() == b.get_last_lr()
        assert a.state_dict() == b.state_dict()
        if t == 30:
            state = a.state_dict()
            a = lr_scheduler.ReduceLROnPlateau(mine, **PLATEAU[row])
            a.load_state_dict(state)


def test_restarts_take_fractions_of_an_epoch():
    optimizer = ours()
    scheduler = lr_scheduler.CosineAnnealingWarmRestarts(optimizer, 4, 2)
    scheduler.step(2.0)
    assert scheduler.get_last_lr()[0] == pytest.approx(0.05)
    scheduler.step(8.0)  # half of the second cycle, which has 8 steps
    assert scheduler.get_last_lr()[0] == pytest.approx(0.05)
    with pytest.raises(ValueError, match="non-negative epoch"):
        scheduler.step(-1)


def test_every_schedule_has_a_row():
    made = {name for name, _, _ in ROWS.values()}
    made |= {"SequentialLR", "ChainedScheduler", "ReduceLROnPlateau", "LRScheduler"}
    assert made == set(lr_scheduler.__all__) | {"SWALR"}


@pytest.mark.torch
def test_every_schedule_of_torch_is_there():
    torch = pytest.importorskip("torch")
    base = torch.optim.lr_scheduler.LRScheduler
    theirs = {
        name
        for name, value in vars(torch.optim.lr_scheduler).items()
        if isinstance(value, type) and issubclass(value, base) and not name.startswith("_")
    }
    assert theirs == set(lr_scheduler.__all__)


WRONG = {
    "T_0": lambda m, o, x: m.CosineAnnealingWarmRestarts(o, 0),
    "T_mult": lambda m, o, x: m.CosineAnnealingWarmRestarts(o, 5, 0),
    "eta_min": lambda m, o, x: m.CosineAnnealingWarmRestarts(o, 5, 1, "a"),
    "cyclic mode": lambda m, o, x: m.CyclicLR(o, 0.01, 0.1, mode="square"),
    "cyclic length": lambda m, o, x: m.CyclicLR(o, [0.01], 0.1),
    "plateau factor": lambda m, o, x: m.ReduceLROnPlateau(o, factor=1.0),
    "plateau mode": lambda m, o, x: m.ReduceLROnPlateau(o, mode="least"),
    "plateau threshold": lambda m, o, x: m.ReduceLROnPlateau(o, threshold_mode="most"),
    "plateau bounds": lambda m, o, x: m.ReduceLROnPlateau(o, min_lr=[1]),
    "plateau optimizer": lambda m, o, x: m.ReduceLROnPlateau(3),
    "no schedule": lambda m, o, x: m.SequentialLR(o, [], []),
    "milestones": lambda m, o, x: m.SequentialLR(o, [m.StepLR(o, 3)], [1]),
    "not a schedule": lambda m, o, x: m.SequentialLR(o, [m.StepLR(o, 3), 3], [1]),
    "other optimizer": lambda m, o, x: m.SequentialLR(o, [m.StepLR(o, 3), m.StepLR(x, 3)], [1]),
    "plateau inside": lambda m, o, x: m.ChainedScheduler([m.ReduceLROnPlateau(o)]),
    "chained nothing": lambda m, o, x: m.ChainedScheduler([]),
    "chained other": lambda m, o, x: m.ChainedScheduler([m.StepLR(o, 3), m.StepLR(x, 3)]),
}


@pytest.mark.parametrize("name", WRONG)
@pytest.mark.torch
def test_mistakes_raise_what_torch_raises(name):
    torch = pytest.importorskip("torch")
    with pytest.raises((ValueError, TypeError)) as expected:
        WRONG[name](torch.optim.lr_scheduler, theirs(torch), theirs(torch))
    with pytest.raises(expected.type):
        WRONG[name](lr_scheduler, ours(), ours())
