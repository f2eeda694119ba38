"""Random programs of views, in-place changes, fusable layers and hooks, run in both libraries."""

from __future__ import annotations

import numpy as np
import pytest
from support.tolerances import GRADIENT, assert_close

import allgrad as ag
import allgrad.nn.functional as AF

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.torch

PROGRAMS, STEPS = 100, 14

# Each takes (lib, F, a, b, c, leaves): two tensors and a number; gives a new tensor or None.
NEW = {
    "mul": lambda lib, F, a, b, c, w: a * c,
    "tanh": lambda lib, F, a, b, c, w: a.tanh(),
    "relu": lambda lib, F, a, b, c, w: F.relu(a),
    "square": lambda lib, F, a, b, c, w: (a * 0.5) ** 2,
    "add": lambda lib, F, a, b, c, w: a + b if a.shape == b.shape else a + b.sum(),
    "product": lambda lib, F, a, b, c, w: a * b if a.shape == b.shape else a * b.mean(),
    "rows": lambda lib, F, a, b, c, w: a[1:] if a.ndim and a.shape[0] > 1 else a.unsqueeze(0),
    "row": lambda lib, F, a, b, c, w: a[0] if a.ndim > 1 and a.shape[0] else a * 1,
    "columns": lambda lib, F, a, b, c, w: a[..., ::2] if a.ndim else a.view(1),
    "transposed": lambda lib, F, a, b, c, w: a.transpose(0, -1) if a.ndim > 1 else a.unsqueeze(-1),
    "flat": lambda lib, F, a, b, c, w: a.reshape(-1),
    "viewed": lambda lib, F, a, b, c, w: a.view(-1, 1),
    "wide": lambda lib, F, a, b, c, w: a.unsqueeze(0).expand(2, *a.shape),
    "detached": lambda lib, F, a, b, c, w: a.detach(),
    "cloned": lambda lib, F, a, b, c, w: a.clone(),
    "summed": lambda lib, F, a, b, c, w: a.sum(-1) if a.ndim else a * 2,
    "linear": lambda lib, F, a, b, c, w: F.linear(w["x"], w["m"], w["v"]),
    "linear_relu": lambda lib, F, a, b, c, w: F.relu(F.linear(w["x"] * c, w["m"])),
    "norm": lambda lib, F, a, b, c, w: F.batch_norm(w["x"], None, None, w["v"], training=True),
    "conv": lambda lib, F, a, b, c, w: F.conv1d(w["x"][None], w["k"], w["v"], padding=1),
    "sum_of_convs": lambda lib, F, a, b, c, w: F.relu(
        F.conv1d(w["x"][None], w["k"], padding=1) + w["x"][None] * c
    ),
    "picked": lambda lib, F, a, b, c, w: a[[0, -1]] if a.ndim and a.shape[0] else a + 1,
}


def retain(lib, F, a, b, c, w):
    # Not on views: PyTorch forgets a view's hooks when its memory changes, we do not.
    view = a._base is not None and getattr(a, "_base_generation", 0) is not None
    if a.requires_grad and not a.is_leaf and not view:
        a.register_hook(lambda g: g * c)


def assign_item(lib, F, a, b, c, w):
    a[..., 0] = c


def assign_other(lib, F, a, b, c, w):
    a[:1] = b.sum()


def change_without_grad(lib, F, a, b, c, w):
    with lib.no_grad():
        a.mul_(c)


CHANGES = {
    "mul_": lambda lib, F, a, b, c, w: a.mul_(c),
    "add_": lambda lib, F, a, b, c, w: a.add_(b) if a.shape == b.shape else a.add_(b.mean()),
    "relu_": lambda lib, F, a, b, c, w: F.relu(a, inplace=True),
    "tanh_": lambda lib, F, a, b, c, w: a.tanh_(),
    "zero_": lambda lib, F, a, b, c, w: a.zero_(),
    "copy_": lambda lib, F, a, b, c, w: a.copy_(b.sum()),
    "set": assign_item,
    "set_other": assign_other,
    "quietly": change_without_grad,
    "hook": retain,
    "detach_": lambda lib, F, a, b, c, w: a.detach_() and None,
}


def program(seed):
    rng = np.random.default_rng(seed)
    steps = []
    for _ in range(STEPS):
        kind = NEW if rng.random() < 0.6 else CHANGES
        name = str(rng.choice(list(kind)))
        steps.append((name, *rng.integers(0, 1000, 2).tolist(), float(rng.uniform(-1.5, 1.5))))
    return steps


def leaves_of(lib):
    rng = np.random.default_rng(5)
    shapes = {"x": (3, 4), "m": (5, 4), "v": (4,), "k": (4, 3, 3)}
    arrays = {n: rng.standard_normal(s) for n, s in shapes.items()}
    arrays["v5"] = arrays["v"]
    w = {n: lib.tensor(a, requires_grad=True) for n, a in arrays.items() if n != "v5"}
    w["m"] = lib.tensor(rng.standard_normal((4, 4)), requires_grad=True)
    return w


def run(lib, functional, steps, stop=None):
    """(values, gradients, the step that failed or "backward" or None)."""
    w = leaves_of(lib)
    tensors = [w["x"] * 1, w["x"] * w["v"]]
    for number, (name, i, j, c) in enumerate(steps):
        if number == stop:
            break
        a, b = tensors[i % len(tensors)], tensors[j % len(tensors)]
        try:
            if name in NEW:
                tensors.append(NEW[name](lib, functional, a, b, c, w))
            else:
                CHANGES[name](lib, functional, a, b, c, w)
        except (RuntimeError, IndexError) as err:
            return None, None, "clone" if "clone() the tensor first" in str(err) else number
    loss = sum((t * t).mean() if t.numel() else 0 for t in tensors)
    try:
        if loss.requires_grad:
            loss.backward()
    except RuntimeError:
        return [t.detach() for t in tensors], None, "backward"
    return [t.detach() for t in tensors], [w[n].grad for n in w], None


@pytest.mark.parametrize("block", range(8))
def test_like_torch(block):
    for seed in range(block * PROGRAMS, (block + 1) * PROGRAMS):
        steps = program(seed)
        values, grads, failed = run(torch, torch.nn.functional, steps)
        stop = None
        if isinstance(failed, int):  # compare what comes before the step that PyTorch refuses
            stop = failed
            values, grads, failed = run(torch, torch.nn.functional, steps, stop)
        mine, my_grads, my_failure = run(ag, AF, steps, stop)
        what = f"seed {seed}: {steps[:stop]}"
        if my_failure == "clone":
            continue
        assert not isinstance(my_failure, int), f"step {my_failure} failed. {what}"
        for i, (a, b) in enumerate(zip(mine, values, strict=True)):
            assert_close(a.numpy(), b.numpy(), GRADIENT, f"tensor {i}. {what}")
        if failed == "backward":
            continue  # PyTorch refuses; we may know the gradient
        assert my_failure is None, f"backward failed. {what}"
        for i, (a, b) in enumerate(zip(my_grads, grads, strict=True)):
            if b is None:
                assert a is None or not a.any(), f"leaf {i}. {what}"
            else:
                assert_close(a.numpy(), b.numpy(), GRADIENT, f"leaf {i}. {what}")
