"""Batch norm through cuDNN gives what the reference gives; what cuDNN lacks is served otherwise."""

from __future__ import annotations

import numpy as np
import pytest

from allgrad import kernel_counts
from allgrad.backend.layout import is_channels_last
from allgrad.backend.reference import ReferenceBackend
from allgrad.errors import Unsupported

from .test_conv import TYPES, close, laid_out, numbers, wide
from .test_conv import _no_disk as _no_disk

REFERENCE = ReferenceBackend()
SHAPES = ((4, 8, 5, 6), (6, 16), (3, 8, 7), (2, 8, 3, 4, 3))


@pytest.fixture
def cuda(cuda):
    """The backend; nothing may be served in float32 or by the reference in its place."""
    yield cuda
    assert kernel_counts.fallback_counts() == {}


@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("activation", [None, "relu"])
def test_training(cuda, gpu, shape, kind, activation):
    x, grad = numbers(shape, 1, kind), numbers(shape, 2, kind)
    weight, bias = numbers(shape[1], 3), numbers(shape[1], 4)
    expected, mean, var, mask = REFERENCE.batch_norm_forward(
        *wide(x, weight, bias), 1e-3, activation
    )
    grads = REFERENCE.batch_norm_backward(*wide(grad, x, weight), mean, var, 1e-3, mask, activation)
    layouts = ("plain", "channels last", "strided") if len(shape) > 2 else ("plain", "strided")
    for layout in layouts:
        source, w = laid_out(gpu, x, layout), gpu.asarray(weight)
        y, got_mean, got_var, saved = cuda.batch_norm_forward(
            source, w, gpu.asarray(bias), 1e-3, activation
        )
        close(y, expected, kind)
        assert y.dtype == TYPES[kind]
        assert is_channels_last(y)
        close(got_mean, mean, "f4", 1)
        close(got_var, var, "f4", 1)
        got = cuda.batch_norm_backward(
            laid_out(gpu, grad, layout), source, w, got_mean, got_var, 1e-3, saved, activation
        )
        for found, wanted in zip(got, grads, strict=True):
            close(found, wanted, kind)


@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("shape", [*SHAPES, (2, 5, 3, 3)], ids=str)
def test_inference(cuda, gpu, shape, kind):
    x = numbers(shape, 1, kind)
    weight, bias, mean = (numbers(shape[1], s) for s in (3, 4, 5))
    var = np.abs(numbers(shape[1], 6)) + np.float32(0.1)
    for layout, activation in (("plain", None), ("strided", "relu")):
        y = cuda.batch_norm_inference(
            laid_out(gpu, x, layout), *map(gpu.asarray, (weight, bias, mean, var)), 1e-5, activation
        )
        expected = REFERENCE.batch_norm_inference(
            *wide(x), weight, bias, mean, var, 1e-5, activation
        )
        close(y, expected, kind)
    plain = cuda.batch_norm_inference(
        gpu.asarray(x), None, None, gpu.asarray(mean), gpu.asarray(var), 1e-5
    )
    close(plain, REFERENCE.batch_norm_inference(*wide(x), None, None, mean, var, 1e-5), kind)


def test_without_weight_and_bias(cuda, gpu):
    x = numbers((4, 5, 3, 3), 1)
    y, mean, var, saved = cuda.batch_norm_forward(gpu.asarray(x), None, None, 1e-5)
    close(y, REFERENCE.batch_norm_forward(x, None, None, 1e-5)[0], "f4")
    grad = cuda.batch_norm_backward(y, gpu.asarray(x), None, mean, var, 1e-5, saved)
    expected = REFERENCE.batch_norm_backward(y.get(), x, None, mean.get(), var.get(), 1e-5, None)
    close(grad[0], expected[0], "f4", 1)


