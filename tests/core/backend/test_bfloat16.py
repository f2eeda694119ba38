"""oneDNN's kernels on bfloat16, and how half arrays are served where there is no such kernel."""

from __future__ import annotations

import numpy as np
import pytest

import allgrad as ag
from allgrad import kernel_counts
from allgrad.backend.reference import RoundingReference

BF16 = ag.bfloat16.numpy
WINDOW = ((1, 1), (1, 1), (1, 1), 1)
POOL = ((3, 3), (2, 2), (1, 1), (1, 1), False)

# kernel -> function of (backend, draw): what it returns, or a tuple of that
CALLS = {
    "linear_forward": lambda k, x: k.linear_forward(x(64, 80), x(48, 80), x(48)),
    "linear_relu": lambda k, x: k.linear_forward(x(5, 3), x(4, 3), None, "relu"),
    "matmul": lambda k, x: k.matmul(x(64, 80), x(80, 48)),
    "matmul_views": lambda k, x: k.matmul(x(80, 64).T, x(48, 80)[:, ::-1].T),
    "matmul_stacks": lambda k, x: k.matmul(x(2, 1, 8, 5), x(3, 5, 1)),
    "conv_forward": lambda k, x: k.conv_forward(x(2, 8, 9, 9), x(16, 8, 3, 3), x(16), *WINDOW),
    "conv_relu": lambda k, x: k.conv_forward(x(2, 8, 9, 9), x(4, 8, 3, 3), None, *WINDOW, "relu"),
    "conv_backward_input": lambda k, x: k.conv_backward_input(
        x(2, 16, 9, 9), x(16, 8, 3, 3), (2, 8, 9, 9), *WINDOW
    ),
    "conv_backward_weight": lambda k, x: k.conv_backward_weight(
        x(2, 16, 9, 9), x(2, 8, 9, 9), (16, 8, 3, 3), *WINDOW, True
    ),
    "batch_norm": lambda k, x: k.batch_norm_forward(x(4, 8, 6, 6), x(8), x(8), 1e-5)[:3],
    "batch_norm_relu": lambda k, x: k.batch_norm_forward(x(4, 8, 6, 6), None, None, 1e-5, "relu")[
        :3
    ],
    "batch_norm_inference": lambda k, x: k.batch_norm_inference(
        x(4, 8, 6, 6), x(8), x(8), x(8), abs(x(8)) + x(8).dtype.type(1), 1e-5, "relu"
    ),
    "relu_forward": lambda k, x: k.relu_forward(x(3, 1000)),
    "relu_backward": lambda k, x: k.relu_backward(x(3, 1000), x(3, 1000)),
    "add_relu_forward": lambda k, x: k.add_relu_forward(x(3, 1000), x(3, 1000)),
    "max_pool_forward": lambda k, x: k.max_pool_forward(x(2, 8, 9, 9), *POOL)[0],
    "avg_pool_forward": lambda k, x: k.avg_pool_forward(
        x(2, 8, 9, 9), (3, 3), (2, 2), (1, 1), False, True
    ),
    "avg_pool_backward": lambda k, x: k.avg_pool_backward(
        x(2, 8, 5, 5), (2, 8, 9, 9), (3, 3), (2, 2), (1, 1), False, True
    ),
}


def drawer(dtype):
    rng = np.random.default_rng(5)
    return lambda *shape: rng.standard_normal(shape).astype(np.float32).astype(BF16).astype(dtype)


def listed(result):
    return result if isinstance(result, tuple) else (result,)


def check(got, exact, relative=1 / 128):
    """Results in bfloat16 (float32: statistics) against float64."""
    for a, b in zip(listed(got), listed(exact), strict=True):
        assert a.dtype in (BF16, np.float32)
        assert a.shape == b.shape
        np.testing.assert_allclose(
            a.astype(np.float64), b, rtol=relative, atol=relative * np.abs(b).max()
        )


@pytest.fixture
def native(cpu):
    """A strict CPU backend that gives bfloat16 products to oneDNN, which may emulate them."""
    if not cpu.engine.library.bfloat16:
        try:
            cpu.bfloat16 = True
            cpu.matmul(*[np.ones((32, 32), BF16)] * 2)
        except ag.errors.Unsupported as refusal:
            pytest.skip(str(refusal))
        if kernel_counts.fallback_counts():
            pytest.skip("oneDNN has no bfloat16 on this CPU")
    kernel_counts.reset()
    return cpu


