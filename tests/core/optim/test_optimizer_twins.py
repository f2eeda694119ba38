"""What the table of test_optimizers.py cannot say: papers' twins, wrong settings, guard, dtypes."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest

import allgrad as ag
from allgrad import backend, optim
from allgrad.checkpoint import load_checkpoint, save_checkpoint


def _table():
    path = Path(__file__).with_name("test_optimizers.py")
    spec = importlib.util.spec_from_file_location("optimizer_table", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


table = _table()
rows = pytest.mark.parametrize("row", table.ROWS)
dtypes = pytest.mark.parametrize("dtype", table.TOLERANCE)


def lars_twin(w, g, state, lr, ndim, trust, decay, nesterov, exclude):
    """Algorithm 1 of the paper."""
    rate = lr
    if ndim > 1 or not exclude:
        g_norm, w_norm = np.sqrt(np.sum(g**2)), np.sqrt(np.sum(w**2))
        if g_norm and w_norm:
            rate = lr * trust * w_norm / (g_norm + decay * w_norm + 1e-8)
        g = g + decay * w
    state["v"] = 0.9 * state.get("v", 0 * w) + rate * g
    return w - (rate * g + 0.9 * state["v"] if nesterov else state["v"])


def lamb_twin(w, g, state, lr, ndim, decay, exclude, bounds):
    """Algorithm 2 of the paper."""
    state["t"] = t = state.get("t", 0) + 1
    state["m"] = 0.9 * state.get("m", 0) + (1 - 0.9) * g
    state["v"] = 0.999 * state.get("v", 0) + (1 - 0.999) * g**2
    r = (state["m"] / (1 - 0.9**t)) / (np.sqrt(state["v"] / (1 - 0.999**t)) + 1e-6)
    if ndim <= 1 and exclude:
        return w - lr * r
    u = r + decay * w
    w_norm, u_norm = np.sqrt(np.sum(w**2)), np.sqrt(np.sum(u**2))
    w_norm = np.clip(w_norm, *bounds) if bounds else w_norm
    return w - lr * (w_norm / u_norm if w_norm and u_norm else 1.0) * u


TWINS = {
    "lars": (lars_twin, (0.1, 0.0, False, False)),
    "lars decay": (lars_twin, (0.02, 1e-4, True, True)),
    "lamb": (lamb_twin, (0.0, False, None)),
    "lamb decay": (lamb_twin, (1e-4, True, (0.01, 10.0))),
}


@pytest.mark.parametrize("row", TWINS)
@dtypes
def test_same_numbers_as_the_papers(row, dtype):
    twin, settings = TWINS[row]
    params = table.make_params(row, dtype)
    params.append(ag.zeros(2, 2, dtype=getattr(ag, dtype), requires_grad=True))  # norm 0
    expected = [v.astype(np.float64) for v in table.values(params)]
    states = [{} for _ in params]
    optimizer = table.make(row, params, lr=0.05)
    for step in range(30):
        table.set_grads(params, step)
        for i, p in enumerate(params):
            grad = p.grad.numpy().astype(np.float64)
            expected[i] = twin(expected[i], grad, states[i], 0.05, p.ndim, *settings)
        optimizer.step()
    for p, e in zip(params, expected, strict=True):
        atol = table.TOLERANCE[dtype] * 10
        np.testing.assert_allclose(p.detach().numpy(), e, rtol=0, atol=atol)


def orthogonal_twin(matrix, steps=5):
    """Muon's iteration on singular values: x -> a x + b x^3 + c x^5."""
    u, s, v = np.linalg.svd(matrix, full_matrices=False)
    s = s / max(np.sqrt((s**2).sum()), 1e-7)
    for _ in range(steps):
        s = 3.4445 * s - 4.7750 * s**3 + 2.0315 * s**5
    return (u * s) @ v


@pytest.mark.parametrize("adjust", [None, "original", "match_rms_adamw"])
@pytest.mark.parametrize("nesterov", [False, True])
def test_muon_equals_the_polynomial_of_the_singular_values(adjust, nesterov):
    params = table.make_params("muon")
    expected, buffers = table.values(params), [0.0] * len(params)
    optimizer = optim.Muon(params, lr=0.02, nesterov=nesterov, adjust_lr_fn=adjust)
    for step in range(10):
        table.set_grads(params, step)
        for i, p in enumerate(params):
            grad = p.grad.numpy()
            buffers[i] = 0.95 * buffers[i] + (1 - 0.95) * grad
            u = (1 - 0.95) * grad + 0.95 * buffers[i] if nesterov else buffers[i]
            rows_, columns = grad.shape
            ratio = max(1, rows_ / columns) ** 0.5
            if adjust == "match_rms_adamw":
                ratio = 0.2 * max(rows_, columns) ** 0.5
            expected[i] = expected[i] * (1 - 0.02 * 0.1) - 0.02 * ratio * orthogonal_twin(u)
        optimizer.step()
    for p, e in zip(params, expected, strict=True):
        np.testing.assert_allclose(p.detach().numpy(), e, atol=1e-9)


