"""Every in-place form: same memory, same values and gradients as PyTorch's, same refusals."""

from __future__ import annotations

import numpy as np
import pytest

import allgrad as ag
from allgrad.tensors import (
    arithmetic,
    complex_numbers,
    logic,
    mutating,
    pairs,
    scans,
    sorting,
    statistics,
    unary,
)

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.torch

# name -> further arguments, as (numbers or arrays). Those not listed take none.
ARRAY = np.array([[0.3, 0.8, -0.4], [1.3, 0.2, 0.6]])
ARGUMENTS = {
    **dict.fromkeys(
        "add_ sub_ mul_ div_ subtract_ multiply_ divide_ true_divide_ atan2_ arctan2_ copysign_ "
        "hypot_ fmod_ remainder_ floor_divide_ ldexp_ xlogy_ heaviside_ nextafter_".split(),
        (ARRAY,),
    ),
    "pow_": (3,),
    "float_power_": (2,),
    "clamp_": (0.2, 0.5),
    "clip_": (0.2, 0.5),
    "clamp_min_": (0.4,),
    "clamp_max_": (0.4,),
    "lerp_": (ARRAY, 0.3),
    "addcmul_": (ARRAY, ARRAY),
    "addcdiv_": (ARRAY, ARRAY),
    "mvlgamma_": (2,),
    "polygamma_": (1,),
    **dict.fromkeys("eq_ ne_ lt_ le_ gt_ ge_ less_ less_equal_ greater_".split(), (0.5,)),
    **dict.fromkeys("greater_equal_ not_equal_".split(), (0.5,)),
    **dict.fromkeys("logical_and_ logical_or_ logical_xor_".split(), (ARRAY,)),
}
INTEGERS = {
    "bitwise_and_": (3,), "bitwise_or_": (4,), "bitwise_xor_": (5,), "bitwise_not_": (),
    "bitwise_left_shift_": (2,), "bitwise_right_shift_": (1,), "gcd_": (np.array([4, 6, 9]),),
    "lcm_": (np.array([4, 6, 9]),), "floor_divide_": (2,), "remainder_": (3,), "add_": (2.0,),
    "mul_": (2,), "pow_": (2,), "sin_": (), "div_": (2,), "clamp_": (2, 4), "square_": (),
    "eq_": (3,), "lerp_": (np.array([4, 6, 9]), 0.5), "neg_": (), "floor_": (), "abs_": (),
    "addcmul_": (np.array([4, 6, 9]), np.array([1, 2, 3])), "copysign_": (-1,), "round_": (),
    "sgn_": (), "float_power_": (2,),
}  # fmt: skip
# PyTorch lets the gradient pass these unchanged, though they are constant almost everywhere.
CONSTANT = {"floor_divide_", "heaviside_", "nextafter_", "logical_and_", "logical_or_"}
NAMES = sorted(
    n for n in vars(mutating.InPlaceMethods) if n.endswith("_") and not n.startswith("_")
)


def wrapped(lib, args):
    return [lib.tensor(a) if isinstance(a, np.ndarray) else a for a in args]


def outcome(lib, name, values, args, recorded):
    """(result, gradient), or the kind of error."""
    leaf = lib.tensor(values, requires_grad=recorded)
    t = leaf * 1
    memory = t.data_ptr()
    try:
        found = getattr(t, name)(*wrapped(lib, args))
    except (TypeError, RuntimeError) as err:
        return type(err).__mro__[-4:-2] if lib is torch else err
    assert found is t
    assert t.data_ptr() == memory
    if not recorded or not t.requires_grad or name in CONSTANT:
        return t.detach().numpy(), 0
    try:
        (t * t).sum().backward()
    except RuntimeError:  # PyTorch lacks the derivative of some forms in place
        assert lib is torch
        leaf.grad = None
        (getattr(leaf, name[:-1])(*wrapped(lib, args)) ** 2).sum().backward()
    return t.detach().numpy(), leaf.grad.numpy(force=True)


