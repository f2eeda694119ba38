"""Batch, layer and group normalisation through oneDNN against the reference in float64."""

from __future__ import annotations

import numpy as np
import pytest

from allgrad import kernel_counts
from allgrad.backend.layout import is_channels_last

SHAPES = [(8, 5), (64, 32), (4, 6, 11), (4, 16, 8, 8), (3, 5, 7, 9), (2, 1, 4, 4), (2, 3, 4, 5, 6),
          (5, 7, 1, 1)]  # fmt: skip


def _double(*arrays):
    return [a if a is None else a.astype(np.float64) for a in arrays]


def _parameters(draw, count, affine):
    return (draw(count), draw(count)) if affine else (None, None)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("activation", [None, "relu"])
def test_batch_norm(cpu, reference, draw, close, shape, affine, activation):
    x, grad = 3 * draw(*shape) + 1, draw(*shape)
    weight, bias = _parameters(draw, shape[1], affine)
    y, mean, var, saved = cpu.batch_norm_forward(x, weight, bias, 1e-5, activation)
    wide = _double(x, weight, bias)
    want = reference.batch_norm_forward(*wide, 1e-5, activation)
    for got, expected in zip((y, mean, var), want[:3], strict=True):
        close(got, expected)
    assert is_channels_last(y)
    got = cpu.batch_norm_backward(grad, x, weight, mean, var, 1e-5, saved, activation)
    inputs = (*_double(grad, x, weight), *want[1:3], 1e-5, want[3], activation)
    for part, expected in zip(got, reference.batch_norm_backward(*inputs), strict=True):
        close(part, expected, relative=2e-5)
    y = cpu.batch_norm_inference(x, weight, bias, mean, var, 1e-5, activation)
    close(y, want[0])
    assert set(kernel_counts.fast_counts().values()) == {1}


@pytest.mark.parametrize("activation", [None, "relu"])
def test_batch_norm_in_every_layout(cpu, reference, draw, close, layout, activation):
    x, grad, weight, bias = draw(4, 16, 5, 6), draw(4, 16, 5, 6), draw(16), draw(16)
    got = cpu.batch_norm_forward(layout(x), layout(weight), layout(bias), 1e-5, activation)
    want = reference.batch_norm_forward(*_double(x, weight, bias), 1e-5, activation)
    close(got[0], want[0])
    args = (weight, *got[1:3], 1e-5, got[3], activation)
    result = cpu.batch_norm_backward(layout(grad), layout(x), *args)
    inputs = (*_double(grad, x, weight), *want[1:3], 1e-5, want[3], activation)
    for part, expected in zip(result, reference.batch_norm_backward(*inputs), strict=True):
        close(part, expected, relative=2e-5)


def test_batch_norm_of_a_broadcast_gradient(cpu, reference, draw, close):
    x, grad = draw(4, 16, 5, 6), np.broadcast_to(draw(4, 16, 1, 1), (4, 16, 5, 6))
    _, mean, var, saved = cpu.batch_norm_forward(x, None, None, 1e-5)
    got = cpu.batch_norm_backward(grad, x, None, mean, var, 1e-5, saved)
    inputs = (*_double(grad, x), None, *_double(mean, var), 1e-5, None)
    for part, expected in zip(got, reference.batch_norm_backward(*inputs), strict=True):
        close(part, expected, relative=2e-5)


def test_the_relu_mask_belongs_to_its_forward(cpu, reference, draw, close):
    first, second, grad = draw(4, 16, 5, 6), draw(4, 16, 5, 6), draw(4, 16, 5, 6)
    _, mean, var, saved = cpu.batch_norm_forward(first, None, None, 1e-5, "relu")
    cpu.batch_norm_forward(second, None, None, 1e-5, "relu")
    got = cpu.batch_norm_backward(grad, first, None, mean, var, 1e-5, saved, "relu")
    want = reference.batch_norm_forward(*_double(first), None, None, 1e-5, "relu")
    inputs = (*_double(grad, first), None, *want[1:3], 1e-5, want[3], "relu")
    close(got[0], reference.batch_norm_backward(*inputs)[0])


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("where", ["x", "weight", "bias"])
def test_fused_relu_does_not_hide_non_finite_values(lenient, draw, bad, where):
    arrays = {"x": draw(4, 16, 5, 6), "weight": draw(16), "bias": draw(16)}
    arrays[where][(0, 3, 1, 1) if where == "x" else 3] = bad
    with np.errstate(invalid="ignore"):
        y, mean, var, saved = lenient.batch_norm_forward(*arrays.values(), 1e-5, "relu")
        assert not np.isfinite(y[:, 3]).all()
        assert np.isfinite(np.delete(y, 3, axis=1)).all()
        lenient.batch_norm_backward(
            y, arrays["x"], arrays["weight"], mean, var, 1e-5, saved, "relu"
        )


