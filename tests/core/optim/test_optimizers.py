"""The contract every optimizer keeps: one row of the table buys all tests of this file."""

import numpy as np
import pytest

import allgrad as ag
from allgrad import optim
from allgrad.errors import DtypeError, ShapeError

# name: (class, settings, learning rate for the two test functions)
ROWS = {
    "sgd": (optim.SGD, {}, (0.1, 2e-3)),
    "sgd momentum": (optim.SGD, {"momentum": 0.9}, (0.05, 5e-4)),
    "sgd dampening": (optim.SGD, {"momentum": 0.9, "dampening": 0.3}, (0.05, 5e-4)),
    "sgd nesterov": (optim.SGD, {"momentum": 0.9, "nesterov": True}, (0.05, 5e-4)),
    "sgd decay": (optim.SGD, {"momentum": 0.9, "weight_decay": 1e-4}, (0.05, 5e-4)),
    "sgd nesterov decay": (
        optim.SGD,
        {"momentum": 0.8, "nesterov": True, "weight_decay": 1e-4},
        (0.05, 5e-4),
    ),
    "adam": (optim.Adam, {}, (0.1, 0.05)),
    "adam betas": (optim.Adam, {"betas": (0.8, 0.99), "eps": 1e-6}, (0.1, 0.05)),
    "adam decay": (optim.Adam, {"weight_decay": 1e-4}, (0.1, 0.05)),
    "adam amsgrad": (optim.Adam, {"amsgrad": True}, (0.1, 0.05)),
    "adamw": (optim.AdamW, {"weight_decay": 1e-4}, (0.1, 0.05)),
    "adamw amsgrad": (optim.AdamW, {"weight_decay": 1e-4, "amsgrad": True}, (0.1, 0.05)),
    "nadam": (optim.NAdam, {}, (0.1, 0.05)),
    "nadam decay": (
        optim.NAdam,
        {"weight_decay": 1e-4, "betas": (0.8, 0.99), "momentum_decay": 0.01},
        (0.05, 0.05),
    ),
    "nadam decoupled": (
        optim.NAdam,
        {"weight_decay": 1e-4, "decoupled_weight_decay": True},
        (0.1, 0.05),
    ),
    "radam": (optim.RAdam, {}, (0.1, 0.007)),
    "radam decay": (optim.RAdam, {"weight_decay": 1e-4, "betas": (0.8, 0.9)}, (0.1, 0.005)),
    "radam decoupled": (
        optim.RAdam,
        {"weight_decay": 1e-4, "decoupled_weight_decay": True, "betas": (0.9, 0.99)},
        (0.1, 0.007),
    ),
    "rmsprop": (optim.RMSprop, {}, (0.01, 0.005)),
    "rmsprop momentum": (optim.RMSprop, {"momentum": 0.5, "weight_decay": 1e-4}, (0.01, 0.002)),
    "rmsprop centered": (
        optim.RMSprop,
        {"centered": True, "momentum": 0.5, "alpha": 0.9, "eps": 1e-2},
        (0.01, 5e-4),
    ),
    "adagrad": (optim.Adagrad, {}, (0.5, 0.2)),
    "adagrad decay": (
        optim.Adagrad,
        {"lr_decay": 1e-4, "weight_decay": 1e-4, "initial_accumulator_value": 0.1},
        (0.5, 0.2),
    ),
    "adadelta": (optim.Adadelta, {"rho": 0.8, "eps": 1e-3}, (1.0, 0.01)),
    "adadelta decay": (optim.Adadelta, {"weight_decay": 1e-4, "eps": 1e-3}, (1.0, 0.01)),
    "adamax": (optim.Adamax, {}, (0.1, 0.05)),
    "adamax decay": (optim.Adamax, {"weight_decay": 1e-4, "betas": (0.8, 0.99)}, (0.1, 0.05)),
    "asgd": (optim.ASGD, {}, (0.1, 2e-3)),
    "asgd averaging": (
        optim.ASGD,
        {"t0": 5, "lambd": 1e-3, "alpha": 0.5, "weight_decay": 1e-4},
        (0.1, 3e-3),
    ),
    "rprop": (optim.Rprop, {}, (0.1, 0.01)),
    "rprop etas": (
        optim.Rprop,
        {"etas": (0.4, 1.1), "step_sizes": (1e-5, 0.05)},
        (0.01, 0.01),
    ),
    "adafactor": (optim.Adafactor, {}, (0.3, 0.05)),
    "adafactor decay": (
        optim.Adafactor,
        {"weight_decay": 1e-4, "eps": (1e-10, 1e-2), "d": 2.0, "beta2_decay": -0.5},
        (0.05, 0.05),
    ),
    "muon": (optim.Muon, {"weight_decay": 0.0}, (0.02, 0.01)),
    "muon plain": (
        optim.Muon,
        {
            "nesterov": False,
            "adjust_lr_fn": "match_rms_adamw",
            "ns_steps": 4,
            "momentum": 0.8,
            "weight_decay": 0.0,
        },
        (0.05, 0.02),
    ),
    "lars": (optim.LARS, {"trust_coefficient": 0.1, "exclude_1d": False}, (0.05, 0.01)),
    "lars decay": (
        optim.LARS,
        {"trust_coefficient": 0.02, "weight_decay": 1e-4, "nesterov": True},
        (0.2, 0.1),
    ),
    "lamb": (optim.LAMB, {}, (0.02, 0.01)),
    "lamb decay": (
        optim.LAMB,
        {"weight_decay": 1e-4, "exclude_1d": True, "norm_bounds": (0.01, 10.0)},
        (0.03, 0.01),
    ),
}
MATRICES = {"muon", "muon plain"}  # step only these
IN_TORCH = {row for row, (cls, _, _) in ROWS.items() if cls not in (optim.LARS, optim.LAMB)}
EXACT = IN_TORCH - MATRICES  # PyTorch rounds Muon's iteration to bfloat16: see test_muon
SHAPES = [(3, 4), (5,), (2, 3, 2, 2), (1,), (), (0, 3)]
NUMBERS = ("step", "mu_product", "eta", "mu")  # state of shape (), float32
TOLERANCE = {"float64": 1e-12, "float32": 2e-6}

