"""oneDNN convolutions against the reference in float64."""

from __future__ import annotations

import numpy as np
import pytest

from allgrad import kernel_counts
from allgrad.backend import cpu_winograd
from allgrad.backend.layout import is_channels_last

# x shape, weight shape, stride, padding, dilation, groups
CASES = {
    "mnist conv1": ((4, 1, 14, 14), (10, 1, 5, 5), (1, 1), (0, 0), (1, 1), 1),
    "mnist conv2": ((4, 10, 12, 12), (20, 10, 5, 5), (1, 1), (0, 0), (1, 1), 1),
    "rgb": ((2, 3, 9, 11), (16, 3, 3, 3), (1, 1), (1, 1), (1, 1), 1),
    "resnet": ((2, 16, 8, 8), (16, 16, 3, 3), (1, 1), (1, 1), (1, 1), 1),
    "wide": ((2, 64, 7, 7), (64, 64, 3, 3), (1, 1), (1, 1), (1, 1), 1),
    "winograd": ((4, 64, 8, 8), (96, 64, 3, 3), (1, 1), (1, 1), (1, 1), 1),
    "winograd, odd width": ((3, 80, 6, 9), (64, 80, 3, 3), (1, 1), (1, 1), (1, 1), 1),
    "winograd, one column": ((16, 64, 4, 1), (64, 64, 3, 3), (1, 1), (1, 1), (1, 1), 1),
    "stride": ((2, 16, 8, 8), (32, 16, 3, 3), (2, 2), (1, 1), (1, 1), 1),
    "stride, rows left over": ((2, 5, 8, 9), (6, 5, 3, 3), (2, 3), (0, 1), (1, 1), 1),
    "shortcut": ((2, 16, 8, 8), (32, 16, 1, 1), (2, 2), (0, 0), (1, 1), 1),
    "pointwise": ((2, 32, 5, 5), (64, 32, 1, 1), (1, 1), (0, 0), (1, 1), 1),
    "dilation": ((2, 4, 9, 9), (8, 4, 3, 3), (1, 1), (2, 2), (2, 2), 1),
    "anisotropic": ((2, 4, 9, 7), (8, 4, 3, 2), (2, 1), (1, 0), (1, 2), 1),
    "groups": ((2, 8, 6, 6), (12, 2, 3, 3), (1, 1), (1, 1), (1, 1), 4),
    "depthwise": ((2, 16, 6, 6), (16, 1, 3, 3), (1, 1), (1, 1), (1, 1), 16),
    "depthwise multiplier": ((2, 6, 6, 6), (12, 1, 3, 3), (2, 2), (1, 1), (1, 1), 6),
    "one pixel": ((3, 4, 1, 1), (5, 4, 1, 1), (1, 1), (0, 0), (1, 1), 1),
    "one output": ((2, 4, 3, 3), (5, 4, 3, 3), (1, 1), (0, 0), (1, 1), 1),
    "padding beyond kernel": ((1, 2, 3, 3), (3, 2, 2, 2), (1, 1), (3, 2), (1, 1), 1),
    "1d": ((3, 6, 15), (8, 6, 4), (2,), (1,), (1,), 1),
    "1d groups": ((3, 6, 15), (8, 3, 3), (1,), (1,), (2,), 2),
    "3d": ((2, 3, 5, 6, 7), (4, 3, 3, 2, 3), (1, 2, 1), (1, 0, 1), (1, 1, 1), 1),
    "3d groups": ((2, 4, 4, 5, 5), (6, 2, 2, 3, 3), (1, 1, 2), (0, 1, 1), (1, 1, 1), 2),
}


@pytest.fixture(params=CASES)
def case(request):
    return CASES[request.param]


def _double(*arrays):
    return [a if a is None else a.astype(np.float64) for a in arrays]


@pytest.mark.parametrize("activation", [None, "relu"])
@pytest.mark.parametrize("with_bias", [True, False])
def test_forward(cpu, reference, draw, close, case, with_bias, activation):
    x_shape, w_shape, *window = case
    x, w = draw(*x_shape), draw(*w_shape)
    bias = draw(w_shape[0]) if with_bias else None
    y = cpu.conv_forward(x, w, bias, *window, activation)
    close(y, reference.conv_forward(*_double(x, w, bias), *window, activation))
    assert is_channels_last(y)
    assert kernel_counts.fast_counts() == {"conv_forward": 1}