@pytest.mark.parametrize("name", [n for n in NAMES if n[:-1] not in ("gcd", "lcm")])
def test_floating(name):
    if name.startswith("bitwise"):
        with pytest.raises((RuntimeError, TypeError)):
            getattr(ag.ones(2), name)(*INTEGERS[name])
        return
    values = ARRAY[::-1] * (1 if name not in ("acosh_", "arccosh_", "mvlgamma_") else 5)
    if name in ("mvlgamma_", "acosh_", "arccosh_", "polygamma_"):
        values = np.abs(values) + 1
    args = ARGUMENTS.get(name, ())
    ours = outcome(ag, name, values.copy(), args, True)
    theirs = outcome(torch, name, values.copy(), args, True)
    if isinstance(ours, Exception):
        raise ours
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(a, b, 1e-9, 1e-12, err_msg=name)


@pytest.mark.parametrize("name", INTEGERS)
def test_integers(name):
    values = np.array([[3, 5, 2], [1, 7, 6]])
    ours = outcome(ag, name, values, INTEGERS[name], False)
    theirs = outcome(torch, name, values, INTEGERS[name], False)
    if isinstance(ours, Exception):
        assert len(theirs) == 2, f"PyTorch gives {theirs[0]}"
        assert not isinstance(theirs[0], np.ndarray), f"{ours}, but PyTorch gives {theirs}"
    else:
        np.testing.assert_array_equal(ours[0], theirs[0])


@pytest.mark.parametrize("name", NAMES)
def test_leaf_that_requires_grad_is_refused(name):
    x = ag.ones(2, requires_grad=True)
    args = wrapped(ag, ARGUMENTS.get(name, INTEGERS.get(name, ())))
    with pytest.raises(RuntimeError, match="_: a leaf"):
        getattr(x, name)(*args)


def test_operators():
    pairs = [
        lambda t: t.__iadd__(2), lambda t: t.__isub__(2), lambda t: t.__imul__(3),
        lambda t: t.__ifloordiv__(2), lambda t: t.__imod__(3), lambda t: t.__ipow__(2),
        lambda t: t.__iand__(6), lambda t: t.__ior__(8), lambda t: t.__ixor__(3),
        lambda t: t.__ilshift__(2), lambda t: t.__irshift__(1),
    ]  # fmt: skip
    for change in pairs:
        ours, theirs = ag.tensor([5, 7]), torch.tensor([5, 7])
        assert change(ours) is ours
        assert ours.tolist() == change(theirs).tolist()


def test_every_form_of_pytorch():
    """Each function of these modules has the forms in place that PyTorch has of it."""
    modules = (arithmetic, complex_numbers, logic, pairs, scans, sorting, statistics, unary)
    missing = {
        f"{name}_"
        for module in modules
        for name in module.__all__
        if hasattr(torch.Tensor, f"{name}_") and not hasattr(ag.Tensor, f"{name}_")
    }
    assert not missing
    assert not {n for n in mutating.__all__ if not hasattr(ag, n) or not hasattr(torch, n)}


@pytest.mark.parametrize("text", [
    "t.cumsum_(0)", "t.cumprod_(1)", "t.renorm_(2, 0, 0.5)", "t.conj_physical_()",
    "lib.sin_(t)", "lib.clamp_(t, 0.1, 0.5)", "t[0].exp_()", "t[:, 1].add_(t[:, 0])",
    "t.t().log_()", "t.add_(t)", "t.div_(t.sum())", "t.clamp_(min=t.mean() + 0.01)",
    "t.addcmul_(leaf, leaf * 2, value=-1)", "t.lerp_(leaf**2, 0.7)", "t.mvlgamma_(1)",
    "t.logit_(0.25)", "t.sgn_()", "t.frac_()", "t.nan_to_num_()", "t.atan2_(leaf)",
])  # fmt: skip
def test_gradients_in_place(text):
    """What is overwritten is read again by backward, or lies in a view."""
    found = []
    for lib in (ag, torch):
        leaf = lib.tensor(np.abs(ARRAY), requires_grad=True)
        t = leaf * 1
        eval(text, {"lib": lib, "t": t, "leaf": leaf})
        (t * t).sum().backward()
        found.append((t.detach().numpy(), leaf.grad.numpy(force=True)))
    for ours, theirs in zip(*found, strict=True):
        np.testing.assert_allclose(ours, theirs, 1e-9, 1e-12)
