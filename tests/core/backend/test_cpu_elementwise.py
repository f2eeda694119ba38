"""ReLU, add + ReLU, softmax and channel sums on the CPU against the reference."""

from __future__ import annotations

import numpy as np
import pytest

from allgrad import kernel_counts
from allgrad.backend.layout import copy_channels_last

SHAPES = [(), (1,), (7,), (2048,), (3, 5, 40, 41), (64, 50), (4, 1, 30, 30), (2, 3000, 1, 1)]


@pytest.mark.parametrize("shape", SHAPES)
def test_relu(cpu, reference, draw, shape):
    x = draw(*shape)
    y = cpu.relu_forward(x)
    np.testing.assert_array_equal(y, reference.relu_forward(x))
    grad = draw(*shape)
    np.testing.assert_array_equal(cpu.relu_backward(grad, y), reference.relu_backward(grad, y))
    np.testing.assert_array_equal(
        cpu.add_relu_forward(x, grad), reference.add_relu_forward(x, grad)
    )
    assert sum(kernel_counts.fast_counts().values()) == 3


def test_relu_in_every_layout(cpu, reference, draw, layout):
    x, grad = draw(3, 5, 17, 19), draw(3, 5, 17, 19)
    y = cpu.relu_forward(layout(x))
    np.testing.assert_array_equal(y, reference.relu_forward(x))
    np.testing.assert_array_equal(
        cpu.relu_backward(layout(grad), y), reference.relu_backward(grad, y)
    )
    np.testing.assert_array_equal(
        cpu.relu_backward(grad, layout(y)), reference.relu_backward(grad, y)
    )
    np.testing.assert_array_equal(
        cpu.add_relu_forward(layout(x), grad), reference.add_relu_forward(x, grad)
    )


def test_relu_keeps_the_memory_order(cpu, draw):
    x = copy_channels_last(draw(3, 5, 17, 19))
    assert cpu.relu_forward(x).strides == x.strides
    assert cpu.relu_backward(draw(3, 5, 17, 19), x).strides == x.strides


def test_relu_of_a_broadcast_gradient(cpu, reference, draw):
    y, grad = draw(3, 5, 17, 19), np.broadcast_to(draw(3, 5, 1, 1), (3, 5, 17, 19))
    np.testing.assert_array_equal(cpu.relu_backward(grad, y), reference.relu_backward(grad, y))


def test_relu_of_special_values(cpu):
    x = np.tile(np.array([np.nan, np.inf, -np.inf, -0.0, 0.0, -1.0, 2.0], np.float32), 1000)
    want = np.tile(np.array([np.nan, np.inf, 0, 0, 0, 0, 2], np.float32), 1000)
    np.testing.assert_array_equal(cpu.relu_forward(x), want)
    np.testing.assert_array_equal(cpu.add_relu_forward(x, np.zeros_like(x)), want)


@pytest.mark.parametrize("kernel", ["softmax_forward", "log_softmax_forward"])
@pytest.mark.parametrize(
    ("shape", "axis"),
    [((64, 10), 1), ((64, 10), -1), ((64, 10), 0), ((5,), 0), ((2, 3, 4, 5), 1), ((4, 1), 1)],
)
def test_softmax(cpu, reference, draw, close, layout, kernel, shape, axis):
    x = 5 * draw(*shape)
    y = getattr(cpu, kernel)(layout(x), axis)
    close(y, getattr(reference, kernel)(x.astype(np.float64), axis), relative=2e-6)
    assert kernel_counts.fast_counts() == {kernel: 1}


def test_softmax_of_extreme_values(cpu):
    x = np.array([[1e4, -1e4, 0], [-np.inf, 0, 0], [88, 88, 88]], np.float32)
    with np.errstate(all="raise"):
        y, log_y = cpu.softmax_forward(x, 1), cpu.log_softmax_forward(x, 1)
    third = np.log(1 / 3)
    np.testing.assert_allclose(y, [[1, 0, 0], [0, 0.5, 0.5], [1 / 3] * 3], atol=1e-6)
    np.testing.assert_allclose(log_y[0], [0, -2e4, -1e4], rtol=1e-6)
    np.testing.assert_allclose(log_y[1], [-np.inf, np.log(0.5), np.log(0.5)], rtol=3e-6)
    np.testing.assert_allclose(log_y[2], [third] * 3, rtol=3e-6)


def test_nan_spoils_its_whole_row_in_softmax(lenient, draw):
    x = draw(4, 10)
    x[2, 5] = np.nan
    for y in (lenient.softmax_forward(x, 1), lenient.log_softmax_forward(x, 1)):
        assert np.isnan(y[2]).all()
        assert not np.isnan(y[[0, 1, 3]]).any()


@pytest.mark.parametrize("shape", [(64, 10), (1, 5), (3, 4, 9), (3, 4, 5, 6), (2, 3, 2, 3, 4)])
def test_sum_to_channels(cpu, reference, draw, close, shape):
    x = draw(*shape)
    want = reference.sum_to_channels(x.astype(np.float64))
    close(cpu.sum_to_channels(x), want)
    close(cpu.sum_to_channels(copy_channels_last(x)), want)
    assert kernel_counts.fast_counts() == {"sum_to_channels": 2}


def test_sum_to_channels_of_odd_views(lenient, reference, draw, close, layout):
    x = draw(3, 4, 5, 6)
    want = reference.sum_to_channels(x.astype(np.float64))
    close(lenient.sum_to_channels(layout(x)), want)
    ones = np.broadcast_to(np.float32(1), (3, 4, 5, 6))
    np.testing.assert_array_equal(lenient.sum_to_channels(ones), [90] * 4)