MATRIX_SHAPES = [(3, 4), (4, 3), (2, 2), (1, 1), (5, 2), (2, 6)]

rows = pytest.mark.parametrize("row", ROWS)
torch_rows = pytest.mark.parametrize("row", sorted(IN_TORCH))
exact_rows = pytest.mark.parametrize("row", sorted(EXACT))
dtypes = pytest.mark.parametrize("dtype", TOLERANCE)


def shapes_of(row):
    if ROWS[row][0] is optim.Adafactor:
        return [s for s in SHAPES if 0 not in s]  # PyTorch's divides by the number of elements
    return MATRIX_SHAPES if row in MATRICES else SHAPES


def make_params(row, dtype="float64", seed=0):
    rng = np.random.default_rng(seed)
    return [
        ag.tensor(rng.standard_normal(s), dtype=getattr(ag, dtype), requires_grad=True)
        for s in shapes_of(row)
    ]


def set_grads(params, seed):
    rng = np.random.default_rng(seed)
    for p in params:
        p.grad = ag.tensor(rng.standard_normal(tuple(p.shape)), dtype=p.dtype)


def values(params):
    return [p.detach().numpy().copy() for p in params]


def make(row, params, lr=0.01, **more):
    cls, settings, _ = ROWS[row]
    return cls(params, lr=lr, **settings, **more)


@rows
def test_minimizes_a_parabola(row):
    target = np.array([[1.0, -2.0], [0.5, 3.0]])
    w = ag.zeros(2, 2, dtype=ag.float64, requires_grad=True)
    optimizer = make(row, [w], lr=ROWS[row][2][0])
    for _ in range(400):
        optimizer.zero_grad()
        ((w - ag.tensor(target)) ** 2).sum().backward()
        optimizer.step()
    np.testing.assert_allclose(w.detach().numpy(), target, atol=0.1)