def test_gradient_for_the_input(cpu, reference, draw, close, case):
    x_shape, w_shape, *window = case
    w = draw(*w_shape)
    grad_y = draw(*reference.conv_forward(draw(*x_shape), w, None, *window).shape)
    grad_x = cpu.conv_backward_input(grad_y, w, x_shape, *window)
    close(grad_x, reference.conv_backward_input(*_double(grad_y, w), x_shape, *window))
    assert kernel_counts.fast_counts() == {"conv_backward_input": 1}


@pytest.mark.parametrize("with_bias", [True, False])
@pytest.mark.parametrize("given", [True, False])
def test_gradient_for_the_weight(cpu, reference, draw, close, case, with_bias, given):
    x_shape, w_shape, *window = case
    x = draw(*x_shape)
    grad_y = draw(*reference.conv_forward(x, draw(*w_shape), None, *window).shape)
    out = np.full(w_shape, np.nan, np.float32) if given else None
    grad_w, grad_b = cpu.conv_backward_weight(grad_y, x, w_shape, *window, with_bias, out)
    want = reference.conv_backward_weight(*_double(grad_y, x), w_shape, *window, with_bias)
    close(grad_w, want[0])
    assert grad_w.flags.c_contiguous
    assert grad_w is out or not given
    if with_bias:
        close(grad_b, want[1])
    else:
        assert grad_b is None
    assert kernel_counts.fast_counts()["conv_backward_weight"] == 1


@pytest.mark.parametrize("piece", [1, 2])
def test_winograd_in_pieces(cpu, reference, draw, close, monkeypatch, piece):
    x, w, window = draw(4, 64, 8, 8), draw(64, 64, 3, 3), ((1, 1), (1, 1), (1, 1), 1)
    # Tiles of one sample: 16 positions, 4x4 tiles, 64 + 64 channels.
    monkeypatch.setattr(cpu_winograd, "_PIECE_BYTES", piece * 16 * 16 * 128 * 4)
    monkeypatch.setattr(cpu_winograd, "_FILTER_SHARE", 0.0)
    y = cpu.conv_forward(x, w, None, *window)
    close(y, reference.conv_forward(*_double(x, w, None), *window))
    grad_y = draw(*y.shape)
    grad_x = cpu.conv_backward_input(grad_y, w, x.shape, *window)
    close(grad_x, reference.conv_backward_input(*_double(grad_y, w), x.shape, *window))
    grad_w, _ = cpu.conv_backward_weight(grad_y, x, w.shape, *window, False)
    want = reference.conv_backward_weight(*_double(grad_y, x), w.shape, *window, False)
    close(grad_w, want[0])
    # again, into other memory: the parts of every array must have moved with it
    np.testing.assert_array_equal(cpu.conv_forward(x.copy(), w.copy(), None, *window), y)
    calls = [len(plan.calls) for plan in cpu.plans._plans.values()]
    assert min(calls) > 16 * 4 // piece


def test_winograd_can_be_switched_off(cpu, draw, close):
    x, w, window = draw(4, 64, 8, 8), draw(64, 64, 3, 3), ((1, 1), (1, 1), (1, 1), 1)
    y = cpu.conv_forward(x, w, None, *window)
    cpu.winograd = False
    cpu.plans.clear()
    direct = cpu.conv_forward(x, w, None, *window)
    assert not np.array_equal(y, direct)
    close(y, direct.astype(np.float64))


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_winograd_does_not_hide_non_finite_values(cpu, draw, bad):
    x, w = draw(1, 64, 8, 8), draw(64, 64, 3, 3)
    x[0, 5, 3, 3] = bad
    y = cpu.conv_forward(x, w, None, (1, 1), (1, 1), (1, 1), 1)
    assert not np.isfinite(y[:, :, 2:5, 2:5]).any()
    assert np.isfinite(y[:, :, 6:]).all()


@pytest.mark.parametrize("channels", [6, 64])
def test_every_memory_layout(cpu, reference, draw, close, layout, channels):
    x, w = draw(3, channels, 8, 8), draw(64, channels, 3, 3)
    window = ((1, 2) if channels == 6 else (1, 1), (1, 1), (1, 1), 1)
    want = reference.conv_forward(*_double(x, w, None), *window)
    close(cpu.conv_forward(layout(x), layout(w), None, *window), want)
    grad_y = draw(*want.shape)
    want = reference.conv_backward_input(*_double(grad_y, w), x.shape, *window)
    close(cpu.conv_backward_input(layout(grad_y), layout(w), x.shape, *window), want)
    want = reference.conv_backward_weight(*_double(grad_y, x), w.shape, *window, True)
    got = cpu.conv_backward_weight(layout(grad_y), layout(x), w.shape, *window, True)
    close(got[0], want[0])
    close(got[1], want[1])


