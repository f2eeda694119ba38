"""Convolution through cuDNN: every layout, type and geometry gives what the reference gives."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest

from allgrad import kernel_counts
from allgrad.backend.layout import is_channels_last
from allgrad.backend.reference import ReferenceBackend

TYPES = {"f4": np.float32, "f2": np.float16, "b2": ml_dtypes.bfloat16}
TOLERANCE = {"f4": 2e-5, "f2": 4e-3, "b2": 3e-2}
REFERENCE = ReferenceBackend()
# name: x, weight, stride, padding, dilation, groups
CASES = {
    "3x3": ((2, 8, 6, 7), (16, 8, 3, 3), (1, 1), (1, 1), (1, 1), 1),
    "1x1": ((2, 8, 5, 5), (8, 8, 1, 1), (1, 1), (0, 0), (1, 1), 1),
    "1x1 stride 2": ((2, 8, 6, 6), (8, 8, 1, 1), (2, 2), (0, 0), (1, 1), 1),
    "image": ((2, 3, 8, 8), (8, 3, 3, 3), (1, 1), (1, 1), (1, 1), 1),
    "one channel": ((2, 1, 8, 8), (4, 1, 5, 5), (1, 1), (0, 0), (1, 1), 1),
    "7x7 stride 2": ((1, 3, 15, 14), (8, 3, 7, 7), (2, 2), (3, 3), (1, 1), 1),
    "dilated, uneven": ((2, 4, 9, 8), (6, 4, 3, 2), (2, 1), (2, 0), (2, 3), 1),
    "grouped": ((2, 8, 6, 6), (12, 2, 3, 3), (1, 1), (1, 1), (1, 1), 4),
    "depthwise": ((2, 8, 6, 6), (8, 1, 3, 3), (2, 2), (1, 1), (1, 1), 8),
    "1-d": ((2, 5, 20), (4, 5, 5), (2,), (2,), (1,), 1),
    "3-d": ((1, 4, 5, 4, 6), (8, 4, 3, 2, 3), (1, 2, 1), (1, 0, 1), (1, 1, 1), 1),
}


@pytest.fixture(autouse=True)
def _no_disk(monkeypatch, tmp_path):
    monkeypatch.setenv("ALLGRAD_CACHE_DIR", str(tmp_path))


@pytest.fixture
def cuda(cuda):
    """The backend; nothing may be served in float32 or by the reference in its place."""
    yield cuda
    assert kernel_counts.fallback_counts() == {}


def numbers(shape, seed, kind="f4"):
    return np.random.default_rng(seed).standard_normal(shape).astype(TYPES[kind])


def laid_out(cupy, array, layout):
    """The array on the device: plain, channels-last, or a view that no library can take."""
    if layout == "plain":
        return cupy.asarray(array)
    if layout == "channels last":
        moved = cupy.asarray(np.ascontiguousarray(np.moveaxis(array, 1, -1)))
        return moved.transpose(0, array.ndim - 1, *range(1, array.ndim - 1))
    wide = np.zeros((*array.shape[:-1], 2 * array.shape[-1]), array.dtype)
    wide[..., 1::2] = array
    return cupy.asarray(wide)[..., 1::2]


def close(found, expected, kind, scale=None):
    found = found.get().astype(np.float64)
    expected = np.asarray(expected, np.float64)
    size = np.abs(expected).max() if scale is None else scale
    assert found.shape == expected.shape
    np.testing.assert_allclose(found, expected, rtol=0, atol=TOLERANCE[kind] * max(size, 1e-3))


def wide(*arrays):
    return [None if a is None else np.asarray(a, np.float32) for a in arrays]


@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("name", CASES)
def test_forward_and_gradients(cuda, gpu, name, kind):
    x_shape, w_shape, *window = CASES[name]
    stride, padding, dilation, groups = window
    x, w, bias = (numbers(s, i, kind) for i, s in enumerate((x_shape, w_shape, w_shape[:1])))
    layouts = ("plain", "channels last", "strided")
    for layout, activation in zip(layouts, (None, "relu", "relu"), strict=True):
        b = None if layout == "strided" else bias
        y = cuda.conv_forward(
            laid_out(gpu, x, layout), gpu.asarray(w), b if b is None else gpu.asarray(b),
            stride, padding, dilation, groups, activation,
        )  # fmt: skip
        expected = REFERENCE.conv_forward(*wide(x, w, b), *window, activation)
        close(y, expected, kind)
        assert is_channels_last(y)
    grad = numbers(expected.shape, 5, kind)
    expected_x = REFERENCE.conv_backward_input(*wide(grad, w), x_shape, *window)
    expected_w, expected_b = REFERENCE.conv_backward_weight(*wide(grad, x), w_shape, *window, True)
    for layout in layouts:
        g = laid_out(gpu, grad, layout)
        grad_x = cuda.conv_backward_input(g, gpu.asarray(w), x_shape, *window)
        close(grad_x, expected_x, kind)
        assert is_channels_last(grad_x)
        grad_w, grad_b = cuda.conv_backward_weight(
            g, laid_out(gpu, x, layout), w_shape, *window, True
        )
        close(grad_w, expected_w, kind)
        close(grad_b, expected_b, kind)
        assert grad_w.flags.c_contiguous
        assert grad_w.dtype == TYPES[kind]


@pytest.mark.parametrize("name", ["3x3", "1x1", "depthwise", "image"])
@pytest.mark.parametrize("kind", ["f4", "f2"])
def test_gradients_of_weights_go_where_they_are_wanted(cuda, gpu, name, kind):
    x_shape, w_shape, *window = CASES[name]
    x, w = numbers(x_shape, 0, kind), numbers(w_shape, 1, kind)
    grad = numbers(REFERENCE.conv_forward(*wide(x, w), None, *window).shape, 2, kind)
    expected = REFERENCE.conv_backward_weight(*wide(grad, x), w_shape, *window, False)[0]
    size = int(np.prod(w_shape))
    for dtype, start in ((w.dtype, 0), (w.dtype, 128), (w.dtype, 1), (np.dtype(np.float32), 0)):
        bucket = gpu.full(size + 200, 7, dtype)  # of gradients; cuDNN cannot write to any address
        out = bucket[start : start + size].reshape(w_shape)
        found, _ = cuda.conv_backward_weight(
            gpu.asarray(grad), gpu.asarray(x), w_shape, *window, False, out
        )
        assert found is out
        close(out, expected, kind)
        around = gpu.asnumpy(bucket).astype(np.float32)
        assert (around[:start] == 7).all()
        assert (around[start + size :] == 7).all()


def test_empty_batches_and_four_dimensions_are_refused(cuda, gpu):
    from allgrad.errors import Unsupported

    w = gpu.zeros((4, 2, 1, 1), np.float32)
    with pytest.raises(Unsupported, match="empty"):
        cuda.conv_forward(gpu.zeros((0, 2, 3, 3), np.float32), w, None, *WINDOW)
    four = ((1,) * 4, (0,) * 4, (1,) * 4, 1)
    with pytest.raises(Unsupported, match="4 spatial"):
        cuda.conv_forward(gpu.zeros((1, 2, 3, 3, 3, 3), np.float32), w, None, *four)


WINDOW = ((1, 1), (0, 0), (1, 1), 1)