@rows
def test_goes_down_the_rosenbrock_valley(row):
    w = ag.tensor([[-1.0, 1.5]], dtype=ag.float64, requires_grad=True)
    optimizer = make(row, [w], lr=ROWS[row][2][1])

    def closure():
        optimizer.zero_grad()
        x, y = w[0, 0], w[0, 1]
        loss = (1 - x) ** 2 + 20 * (y - x**2) ** 2
        loss.backward()
        return loss

    first = closure().item()
    for _ in range(2000):
        last = optimizer.step(closure)
    assert last.item() < first / 100


@exact_rows
@dtypes
@pytest.mark.parametrize("maximize", [False, True])
@pytest.mark.torch
def test_same_numbers_as_torch(row, dtype, maximize):
    torch = pytest.importorskip("torch")
    params = make_params(row, dtype)
    theirs = [torch.tensor(v, requires_grad=True) for v in values(params)]
    cls, settings, _ = ROWS[row]
    mine = cls(params, lr=0.01, maximize=maximize, **settings)
    other = getattr(torch.optim, cls.__name__)(theirs, lr=0.01, maximize=maximize, **settings)
    for step in range(60):
        set_grads(params, step)
        for p, q in zip(params, theirs, strict=True):
            q.grad = torch.tensor(p.grad.numpy().copy())
        mine.step()
        other.step()
    for p, q in zip(params, theirs, strict=True):
        np.testing.assert_allclose(
            p.detach().numpy(), q.detach().numpy(), rtol=0, atol=TOLERANCE[dtype] * 10
        )


@rows
@dtypes
def test_keeps_dtype_memory_and_counts_the_change(row, dtype):
    params = make_params(row, dtype)
    set_grads(params, 1)
    arrays = [p._array for p in params]
    versions = [p._version[0] for p in params]
    optimizer = make(row, params)
    optimizer.step()
    for p, array, version in zip(params, arrays, versions, strict=True):
        assert p._array is array
        assert p.dtype == getattr(ag, dtype)
        assert p._version[0] > version
        for name, value in optimizer.state[p].items():
            assert name in NUMBERS or value.dtype == p.dtype


@rows
def test_a_parameter_without_gradient_stays(row):
    params = make_params(row)
    set_grads(params, 1)
    params[1].grad = None
    before = values(params)
    optimizer = make(row, params)
    optimizer.step()
    after = values(params)
    np.testing.assert_array_equal(before[1], after[1])
    assert not np.array_equal(before[0], after[0])
    state = optimizer.state.get(params[1], {})  # Adagrad's is there from the beginning
    assert state.get("step", ag.zeros(())).item() == 0
    assert not state or isinstance(optimizer, optim.Adagrad)


@rows
def test_a_parameter_that_is_not_contiguous(row):
    contiguous = ag.tensor(np.arange(12.0).reshape(4, 3), requires_grad=True)
    memory = np.arange(12.0).reshape(4, 3).T.copy()
    strided = ag.from_numpy(memory.T).requires_grad_()
    for w in (contiguous, strided):
        optimizer = make(row, [w])
        for step in range(3):
            set_grads([w], step)
            optimizer.step()
    np.testing.assert_allclose(contiguous.detach().numpy(), strided.detach().numpy(), rtol=1e-14)
    np.testing.assert_array_equal(strided.detach().numpy(), memory.T)