@pytest.mark.parametrize("row", sorted(table.MATRICES))
@pytest.mark.torch
def test_muon_is_near_the_bfloat16_one_of_torch(row):
    torch = pytest.importorskip("torch")
    params = table.make_params(row, "float32")
    start = table.values(params)
    theirs = [torch.tensor(v, requires_grad=True) for v in start]
    settings = table.ROWS[row][1]
    mine = optim.Muon(params, lr=0.02, **settings)
    other = torch.optim.Muon(theirs, lr=0.02, **settings)
    for step in range(3):
        table.set_grads(params, step)
        for p, q in zip(params, theirs, strict=True):
            q.grad = torch.tensor(p.grad.numpy().copy())
        mine.step()
        other.step()
    for p, q, s in zip(params, theirs, start, strict=True):
        moved = np.abs(p.detach().numpy() - s).max()
        np.testing.assert_allclose(p.detach().numpy(), q.detach().numpy(), atol=0.05 * moved)
        held = mine.state[p]["momentum_buffer"].numpy()
        np.testing.assert_allclose(held, other.state[q]["momentum_buffer"].numpy(), atol=1e-6)


def test_every_optimizer_has_a_row():
    made = {cls for cls, _, _ in table.ROWS.values()} | {optim.LBFGS}  # LBFGS: test_lbfgs.py
    public = {getattr(optim, name) for name in optim.__all__ if name[0].isupper()}
    assert public - made == {optim.Optimizer}


@pytest.mark.torch
def test_every_optimizer_of_torch_is_there():
    torch = pytest.importorskip("torch")
    theirs = {n for n in dir(torch.optim) if isinstance(getattr(torch.optim, n), type)}
    assert theirs - set(optim.__all__) == {"SparseAdam"}  # there are no sparse gradients


@rows
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_parameters_are_stepped_in_float32(row, dtype):
    if dtype == "bfloat16":
        pytest.importorskip("ml_dtypes")
    kind = getattr(ag, dtype)
    half = [p.detach().to(kind).requires_grad_() for p in table.make_params(row)]
    wide = [p.detach().float().requires_grad_() for p in half]
    settings = dict(table.ROWS[row][1])
    if isinstance(table.make(row, half), optim.Adafactor):
        settings["eps"] = (1e-7, 1e-3)  # by default it depends on the dtype
    narrow, full = (table.ROWS[row][0](ps, lr=0.05, **settings) for ps in (half, wide))
    table.set_grads(wide, 1)
    for p, q in zip(half, wide, strict=True):
        p.grad = q.grad.to(kind)
        q.grad = p.grad.float()
    narrow.step()
    full.step()
    resolution = 2**-7 if dtype == "bfloat16" else 2**-10  # Adagrad's start value is rounded too
    for p, q in zip(half, wide, strict=True):
        mine, exact = p.detach().float().numpy(), q.detach().numpy()
        np.testing.assert_allclose(mine, exact, rtol=resolution, atol=1e-3)


COMPLEX = ["sgd momentum", "adam", "nadam", "radam", "rmsprop momentum", "adagrad decay",
           "adadelta", "adamax", "asgd", "rprop"]  # fmt: skip


@pytest.mark.parametrize("row", COMPLEX)
@pytest.mark.torch
def test_complex_parameters_as_torch(row):
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(0)

    def draw():
        return rng.standard_normal((3, 2)) + 1j * rng.standard_normal((3, 2))

    start = draw()
    w, q = ag.tensor(start, requires_grad=True), torch.tensor(start, requires_grad=True)
    cls, settings, _ = table.ROWS[row]
    mine = table.make(row, [w])
    other = getattr(torch.optim, cls.__name__)([q], lr=0.01, **settings)
    for _ in range(5):
        grad = draw()
        w.grad, q.grad = ag.tensor(grad), torch.tensor(grad)
        mine.step()
        other.step()
    np.testing.assert_allclose(w.detach().numpy(), q.detach().numpy(), atol=1e-12)


@rows
def test_blocks_and_packs_give_the_numbers_of_the_reference(row):
    """Large parameters are cut, small ones gathered; one at a time in plain NumPy is the oracle."""
    shapes = [(300, 250), (7,), (20_000, 2), (), (8191,), (8192,), (90, 100), (3, 3)]
    if row in table.MATRICES:
        shapes = [(60, 50), (3, 3), (20, 90)]
    rng = np.random.default_rng(0)
    start = [rng.standard_normal(s).astype(np.float32) for s in shapes]
    grads = [[rng.standard_normal(s).astype(np.float32) for s in shapes] for _ in range(2)]
    results = []
    for name in ("cpu", "reference"):
        backend.use(name)
        try:
            params = [ag.tensor(a, requires_grad=True) for a in start]
            optimizer = table.make(row, params)
            for step in grads:
                for p, g in zip(params, step, strict=True):
                    p.grad = ag.tensor(g)
                optimizer.step()
            results.append(table.values(params))
        finally:
            backend.use("cpu")
    for a, b in zip(*results, strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-5 if row in table.MATRICES else 2e-6)


