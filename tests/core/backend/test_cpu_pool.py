"""oneDNN pooling against the reference: equal bits for the maximum, ties included."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from allgrad import kernel_counts
from allgrad.backend.layout import is_channels_last

# x shape, kernel, stride, padding, dilation
CASES = {
    "2x2": ((4, 10, 12, 12), (2, 2), (2, 2), (0, 0), (1, 1)),
    "16 channels": ((2, 16, 8, 8), (2, 2), (2, 2), (0, 0), (1, 1)),
    "overlap": ((2, 5, 9, 10), (3, 3), (2, 2), (1, 1), (1, 1)),
    "dilation": ((2, 3, 9, 10), (2, 3), (1, 2), (1, 1), (2, 2)),
    "anisotropic": ((2, 3, 9, 10), (3, 1), (1, 4), (1, 0), (1, 1)),
    "rows left over": ((2, 3, 7, 9), (2, 2), (2, 2), (0, 0), (1, 1)),
    "whole": ((3, 7, 5, 6), (5, 6), (5, 6), (0, 0), (1, 1)),
    "large window": ((1, 3, 20, 20), (17, 17), (1, 1), (0, 0), (1, 1)),
    "1d": ((2, 3, 11), (3,), (2,), (1,), (1,)),
    "3d": ((2, 3, 6, 7, 8), (2, 3, 2), (2, 1, 2), (1, 1, 0), (1, 1, 1)),
}
UNDILATED = {k: v for k, v in CASES.items() if max(v[-1]) == 1}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("ceil_mode", [False, True])
@pytest.mark.parametrize("ties", [False, True])
def test_max_pool(lenient, reference, draw, case, ceil_mode, ties):
    cpu = lenient
    x_shape, *window = CASES[case]
    x = np.maximum(np.round(draw(*x_shape)), 0) if ties else draw(*x_shape)
    y, saved = cpu.max_pool_forward(x, *window, ceil_mode)
    want, winners = reference.max_pool_forward(x, *window, ceil_mode)
    np.testing.assert_array_equal(y, want)
    # Whole numbers add up to the same bits in any order.
    grad = np.round(4 * draw(*y.shape))
    got = cpu.max_pool_backward(grad, saved, x_shape, *window)
    np.testing.assert_array_equal(got, reference.max_pool_backward(grad, winners, x_shape, *window))
    if case != "dilation":  # for which oneDNN has only unoptimised code
        assert is_channels_last(y)
        assert kernel_counts.fast_counts() == {"max_pool_forward": 1, "max_pool_backward": 1}


def test_a_later_forward_does_not_disturb_an_earlier_one(cpu, reference, draw):
    x_shape, *window = CASES["2x2"]
    first, second = draw(*x_shape), draw(*x_shape)
    y, saved = cpu.max_pool_forward(first, *window, False)
    cpu.max_pool_forward(second, *window, False)
    grad = draw(*y.shape)
    _, winners = reference.max_pool_forward(first, *window, False)
    np.testing.assert_array_equal(
        cpu.max_pool_backward(grad, saved, x_shape, *window),
        reference.max_pool_backward(grad, winners, x_shape, *window),
    )


@pytest.mark.parametrize("bad", [np.nan, -np.inf])
def test_windows_without_a_number_are_served_by_the_reference(lenient, reference, draw, bad):
    x_shape, *window = CASES["2x2"]
    x = draw(*x_shape)
    x[1, 2, :4] = bad
    y, saved = lenient.max_pool_forward(x, *window, False)
    want, winners = reference.max_pool_forward(x, *window, False)
    np.testing.assert_array_equal(y, want)
    grad = draw(*y.shape)
    np.testing.assert_array_equal(
        lenient.max_pool_backward(grad, saved, x_shape, *window),
        reference.max_pool_backward(grad, winners, x_shape, *window),
    )


@pytest.mark.parametrize("case", UNDILATED)
@pytest.mark.parametrize(("ceil_mode", "include"), list(itertools.product([False, True], repeat=2)))
def test_avg_pool(lenient, reference, draw, close, case, ceil_mode, include):
    x_shape, kernel, stride, padding, _ = UNDILATED[case]
    options = (kernel, stride, padding, ceil_mode, include)
    x = draw(*x_shape)
    y = lenient.avg_pool_forward(x, *options)
    close(y, reference.avg_pool_forward(x.astype(np.float64), *options), relative=1e-6)
    grad = draw(*y.shape)
    close(
        lenient.avg_pool_backward(grad, x_shape, *options),
        reference.avg_pool_backward(grad.astype(np.float64), x_shape, *options),
        relative=2e-6,
    )
    allowed = {"ceil_mode window beyond the padding with count_include_pad"}
    assert {reason for _, reason in kernel_counts.fallback_counts()} <= allowed
    if not (ceil_mode and include and any(padding)):
        assert kernel_counts.fast_counts() == {"avg_pool_forward": 1, "avg_pool_backward": 1}


def test_every_memory_layout(cpu, reference, draw, close, layout):
    x_shape, *window = CASES["overlap"]
    x = draw(*x_shape)
    y, saved = cpu.max_pool_forward(layout(x), *window, False)
    want, winners = reference.max_pool_forward(x, *window, False)
    np.testing.assert_array_equal(y, want)
    grad = np.round(4 * draw(*y.shape))
    np.testing.assert_array_equal(
        cpu.max_pool_backward(layout(grad), saved, x_shape, *window),
        reference.max_pool_backward(grad, winners, x_shape, *window),
    )
    options = (*window[:3], False, False)
    close(cpu.avg_pool_forward(layout(x), *options), reference.avg_pool_forward(x, *options))
    close(
        cpu.avg_pool_backward(layout(grad), x_shape, *options),
        reference.avg_pool_backward(grad, x_shape, *options),
    )


def test_broadcast_gradient(cpu, reference, close):
    options = ((2, 2), (2, 2), (0, 0), False, True)
    grad = np.broadcast_to(np.float32(0.25), (2, 3, 4, 4))
    close(
        cpu.avg_pool_backward(grad, (2, 3, 8, 8), *options),
        reference.avg_pool_backward(grad, (2, 3, 8, 8), *options),
    )


def test_empty_batch(lenient):
    x, window = np.ones((0, 3, 8, 8), np.float32), ((2, 2), (2, 2), (0, 0))
    y, saved = lenient.max_pool_forward(x, *window, (1, 1), False)
    assert y.shape == (0, 3, 4, 4)
    assert lenient.max_pool_backward(y, saved, x.shape, *window, (1, 1)).shape == x.shape
    assert lenient.avg_pool_forward(x, *window, False, True).shape == (0, 3, 4, 4)
    assert lenient.avg_pool_backward(y, x.shape, *window, False, True).shape == x.shape