@rows
def test_resuming_from_a_state_dict_gives_the_same_bits(row):
    def run(stop, state=None, start=0, params=None):
        params = params or make_params(row, "float32")
        optimizer = make(row, params, lr=0.5 if state else 0.01)
        if state:
            optimizer.load_state_dict(state)
        for step in range(start, stop):
            set_grads(params, step)
            optimizer.step()
        return params, optimizer

    whole, _ = run(10)
    half, optimizer = run(5)
    copies = [ag.tensor(v, requires_grad=True) for v in values(half)]
    resumed, _ = run(10, optimizer.state_dict(), 5, copies)
    for a, b in zip(values(whole), values(resumed), strict=True):
        np.testing.assert_array_equal(a, b)


@torch_rows
@pytest.mark.torch
def test_state_dict_has_the_layout_of_torch(row):
    torch = pytest.importorskip("torch")
    params = make_params(row, "float32")
    theirs = [torch.tensor(v, requires_grad=True) for v in values(params)]
    cls, settings, _ = ROWS[row]
    set_grads(params, 0)
    for p, q in zip(params, theirs, strict=True):
        q.grad = torch.tensor(p.grad.numpy().copy())
    groups = [{"params": params[:2]}, {"params": params[2:], "lr": 0.5}]
    mine = cls(groups, lr=0.01, **settings)
    groups = [{"params": theirs[:2]}, {"params": theirs[2:], "lr": 0.5}]
    other = getattr(torch.optim, cls.__name__)(groups, lr=0.01, **settings)
    mine.step()
    other.step()
    expected, found = other.state_dict(), mine.state_dict()
    assert found["param_groups"] == expected["param_groups"]
    assert found["state"].keys() == expected["state"].keys()
    for index, state in expected["state"].items():
        assert found["state"][index].keys() == state.keys()
        for name, value in state.items():
            assert tuple(found["state"][index][name].shape) == tuple(value.shape)


@exact_rows
@pytest.mark.torch
def test_continues_from_the_state_of_torch(row):
    torch = pytest.importorskip("torch")
    params = make_params(row, "float64")
    theirs = [torch.tensor(v, requires_grad=True) for v in values(params)]
    cls, settings, _ = ROWS[row]
    other = getattr(torch.optim, cls.__name__)(theirs, lr=0.01, **settings)
    for step in range(8):
        if step == 4:
            for p, q in zip(params, theirs, strict=True):
                np.copyto(p._array, q.detach().numpy())
            saved = other.state_dict()
            saved["state"] = {
                i: {k: ag.tensor(v.numpy()) for k, v in s.items()}
                for i, s in saved["state"].items()
            }
            mine = cls(params, lr=1.0, **settings)
            mine.load_state_dict(saved)
        set_grads(params, step)
        for p, q in zip(params, theirs, strict=True):
            q.grad = torch.tensor(p.grad.numpy().copy())
        other.step()
        if step >= 4:
            mine.step()
    for p, q in zip(params, theirs, strict=True):
        np.testing.assert_allclose(p.detach().numpy(), q.detach().numpy(), atol=1e-12)


@rows
def test_a_gradient_of_another_shape_or_dtype_names_the_parameter(row):
    named = [("w.weight", ag.zeros(2, 3, requires_grad=True))]
    optimizer = make(row, named)
    w = named[0][1]
    w.grad = ag.ones(2, 3)
    w.data = ag.zeros(3, 3)
    with pytest.raises(
        ShapeError, match=r"parameter 0 of group 0 \('w.weight'\).*\(3, 3\).*\(2, 3"
    ):
        optimizer.step()
    w.data = ag.zeros(2, 3, dtype=ag.float64)
    with pytest.raises(DtypeError, match=r"w\.weight.*float64.*float32"):
        optimizer.step()


@rows
def test_steps_with_a_tensor_as_learning_rate(row):
    plain, as_tensor = make_params(row), make_params(row)
    first = make(row, plain, lr=0.25)
    second = make(row, as_tensor, lr=ag.tensor(0.25))
    for step in range(2):
        for params in (plain, as_tensor):
            set_grads(params, step)
        first.step()
        second.step()
    for a, b in zip(values(plain), values(as_tensor), strict=True):
        np.testing.assert_array_equal(a, b)