@pytest.mark.parametrize("axes_count", [1, 2, 3])
@pytest.mark.parametrize("affine", [True, False])
def test_layer_norm(cpu, reference, draw, close, layout, axes_count, affine):
    shape = (4, 6, 5, 7)
    x, grad = 3 * draw(*shape) + 1, draw(*shape)
    inner = shape[-axes_count:]
    weight, bias = (draw(*inner), draw(*inner)) if affine else (None, None)
    try:
        got = cpu.layer_norm_forward(layout(x), axes_count, weight, bias, 1e-5)
    except NotImplementedError:
        pytest.skip("negative strides are served by the reference")
    want = reference.layer_norm_forward(*_double(x), axes_count, *_double(weight, bias), 1e-5)
    for part, expected in zip(got, want, strict=True):
        close(part, expected)
    got = cpu.layer_norm_backward(layout(grad), layout(x), axes_count, weight, *got[1:])
    inputs = (*_double(grad, x), axes_count, *_double(weight), *want[1:])
    for part, expected in zip(got, reference.layer_norm_backward(*inputs), strict=True):
        close(part, expected, relative=2e-5)


@pytest.mark.parametrize("num_groups", [1, 2, 3, 6])
@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("shape", [(4, 6, 5, 7), (4, 6), (4, 6, 9), (2, 6, 3, 4, 5)])
def test_group_norm(cpu, reference, draw, close, num_groups, affine, shape):
    if num_groups == 6 and len(shape) == 2:
        pytest.skip("one value per group has no variance")
    x, grad = 3 * draw(*shape) + 1, draw(*shape)
    weight, bias = _parameters(draw, 6, affine)
    got = cpu.group_norm_forward(x, num_groups, weight, bias, 1e-5)
    want = reference.group_norm_forward(*_double(x), num_groups, *_double(weight, bias), 1e-5)
    for part, expected in zip(got, want, strict=True):
        close(part, expected)
    got = cpu.group_norm_backward(grad, x, num_groups, weight, *got[1:])
    inputs = (*_double(grad, x), num_groups, *_double(weight), *want[1:])
    for part, expected in zip(got, reference.group_norm_backward(*inputs), strict=True):
        close(part, expected, relative=1e-4)


def test_group_norm_in_every_layout(lenient, reference, draw, close, layout):
    x, grad, weight, bias = draw(4, 6, 5, 7), draw(4, 6, 5, 7), draw(6), draw(6)
    got = lenient.group_norm_forward(layout(x), 3, weight, bias, 1e-5)
    want = reference.group_norm_forward(*_double(x), 3, *_double(weight, bias), 1e-5)
    close(got[0], want[0])
    got = lenient.group_norm_backward(layout(grad), layout(x), 3, weight, *got[1:])
    inputs = (*_double(grad, x), 3, *_double(weight), *want[1:])
    for part, expected in zip(got, reference.group_norm_backward(*inputs), strict=True):
        close(part, expected, relative=1e-4)


def test_half_precision_and_empty_batches_fall_back(lenient):
    x = np.ones((0, 3, 4, 4), np.float32)
    y, mean, var, saved = lenient.batch_norm_forward(x, None, None, 1e-5, "relu")
    assert y.shape == x.shape
    assert not mean.any()
    assert not var.any()
    grads = lenient.batch_norm_backward(y, x, None, mean, var, 1e-5, saved, "relu")
    assert [g.shape for g in grads] == [x.shape, (3,), (3,)]
    half = np.ones((4, 3, 4, 4), np.float16)
    y, mean, var, _ = lenient.batch_norm_forward(half, None, None, 1e-5)
    assert (y.dtype, mean.dtype) == (np.float16, np.float32)
    y, mean, rstd = lenient.layer_norm_forward(x, 2, None, None, 1e-5)
    assert mean.shape == (0, 3, 1, 1)
    assert lenient.layer_norm_backward(y, x, 2, None, mean, rstd)[0].shape == x.shape
