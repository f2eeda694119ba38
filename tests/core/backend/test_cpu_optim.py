"""Blocked optimizer steps against the reference in float64."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from allgrad import kernel_counts

SIZES = [1, 1000, 8192, 150_000]  # NumPy; one block; one block and a rest


def _double(arrays):
    return [None if a is None else a.astype(np.float64) for a in arrays]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("momentum", [None, 0.9])
@pytest.mark.parametrize("weight_decay", [0.0, 0.01])
@pytest.mark.parametrize(("nesterov", "dampening"), [(False, 0.0), (False, 0.1), (True, 0.0)])
@pytest.mark.parametrize("maximize", [False, True])
def test_sgd(
    cpu, reference, draw, close, size, momentum, weight_decay, nesterov, dampening, maximize
):
    if momentum is None and (nesterov or dampening):
        pytest.skip("needs momentum")
    arrays = [draw(size), draw(size), None if momentum is None else draw(size)]
    wide = _double(arrays)
    for step in range(3):
        options = {
            "lr": 0.1 / (1 + step), "momentum": momentum or 0.0, "dampening": dampening,
            "weight_decay": weight_decay, "nesterov": nesterov, "maximize": maximize,
            "first": step == 0,
        }  # fmt: skip
        cpu.sgd_step(*arrays, **options)
        reference.sgd_step(*wide, **options)
    close(arrays[0], wide[0], relative=1e-6)
    if momentum is not None:
        close(arrays[2], wide[2], relative=1e-6)
    assert kernel_counts.fast_counts() == {"sgd_step": 3}


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(
    ("amsgrad", "weight_decay", "decoupled", "maximize"),
    list(itertools.product([False, True], [0.0, 0.01], [False, True], [False, True])),
)
def test_adam(cpu, reference, draw, close, size, amsgrad, weight_decay, decoupled, maximize):
    arrays = [draw(size), draw(size), *(np.zeros(size, np.float32) for _ in range(2))]
    arrays.append(np.zeros(size, np.float32) if amsgrad else None)
    wide = _double(arrays)
    for step in range(1, 4):
        options = {
            "step": step, "lr": 0.1 / step, "beta1": 0.9, "beta2": 0.99, "eps": 1e-8,
            "weight_decay": weight_decay, "decoupled": decoupled, "maximize": maximize,
        }  # fmt: skip
        cpu.adam_step(*arrays, **options)
        reference.adam_step(*wide, **options)
    for got, want in zip(arrays, wide, strict=True):
        if got is not None:
            close(got, want, relative=3e-6)
    assert kernel_counts.fast_counts() == {"adam_step": 3}


SGD = {"lr": 0.5, "momentum": 0.0, "dampening": 0.0, "weight_decay": 0.0, "nesterov": False,
       "maximize": False, "first": True}  # fmt: skip


def test_gradient_is_only_read_and_may_have_any_strides(cpu, draw):
    param, grad = draw(200, 100), np.asfortranarray(draw(200, 100))
    before, kept = param.copy(), grad.copy()
    cpu.sgd_step(param, grad, None, **SGD)
    np.testing.assert_allclose(param, before - 0.5 * kept, rtol=1e-6, atol=1e-6)
    np.testing.assert_array_equal(grad, kept)
    cpu.sgd_step(param, np.broadcast_to(np.float32(0), param.shape), None, **SGD)


def test_parameters_with_gaps_and_other_dtypes_fall_back(lenient, draw):
    wide = draw(100, 200)
    param = wide[:, ::2]
    before, grad = wide.copy(), draw(100, 100)
    lenient.sgd_step(param, grad, None, **SGD)
    np.testing.assert_allclose(param, before[:, ::2] - 0.5 * grad, rtol=1e-6, atol=1e-6)
    np.testing.assert_array_equal(wide[:, 1::2], before[:, 1::2])
    double = np.ones(3)
    lenient.sgd_step(double, np.ones(3), None, **SGD)
    np.testing.assert_array_equal(double, [0.5] * 3)
    assert sum(kernel_counts.fallback_counts().values()) == 2


def test_the_learning_rate_makes_no_new_primitives(cpu, draw):
    param, grad, momentum = draw(20_000), draw(20_000), draw(20_000)
    options = {**SGD, "momentum": 0.9, "weight_decay": 0.1, "first": False}
    cpu.sgd_step(param, grad, momentum, **options)
    count = len(cpu.plans)
    cpu.sgd_step(param, grad, momentum, **{**options, "lr": 0.1})
    assert len(cpu.plans) == count
