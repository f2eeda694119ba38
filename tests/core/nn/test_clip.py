"""Gradient clipping and parameters as one vector, against torch and by hand."""

import math

import numpy as np
import pytest

import allgrad as ag
from allgrad.errors import ShapeError
from allgrad.nn import utils

SHAPES = [(3, 4), (5,), (2, 3, 2, 2), (), (0,)]


def params(dtype="float32", scale=1.0, seed=0):
    rng = np.random.default_rng(seed)
    made = []
    for shape in SHAPES:
        p = ag.zeros(*shape, dtype=getattr(ag, dtype), requires_grad=True)
        p.grad = ag.tensor(scale * rng.standard_normal(shape), dtype=p.dtype)
        made.append(p)
    return [*made, ag.zeros(2, requires_grad=True)]  # the last one has no gradient


def as_torch(torch, ours):
    made = []
    for p in ours:
        q = torch.zeros(tuple(p.shape), dtype=getattr(torch, p.dtype.name), requires_grad=True)
        q.grad = None if p.grad is None else torch.tensor(p.grad.numpy().copy())
        made.append(q)
    return made


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("p", [1, 2.0, 3.5, math.inf])
@pytest.mark.parametrize("limit", [0.1, 1.0, 100.0])
@pytest.mark.torch
def test_clip_grad_norm_as_torch(dtype, p, limit):
    torch = pytest.importorskip("torch")
    mine = [q for q in params(dtype) if q.numel()]  # torch has no maximum of an empty tensor
    other = as_torch(torch, mine)
    norm = utils.clip_grad_norm_(mine, limit, p)
    expected = torch.nn.utils.clip_grad_norm_(other, limit, p)
    assert norm.dtype == getattr(ag, dtype)
    rtol = 1e-6 if dtype == "float32" else 1e-12
    np.testing.assert_allclose(norm.item(), expected.item(), rtol=rtol)
    for a, b in zip(mine, other, strict=True):
        if b.grad is not None:
            np.testing.assert_allclose(a.grad.numpy(), b.grad.numpy(), rtol=5 * rtol)


@pytest.mark.torch
def test_clip_grad_value_as_torch():
    torch = pytest.importorskip("torch")
    mine = params()
    other = as_torch(torch, mine)
    utils.clip_grad_value_(mine, 0.3)
    torch.nn.utils.clip_grad_value_(other, 0.3)
    for a, b in zip(mine, other, strict=True):
        if b.grad is not None:
            np.testing.assert_array_equal(a.grad.numpy(), b.grad.numpy())


@pytest.mark.parametrize("scale", [1e-30, 1e30])
def test_squares_that_leave_the_range_of_float32(scale):
    mine = params(scale=scale)
    exact = math.sqrt(sum(float((p.grad.numpy().astype(float) ** 2).sum()) for p in mine[:-1]))
    norm = utils.clip_grad_norm_(mine, scale)
    np.testing.assert_allclose(norm.item(), exact, rtol=1e-6)


def test_a_channels_last_gradient():
    w = ag.zeros(2, 3, 4, 5, requires_grad=True)
    memory = np.random.default_rng(0).standard_normal((2, 4, 5, 3)).astype(np.float32)
    w.grad = ag.from_numpy(memory.transpose(0, 3, 1, 2))
    expected = np.linalg.norm(memory)
    norm = utils.clip_grad_norm_(w, 1.0)
    np.testing.assert_allclose(norm.item(), expected, rtol=1e-6)
    assert math.isclose(np.linalg.norm(w.grad.numpy()), 1.0, rel_tol=1e-5)


def test_gradients_are_changed_in_place_and_a_tensor_may_come_alone():
    w = ag.zeros(2, requires_grad=True)
    w.grad = ag.tensor([3.0, 4.0])
    array = w.grad._array
    assert utils.clip_grad_norm_(w, 1.0).item() == 5.0
    assert w.grad._array is array
    np.testing.assert_allclose(array, [0.6, 0.8], rtol=1e-6)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_norms_that_are_not_finite(bad):
    w = ag.zeros(2, requires_grad=True)
    w.grad = ag.tensor([1.0, bad])
    with pytest.raises(RuntimeError, match="non-finite"):
        utils.clip_grad_norm_([w], 1.0, error_if_nonfinite=True)
    assert w.grad.tolist()[0] == 1.0
    utils.clip_grad_norm_([w], 1.0)
    assert math.isnan(w.grad.tolist()[1])


def test_nothing_to_clip():
    assert utils.clip_grad_norm_([], 1.0).item() == 0.0
    assert utils.clip_grad_norm_([ag.zeros(2, requires_grad=True)], 1.0).item() == 0.0
    with pytest.warns(UserWarning, match="empty generator"):
        utils.clip_grad_norm_((p for p in []), 1.0)


def test_an_order_that_is_not_positive():
    with pytest.raises(ValueError, match="norm_type"):
        utils.clip_grad_norm_(params(), 1.0, 0)


def test_vector_and_back():
    rng = np.random.default_rng(1)
    ps = [ag.tensor(rng.standard_normal(s), requires_grad=True) for s in [(2, 3), (4,), ()]]
    vector = utils.parameters_to_vector(ps)
    assert tuple(vector.shape) == (11,)
    vector.sum().backward()
    assert all((p.grad.numpy() == 1).all() for p in ps)
    arrays = [p._array for p in ps]
    new = ag.tensor(np.arange(11.0))
    utils.vector_to_parameters(new, ps)
    assert all(p._array is a for p, a in zip(ps, arrays, strict=True))
    np.testing.assert_array_equal(utils.parameters_to_vector(ps).detach().numpy(), np.arange(11.0))


def test_vectors_that_do_not_fit():
    ps = [ag.zeros(2, 3, requires_grad=True)]
    with pytest.raises(ShapeError, match=r"expected shape \(6,\) for 1 parameters, came \(7,\)"):
        utils.vector_to_parameters(ag.zeros(7), ps)
    with pytest.raises(TypeError, match="expected a Tensor"):
        utils.vector_to_parameters([0.0] * 6, ps)
    with pytest.raises(ValueError, match="at least one tensor"):
        utils.parameters_to_vector([])