def test_halves_whose_channels_are_no_multiple_of_8_are_served_in_float32(gpu):
    from allgrad.backend.cuda.backend import CudaBackend

    backend = CudaBackend()
    x, grad = numbers((4, 5, 3, 3), 1, "f2"), numbers((4, 5, 3, 3), 2, "f2")
    kernel_counts.reset()
    y, mean, var, saved = backend.batch_norm_forward(gpu.asarray(x), None, None, 1e-5, "relu")
    grad_x, _, _ = backend.batch_norm_backward(
        gpu.asarray(grad), gpu.asarray(x), None, mean, var, 1e-5, saved, "relu"
    )
    reasons = [reason for _, reason in kernel_counts.fallback_counts()]
    assert len(reasons) == 2
    assert all("in float32" in r and "5 channels" in r for r in reasons)
    assert kernel_counts.fast_counts()["batch_norm_forward"] == 1
    assert y.dtype == grad_x.dtype == np.float16
    expected = REFERENCE.batch_norm_forward(*wide(x), None, None, 1e-5, "relu")
    close(y, expected[0], "f2")
    wanted = REFERENCE.batch_norm_backward(
        *wide(grad, x), None, *expected[1:3], 1e-5, expected[3], "relu"
    )
    close(grad_x, wanted[0], "f2")


def test_the_variance_is_exact_where_it_is_small(cuda, gpu):
    x = (1000 + 1e-2 * numbers((64, 8, 8, 8), 1)).astype(np.float32)
    _, _, var, _ = cuda.batch_norm_forward(gpu.asarray(x), None, None, 1e-5)
    np.testing.assert_allclose(var.get(), x.astype(np.float64).var(axis=(0, 2, 3)), rtol=1e-3)
    constant = gpu.full((4, 8, 2, 2), 3, np.float32)
    assert (cuda.batch_norm_forward(constant, None, None, 1e-5)[2].get() >= 0).all()


def test_other_types_are_refused(cuda, gpu):
    with pytest.raises(Unsupported, match="float64"):
        cuda.batch_norm_forward(gpu.zeros((2, 8, 2, 2), np.float64), None, None, 1e-5)


@pytest.mark.parametrize("momentum", [0.1, 1.0])
def test_running_statistics_move_in_place(cuda, gpu, momentum):
    running, batch = [numbers(20, s) for s in (1, 2)], [numbers(20, s) ** 2 for s in (3, 4)]
    there = [gpu.asarray(a) for a in running]
    cuda.batch_norm_running(*there, *map(gpu.asarray, batch), momentum, 7)
    REFERENCE.batch_norm_running(*running, *batch, momentum, 7)
    for found, expected in zip(there, running, strict=True):
        close(found, expected, "f4")


def test_running_statistics_of_halves(gpu):
    from allgrad.backend.cuda.backend import CudaBackend

    running, batch = [numbers(8, s, "f2") for s in (1, 2)], [numbers(8, s) ** 2 for s in (3, 4)]
    there = [gpu.asarray(a) for a in running]
    CudaBackend().batch_norm_running(*there, *map(gpu.asarray, batch), 0.3, 5)
    REFERENCE.batch_norm_running(*running, *batch, 0.3, 5)
    for found, expected in zip(there, running, strict=True):
        assert found.dtype == np.float16
        close(found, expected, "f2")


def test_plans_of_one_backend_are_told_apart(cuda, gpu):
    x, grad = numbers((4, 8, 5, 6), 1), numbers((4, 8, 5, 6), 2)
    for eps in (1e-5, 1.0):
        for activation in (None, "relu"):
            want = REFERENCE.batch_norm_forward(x, None, None, eps, activation)
            got = cuda.batch_norm_forward(gpu.asarray(x), None, None, eps, activation)
            close(got[0], want[0], "f4")
            theirs = cuda.batch_norm_backward(
                gpu.asarray(grad), gpu.asarray(x), None, *got[1:3], eps, got[3], activation
            )
            ours = REFERENCE.batch_norm_backward(
                grad, x, None, *want[1:3], eps, want[3], activation
            )
            close(theirs[0], ours[0], "f4")