def test_broadcast_gradient_and_weight(cpu, reference, draw, close):
    x, window = draw(2, 3, 5, 5), ((1, 1), (0, 0), (1, 1), 1)
    w = np.broadcast_to(draw(1, 1, 3, 3), (4, 3, 3, 3))
    grad_y = np.broadcast_to(np.float32(0.5), (2, 4, 3, 3))
    close(
        cpu.conv_backward_input(grad_y, w, x.shape, *window),
        reference.conv_backward_input(*_double(grad_y, w), x.shape, *window),
    )
    got, _ = cpu.conv_backward_weight(grad_y, x, w.shape, *window, False)
    close(got, reference.conv_backward_weight(*_double(grad_y, x), w.shape, *window, False)[0])


def test_weight_gradient_into_a_transposed_buffer(cpu, reference, draw, close):
    x, grad_y, window = draw(2, 3, 5, 5), draw(2, 4, 3, 3), ((1, 1), (0, 0), (1, 1), 1)
    out = np.empty((3, 4, 3, 3), np.float32).transpose(1, 0, 2, 3)
    cpu.conv_backward_weight(grad_y, x, out.shape, *window, False, out)
    close(out, reference.conv_backward_weight(*_double(grad_y, x), out.shape, *window, False)[0])


@pytest.mark.parametrize("output_padding", [0, 1])
def test_transposed_convolution_uses_the_kernels_crosswise(
    cpu, reference, draw, close, output_padding
):
    small, w, window = draw(2, 8, 5, 5), draw(8, 4, 3, 3), ((2, 2), (1, 1), (1, 1), 1)
    size = (5 - 1) * 2 - 2 + 3 + output_padding
    big_shape = (2, 4, size, size)
    y = cpu.conv_backward_input(small, w, big_shape, *window)
    close(y, reference.conv_backward_input(*_double(small, w), big_shape, *window))
    grad = draw(*big_shape)
    close(
        cpu.conv_forward(grad, w, None, *window),
        reference.conv_forward(*_double(grad, w, None), *window),
    )
    got, _ = cpu.conv_backward_weight(small, grad, w.shape, *window, False)
    close(got, reference.conv_backward_weight(*_double(small, grad), w.shape, *window, False)[0])


@pytest.mark.parametrize("activation", [None, "relu"])
def test_nan_is_not_hidden(cpu, draw, activation):
    x, w = draw(1, 4, 5, 5), draw(4, 4, 3, 3)
    x[0, 0, 2, 2] = np.nan
    y = cpu.conv_forward(x, w, None, (1, 1), (0, 0), (1, 1), 1, activation)
    assert np.isnan(y).all()


def test_same_bits_on_every_call(cpu, draw):
    x, w, window = draw(4, 10, 12, 12), draw(20, 10, 5, 5), ((1, 1), (0, 0), (1, 1), 1)
    first = cpu.conv_forward(x, w, None, *window)
    np.testing.assert_array_equal(cpu.conv_forward(x.copy(), w.copy(), None, *window), first)


def test_float64_and_empty_batches_fall_back_and_are_counted(lenient, reference, draw):
    w, window = draw(4, 3, 3, 3), ((1, 1), (1, 1), (1, 1), 1)
    x = draw(2, 3, 5, 5).astype(np.float64)
    y = lenient.conv_forward(x, w.astype(np.float64), None, *window)
    assert y.dtype == np.float64
    empty = draw(0, 3, 5, 5)
    assert lenient.conv_forward(empty, w, None, *window).shape == (0, 4, 5, 5)
    grad = draw(0, 4, 5, 5)
    assert lenient.conv_backward_input(grad, w, empty.shape, *window).shape == empty.shape
    grad_w, grad_b = lenient.conv_backward_weight(grad, empty, w.shape, *window, True)
    assert not grad_w.any()
    assert not grad_b.any()
    reasons = {reason for _, reason in kernel_counts.fallback_counts()}
    assert reasons == {"dtype float64", "empty array"}
