"""Run one scenario in allgrad and in PyTorch and compare everything that it returns."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from support.tolerances import GRADIENT, assert_close

import allgrad as ag
import allgrad.nn.functional as AF


def both(scenario, constants=(), **arrays):
    """``scenario(lib, F, t)``, where ``t.name`` is a tensor of ``arrays["name"]``.

    Floating arrays become leaves that require grad, unless named in `constants`. The scenario
    returns a tensor, a number, a string, None, or a tuple of these. All of it, and the gradients
    of all leaves afterwards, must agree. Returns allgrad's tensors and result.
    """
    torch = pytest.importorskip("torch")
    theirs = _run(scenario, torch, torch.nn.functional, torch.tensor, constants, arrays)
    ours = _run(scenario, ag, AF, ag.tensor, constants, arrays)
    for i, (a, b) in enumerate(zip(_listed(ours[1]), _listed(theirs[1]), strict=True)):
        _compare(a, b, f"result {i}")
    for name in arrays:
        a, b = getattr(ours[0], name), getattr(theirs[0], name)
        _compare(a.detach(), b.detach(), f"{name} afterwards")
        _compare(a.grad, b.grad, f"gradient of {name}")
    return ours


def _run(scenario, lib, functional, make, constants, arrays):
    t = SimpleNamespace()
    for name, array in arrays.items():
        leaf = make(np.array(array))
        if array.dtype.kind == "f" and name not in constants:
            leaf.requires_grad_(True)
        setattr(t, name, leaf)
    return t, scenario(lib, functional, t)


def _listed(result):
    return list(result) if isinstance(result, tuple | list) else [result]


def _compare(a, b, what):
    if not hasattr(b, "detach"):
        assert a == b, f"{what}: {a!r}, PyTorch has {b!r}"
        return
    assert a is not None, f"{what}: None, PyTorch has {b}"
    assert a.requires_grad == b.requires_grad, f"{what}: requires_grad {a.requires_grad}"
    assert_close(a.detach().numpy(), b.detach().numpy(), GRADIENT, what)