@rows
def test_saved_in_a_checkpoint_and_resumed_with_the_same_bits(row, tmp_path):
    params = table.make_params(row, "float32")
    optimizer = table.make(row, params)
    for step in range(3):
        table.set_grads(params, step)
        optimizer.step()
    path = save_checkpoint(tmp_path / "last", optimizer=optimizer)
    copies = [ag.tensor(v, requires_grad=True) for v in table.values(params)]
    resumed = table.make(row, copies, lr=9.0)
    load_checkpoint(path, optimizer=resumed)
    assert resumed.state_dict()["param_groups"] == optimizer.state_dict()["param_groups"]
    for step in range(3, 6):
        for ps, opt in ((params, optimizer), (copies, resumed)):
            table.set_grads(ps, step)
            opt.step()
    for a, b in zip(table.values(params), table.values(copies), strict=True):
        np.testing.assert_array_equal(a, b)


WRONG = {
    "RMSprop": [{"lr": -1}, {"eps": -1}, {"momentum": -1}, {"weight_decay": -1}, {"alpha": -1}],
    "Adagrad": [{"lr_decay": -1}, {"initial_accumulator_value": -1}, {"eps": -1}],
    "Adadelta": [{"rho": 1.5}, {"eps": -1}, {"lr": -1}],
    "Adamax": [{"betas": (1.0, 0.5)}, {"eps": -1}],
    "NAdam": [{"momentum_decay": -1}, {"betas": (0.5, 1.0)}],
    "RAdam": [{"eps": -1}, {"weight_decay": -1}],
    "ASGD": [{"lr": -1}, {"weight_decay": -1}],
    "Rprop": [{"etas": (1.5, 0.5)}, {"etas": (0.5, 0.9)}, {"lr": -1}],
    "Adafactor": [{"lr": -1}, {"beta2_decay": 1}, {"eps": (-1, 1)}, {"eps": (None, -1)},
                  {"d": 0.5}, {"weight_decay": -1}],
    "Muon": [{"lr": -1}, {"momentum": -1}, {"weight_decay": -1}],
}  # fmt: skip


@pytest.mark.parametrize(("name", "settings"), [(n, s) for n, all_ in WRONG.items() for s in all_])
@pytest.mark.torch
def test_wrong_settings_raise_what_torch_raises(name, settings):
    torch = pytest.importorskip("torch")
    with pytest.raises(ValueError) as expected:  # noqa: PT011 - compared below
        getattr(torch.optim, name)([torch.zeros(2, 2, requires_grad=True)], **settings)
    with pytest.raises(ValueError) as found:  # noqa: PT011
        getattr(optim, name)([ag.zeros(2, 2, requires_grad=True)], **settings)
    assert str(found.value).replace(".0", "") == str(expected.value).replace(".0", "")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda w: optim.LARS([w], lr=-1), "learning rate: -1"),
        (lambda w: optim.LARS([w], trust_coefficient=-1), "trust_coefficient value: -1"),
        (lambda w: optim.LARS([w], momentum=0, nesterov=True), "requires a momentum"),
        (lambda w: optim.LAMB([w], betas=(0.9, 2)), "index 1: 2"),
        (lambda w: optim.LAMB([w], norm_bounds=(3, 1)), r"lower <= upper, came \(3, 1\)"),
        (lambda w: optim.Muon([w], adjust_lr_fn="x"), "function x is not supported"),
        (lambda w: optim.Muon([w.detach().reshape(4)]), r"2D parameters.*\(4,\)"),
        (lambda w: optim.NAdam([w], differentiable=True), "differentiable=True is not available"),
        (lambda w: optim.RMSprop([w], lr=ag.zeros(2)), "1-element"),
    ],
)
def test_more_wrong_settings(make, message):
    with pytest.raises(ValueError, match=message):
        make(ag.zeros(2, 2, requires_grad=True))


@pytest.mark.parametrize("cls", [optim.Adafactor, optim.Muon])
def test_complex_parameters_are_refused(cls):
    w = ag.tensor(np.ones((2, 2), dtype=np.complex64), requires_grad=True)
    w.grad = ag.tensor(np.ones((2, 2), dtype=np.complex64))
    with pytest.raises(RuntimeError, match="does not support complex"):
        cls([w]).step()


def test_a_step_saved_as_a_number_becomes_a_tensor():
    w = ag.ones(2, requires_grad=True)
    optimizer = optim.Adam([w])
    w.grad = ag.ones(2)
    optimizer.step()
    saved = optimizer.state_dict()
    saved["state"] = {0: {**saved["state"][0], "step": 1}}
    optimizer.load_state_dict(saved)
    optimizer.step()
    assert optimizer.state[w]["step"].item() == 2