@pytest.mark.parametrize("call", CALLS)
def test_native(native, call):
    exact = CALLS[call](RoundingReference(), drawer(np.float64))
    got = CALLS[call](native, drawer(BF16))
    assert listed(got)[0].dtype == BF16
    check(got, exact)
    assert not kernel_counts.fallback_counts()


@pytest.mark.parametrize("dtype", [BF16, np.dtype(np.float16)], ids=str)
@pytest.mark.parametrize("call", CALLS)
def test_by_float32(cpu, call, dtype):
    """Without native products: float32's kernels, rounded, and counted; not an error if strict."""
    cpu.bfloat16 = False
    exact = CALLS[call](RoundingReference(), drawer(np.float64))
    got = CALLS[call](cpu, drawer(dtype))
    assert listed(got)[0].dtype == dtype
    for a, b in zip(listed(got), listed(exact), strict=True):
        np.testing.assert_allclose(
            a.astype(np.float64), b, rtol=1 / 128, atol=np.abs(b).max() / 128
        )
    if dtype == np.float16:
        assert all(why.startswith("computed in") for _, why in kernel_counts.fallback_counts())
        assert kernel_counts.fallback_counts()


@pytest.mark.parametrize("call", CALLS)
def test_reference(call):
    exact = CALLS[call](RoundingReference(), drawer(np.float64))
    check(CALLS[call](RoundingReference(), drawer(BF16)), exact)


def test_batch_norm_and_its_relu_backward(native, reference):
    x, grad = drawer(BF16)(4, 8, 6, 6), drawer(BF16)(4, 8, 6, 6)[::-1]
    _, mean, var, saved = native.batch_norm_forward(x, None, None, 1e-5, "relu")
    kept = saved
    got = native.batch_norm_backward(grad, x, None, mean, var, 1e-5, saved, "relu")
    assert got[0].dtype == BF16
    wide = x.astype(np.float64)
    _, mean, var, saved = reference.batch_norm_forward(wide, None, None, 1e-5, "relu")
    args = (grad.astype(np.float64), wide, None, mean, var, 1e-5, saved, "relu")
    check(got, reference.batch_norm_backward(*args))
    mixed = (grad.astype(np.float32), x, None, *native.batch_norm_forward(x, None, None, 1e-5)[1:3])
    again = native.batch_norm_backward(*mixed, 1e-5, kept, "relu")
    np.testing.assert_array_equal(again[0].astype(np.float32), got[0].astype(np.float32))


@pytest.mark.parametrize("lowest", [-np.inf, np.nan, float(ag.finfo(ag.bfloat16).min)])
def test_max_pool_of_the_lowest_numbers(lenient, reference, lowest):
    x = drawer(BF16)(1, 8, 4, 4)
    x[0, :, :2, :2] = lowest
    settings = ((2, 2), (2, 2), (0, 0), (1, 1), False)
    y, saved = lenient.max_pool_forward(x, *settings)
    want, _ = reference.max_pool_forward(x.astype(np.float64), *settings)
    np.testing.assert_array_equal(y.astype(np.float64), want)
    grad = lenient.max_pool_backward(np.ones_like(y), saved, x.shape, *settings[:4])
    assert grad.dtype == BF16
    assert grad.shape == x.shape


def test_max_pool_backward(native, reference):
    x = drawer(BF16)(2, 8, 9, 9)
    y, saved = native.max_pool_forward(x, *POOL)
    got = native.max_pool_backward(y, saved, x.shape, *POOL[:4])
    as_float32 = native.max_pool_backward(y.astype(np.float32), saved, x.shape, *POOL[:4])
    np.testing.assert_array_equal(as_float32, got.astype(np.float32))
    wide = x.astype(np.float64)
    y, saved = reference.max_pool_forward(wide, *POOL)
    check(got, reference.max_pool_backward(y, saved, x.shape, *POOL[:4]))


def test_arguments_that_are_filled_or_changed(cpu):
    a, b, out = drawer(BF16)(4, 5), drawer(BF16)(5, 6), np.zeros((4, 6), BF16)
    cpu.bfloat16 = False
    assert cpu.matmul(a, b, out) is out
    check(out, a.astype(np.float64) @ b.astype(np.float64))
    param, grad, buffer = (np.full(4, v, BF16) for v in (1.0, 0.5, 0.25))
    cpu.sgd_step(
        param, grad, buffer, lr=0.5, momentum=0.5, dampening=0.0, weight_decay=0.0,
        nesterov=False, maximize=False, first=False,
    )  # fmt: skip
    assert param.tolist() == [0.6875] * 4
    assert buffer.tolist() == [0.625] * 4
    assert grad.tolist() == [0.5] * 4
