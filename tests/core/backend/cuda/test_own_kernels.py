"""Kernels of our own behind the backend protocol against the reference in float32.

Every layout of the input, halves with one rounding, what falls back and what is counted.
"""

from __future__ import annotations

import itertools

import ml_dtypes
import numpy as np
import pytest

from allgrad import kernel_counts
from allgrad.backend.layout import copy_channels_last, is_channels_last
from allgrad.backend.reference import ReferenceBackend
from allgrad.errors import Unsupported

REFERENCE = ReferenceBackend()
TYPES = {"f4": np.float32, "f2": np.float16, "b2": ml_dtypes.bfloat16}
TOLERANCE = {"f4": 3e-6, "f2": 1e-3, "b2": 8e-3}  # of the largest value


def _gaps(x):
    wide = np.zeros((*x.shape[:-1], 2 * x.shape[-1]), x.dtype)
    wide[..., ::2] = x
    return wide, (..., slice(None, None, 2))


# (host array, what to take of it on the device)
LAYOUTS = {
    "contiguous": lambda x: (np.ascontiguousarray(x), ...),
    "channels_last": lambda x: (copy_channels_last(x) if x.ndim > 2 else x, ...),
    "gaps": _gaps,
    "reversed": lambda x: (np.ascontiguousarray(x[..., ::-1]), (..., slice(None, None, -1))),
    "fortran": lambda x: (np.asfortranarray(x), ...),
    "unaligned": lambda x: (x, ...),  # one element behind a multiple of 16 bytes
}


@pytest.fixture
def put(gpu):
    """Brings a host array to the device in one of the layouts."""

    def place(x, layout="contiguous"):
        if layout == "unaligned":
            flat = gpu.empty(x.size + 1, x.dtype)
            view = flat[1:].reshape(x.shape)
            view[...] = gpu.asarray(x)
            return view
        host, taken = LAYOUTS[layout](x)
        base = gpu.asarray(host)
        if layout in ("channels_last", "fortran"):  # in that memory order
            order = np.argsort([-s for s in host.strides], kind="stable")
            base = gpu.ascontiguousarray(base.transpose(*order)).transpose(*np.argsort(order))
        return base[taken]

    return place


@pytest.fixture(params=TYPES)
def kind(request):
    return request.param


@pytest.fixture
def draw(rng, kind):
    return lambda *shape: rng.standard_normal(shape).astype(np.float32).astype(TYPES[kind])


def close(gpu, got, want, kind):
    """`got` of the device has the type and, within one rounding of it, the values of `want`."""
    got = gpu.asnumpy(got)
    assert got.dtype == TYPES[kind]
    _near(got, want, TOLERANCE[kind])


def near(gpu, got, want):
    """Statistics and gradients of parameters, which are float32."""
    got = gpu.asnumpy(got)
    assert got.dtype == np.float32
    _near(got, want, 1e-5)


def _near(got, want, tolerance):
    got, want = got.astype(np.float32), np.asarray(want, np.float32)
    assert got.shape == want.shape
    scale = max(1.0, float(np.abs(want[np.isfinite(want)]).max(initial=0)))
    np.testing.assert_allclose(got, want, rtol=tolerance, atol=tolerance * scale)


def wide(*arrays):
    return [None if a is None else a.astype(np.float32) for a in arrays]


def _parameters(rng, affine, shape):
    return rng.standard_normal((2, *shape)).astype(np.float32) if affine else (None, None)


ACTIVATIONS = {
    "relu": ((), True),
    "sigmoid": ((), True),
    "tanh": ((), True),
    "silu": ((), False),
    "gelu": (("none",), False),
    "gelu tanh": (("tanh",), False),
}


@pytest.mark.parametrize("name", ACTIVATIONS)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_activations(gpu, cuda, put, draw, kind, name, layout):
    settings, from_output = ACTIVATIONS[name]
    forward, backward = (f"{name.split()[0]}_{way}" for way in ("forward", "backward"))
    x, grad = draw(2, 3, 5, 4), draw(2, 3, 5, 4)
    y = getattr(cuda, forward)(put(x, layout), *settings)
    (x32,) = wide(x)
    close(gpu, y, getattr(REFERENCE, forward)(x32, *settings), kind)
    kept = gpu.asnumpy(y) if from_output else x
    grad_x = getattr(cuda, backward)(put(grad), put(kept, layout), *settings)
    close(gpu, grad_x, getattr(REFERENCE, backward)(*wide(grad, kept), *settings), kind)
    if layout == "channels_last":
        assert is_channels_last(y)
        assert is_channels_last(grad_x)
    assert kernel_counts.fast_counts() == {forward: 1, backward: 1}


def test_add_relu(gpu, cuda, put, draw, kind):
    a, b = draw(2, 3, 5, 4), draw(2, 3, 5, 4)
    y = cuda.add_relu_forward(put(a, "channels_last"), put(b))
    close(gpu, y, REFERENCE.add_relu_forward(*wide(a, b)), kind)
    assert kernel_counts.fast_counts() == {"add_relu_forward": 1}


def test_nan_passes_through_relu(gpu, cuda):
    x = gpu.asarray(np.array([np.nan, -1, 2, -np.inf, np.inf], np.float32))
    np.testing.assert_array_equal(
        gpu.asnumpy(cuda.relu_forward(x)), np.float32([np.nan, 0, 2, 0, np.inf])
    )


def test_what_no_kernel_serves_is_counted(gpu, cuda):
    cuda.strict = False
    x = gpu.asarray(np.array([-1.0, 2.0]))
    assert gpu.asnumpy(cuda.relu_forward(x)).tolist() == [0, 2]
    assert cuda.softmax_forward(gpu.empty((0, 3), np.float32), 1).shape == (0, 3)
    assert kernel_counts.fallback_counts() == {
        ("relu_forward", "dtype float64"): 1,
        ("softmax_forward", "empty array"): 1,
    }
    cuda.strict = True
    with pytest.raises(Unsupported, match="relu_forward fell back: dtype float64"):
        cuda.relu_forward(x)


@pytest.mark.parametrize("shape", [(5, 24), (3, 7, 4), (2, 16, 5, 5), (40, 1), (1, 3), (700, 8)])
@pytest.mark.parametrize("layout", ["contiguous", "channels_last", "gaps", "unaligned"])
def test_sum_to_channels(gpu, cuda, put, draw, kind, shape, layout):
    grad = draw(*shape)
    got = cuda.sum_to_channels(put(grad, layout))
    close(gpu, got, REFERENCE.sum_to_channels(grad.astype(np.float64)), kind)
    assert kernel_counts.fast_counts() == {"sum_to_channels": 1}


@pytest.mark.parametrize(
    ("shape", "axis"), [((3, 5), 1), ((4, 6, 3), 1), ((2, 300), -1), ((5, 2), 0)]
)
@pytest.mark.parametrize("log", [False, True])
@pytest.mark.parametrize("layout", ["contiguous", "channels_last", "reversed", "unaligned"])
def test_softmax(gpu, cuda, put, draw, kind, shape, axis, log, layout):
    name = "log_softmax" if log else "softmax"
    x, grad = draw(*shape), draw(*shape)
    x.ravel()[1] = -np.inf
    y = getattr(cuda, f"{name}_forward")(put(x, layout), axis)
    close(gpu, y, getattr(REFERENCE, f"{name}_forward")(*wide(x), axis), kind)
    kept = gpu.asnumpy(y)
    grad_x = getattr(cuda, f"{name}_backward")(put(grad), put(kept, layout), axis)
    close(gpu, grad_x, getattr(REFERENCE, f"{name}_backward")(*wide(grad, kept), axis), kind)
    assert set(kernel_counts.fast_counts()) == {f"{name}_forward", f"{name}_backward"}


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_row_with_nan_or_infinity_is_nan(gpu, cuda, put, draw, bad):
    x = draw(4, 300)
    x[1, 250] = bad
    x[2] = -np.inf
    y = gpu.asnumpy(cuda.softmax_forward(put(x), 1)).astype(np.float32)
    assert np.isnan(y[1:3]).all()
    assert np.isfinite(y[[0, 3]]).all()


SCORES = {"rows": (9, 10), "wide": (4, 300), "planes": (2, 5, 3, 4), "one class": (3, 1)}


SETTINGS = [("mean", False, 0.0), ("mean", True, 0.1), ("sum", False, 0.1), ("none", True, 0.0)]


@pytest.mark.parametrize("case", SCORES)
@pytest.mark.parametrize(("reduction", "weighted", "smoothing"), SETTINGS)
@pytest.mark.parametrize("layout", ["contiguous", "channels_last", "fortran"])
def test_cross_entropy(
    gpu, cuda, put, rng, draw, kind, case, reduction, weighted, smoothing, layout
):
    x = draw(*SCORES[case])
    target = rng.integers(0, x.shape[1], (len(x), *x.shape[2:]))
    target.ravel()[1] = -100
    weight = rng.random(x.shape[1]).astype(np.float32) + 0.1 if weighted else None
    settings = (reduction, -100, smoothing)
    there = None if weight is None else put(weight)
    loss, saved = cuda.cross_entropy_forward(put(x, layout), put(target), there, *settings)
    want, kept = REFERENCE.cross_entropy_forward(*wide(x), target, weight, *settings)
    close(gpu, loss, want, kind)
    grad = draw(*want.shape)
    grad_x = cuda.cross_entropy_backward(put(np.asarray(grad)), saved, *settings)
    grad32 = np.asarray(grad, np.float32)
    close(gpu, grad_x, REFERENCE.cross_entropy_backward(grad32, kept, *settings), kind)
    assert kernel_counts.fast_counts() == {
        "cross_entropy_forward": 1,
        "cross_entropy_backward": 1,
    }


def test_a_class_that_there_is_not_gives_nan(gpu, cuda, put):
    x = np.zeros((3, 4), np.float32)
    loss, saved = cuda.cross_entropy_forward(
        put(x), put(np.array([0, 9, 1])), None, "none", -100, 0
    )
    assert np.isnan(gpu.asnumpy(loss)).tolist() == [False, True, False]
    grad = cuda.cross_entropy_backward(put(np.ones(3, np.float32)), saved, "none", -100, 0)
    assert np.isnan(gpu.asnumpy(grad)).all(axis=1).tolist() == [False, True, False]


# x shape, kernel, stride, padding, dilation
POOLS = {
    "2x2": ((2, 16, 6, 8), (2, 2), (2, 2), (0, 0), (1, 1)),
    "3x3": ((2, 5, 9, 10), (3, 3), (2, 2), (1, 1), (1, 1)),
    "dilation": ((2, 3, 9, 10), (2, 3), (1, 2), (1, 1), (2, 2)),
    "rows left over": ((2, 3, 7, 9), (3, 1), (2, 4), (1, 0), (1, 1)),
    "large window": ((1, 3, 18, 18), (17, 17), (1, 1), (0, 0), (1, 1)),
    "whole": ((3, 8, 5, 6), (5, 6), (5, 6), (0, 0), (1, 1)),
    "1d": ((2, 8, 11), (3,), (2,), (1,), (1,)),
    "3d": ((2, 3, 4, 5, 6), (2, 3, 2), (2, 1, 2), (1, 1, 0), (1, 1, 1)),
}


@pytest.mark.parametrize("case", POOLS)
@pytest.mark.parametrize("ceil_mode", [False, True])
@pytest.mark.parametrize("layout", ["contiguous", "channels_last", "unaligned"])
def test_max_pool(gpu, cuda, put, draw, kind, case, ceil_mode, layout):
    x_shape, *window = POOLS[case]
    x = np.maximum(draw(*x_shape).astype(np.float32).round(1), 0).astype(TYPES[kind])  # ties
    y, saved = cuda.max_pool_forward(put(x, layout), *window, ceil_mode)
    want, winners = REFERENCE.max_pool_forward(*wide(x), *window, ceil_mode)
    np.testing.assert_array_equal(gpu.asnumpy(y).astype(np.float32), want)
    assert is_channels_last(y)
    grad = draw(*y.shape)
    grad_x = cuda.max_pool_backward(put(grad), saved, x_shape, *window)
    close(gpu, grad_x, REFERENCE.max_pool_backward(*wide(grad), winners, x_shape, *window), kind)
    assert kernel_counts.fast_counts() == {"max_pool_forward": 1, "max_pool_backward": 1}


@pytest.mark.parametrize("case", [c for c in POOLS if c != "dilation"])
@pytest.mark.parametrize(
    ("ceil_mode", "include"), [*itertools.product((False, True), (False, True))]
)
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
def test_avg_pool(gpu, cuda, put, draw, kind, case, ceil_mode, include, layout):
    x_shape, *window, _ = POOLS[case]
    x = draw(*x_shape)
    y = cuda.avg_pool_forward(put(x, layout), *window, ceil_mode, include)
    close(gpu, y, REFERENCE.avg_pool_forward(*wide(x), *window, ceil_mode, include), kind)
    grad = draw(*y.shape)
    settings = (x_shape, *window, ceil_mode, include)
    grad_x = cuda.avg_pool_backward(put(grad, layout), *settings)
    close(gpu, grad_x, REFERENCE.avg_pool_backward(*wide(grad), *settings), kind)
    assert kernel_counts.fast_counts() == {"avg_pool_forward": 1, "avg_pool_backward": 1}


LAYER_NORMS = [((5, 48), 1), ((3, 2, 7), 2), ((2, 700), 1), ((4, 1), 1)]


@pytest.mark.parametrize(("shape", "axes"), LAYER_NORMS)
@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("layout", ["contiguous", "fortran", "unaligned"])
def test_layer_norm(gpu, cuda, put, rng, draw, kind, shape, axes, affine, layout):
    x, grad = draw(*shape), draw(*shape)
    parameters = (
        rng.standard_normal((2, *shape[-axes:])).astype(np.float32) if affine else (None,) * 2
    )
    there = [None if p is None else put(p) for p in parameters]
    y, *statistics = cuda.layer_norm_forward(put(x, layout), axes, *there, 1e-5)
    want, *kept = REFERENCE.layer_norm_forward(*wide(x), axes, *parameters, 1e-5)
    close(gpu, y, want, kind)
    for got, expected in zip(statistics, kept, strict=True):
        near(gpu, got, expected)
    got = cuda.layer_norm_backward(put(grad, layout), put(x), axes, there[0], *statistics)
    want = REFERENCE.layer_norm_backward(*wide(grad, x), axes, parameters[0], *kept)
    close(gpu, got[0], want[0], kind)
    near(gpu, got[1], want[1])
    near(gpu, got[2], want[2])
    assert kernel_counts.fast_counts() == {"layer_norm_forward": 1, "layer_norm_backward": 1}


@pytest.mark.parametrize(("shape", "axes"), LAYER_NORMS)
@pytest.mark.parametrize("affine", [True, False])
def test_rms_norm(gpu, cuda, put, rng, draw, kind, shape, axes, affine):
    x, grad = draw(*shape), draw(*shape)
    weight, _ = _parameters(rng, affine, shape[-axes:])
    there = None if weight is None else put(weight)
    y, rstd = cuda.rms_norm_forward(put(x), axes, there, 1e-5)
    want, kept = REFERENCE.rms_norm_forward(*wide(x), axes, weight, 1e-5)
    close(gpu, y, want, kind)
    near(gpu, rstd, kept)
    needs = (True, affine)
    got = cuda.rms_norm_backward(put(grad), put(x), axes, there, rstd, needs)
    want = REFERENCE.rms_norm_backward(*wide(grad, x), axes, weight, kept, needs)
    close(gpu, got[0], want[0], kind)
    assert (got[1] is None) == (want[1] is None)
    if affine:
        near(gpu, got[1], want[1])
    assert kernel_counts.fast_counts() == {"rms_norm_forward": 1, "rms_norm_backward": 1}


@pytest.mark.parametrize(
    ("shape", "groups"),
    [((2, 16, 5, 8), 4), ((3, 6, 7), 2), ((2, 4, 1, 1), 2), ((1, 8, 40, 30), 8)],
)
@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("layout", ["contiguous", "channels_last", "gaps"])
def test_group_norm(gpu, cuda, put, rng, draw, kind, shape, groups, affine, layout):
    x, grad = draw(*shape), draw(*shape)
    parameters = _parameters(rng, affine, shape[1:2])
    there = [None if p is None else put(p) for p in parameters]
    y, *statistics = cuda.group_norm_forward(put(x, layout), groups, *there, 1e-5)
    want, *kept = REFERENCE.group_norm_forward(*wide(x), groups, *parameters, 1e-5)
    close(gpu, y, want, kind)
    for got, expected in zip(statistics, kept, strict=True):
        near(gpu, got, expected)
    got = cuda.group_norm_backward(put(grad), put(x, layout), groups, there[0], *statistics)
    want = REFERENCE.group_norm_backward(*wide(grad, x), groups, parameters[0], *kept)
    close(gpu, got[0], want[0], kind)
    near(gpu, got[1], want[1])
    near(gpu, got[2], want[2])
    if layout == "channels_last":
        assert is_channels_last(y)
        assert is_channels_last(got[0])
    assert kernel_counts.fast_counts() == {"group_norm_forward": 1, "group_norm_backward": 1}


def test_statistics_of_large_means_are_exact(gpu, cuda, put, rng):
    x = (1000 + rng.standard_normal((2, 8, 6, 6))).astype(np.float32)
    for layout in ("contiguous", "channels_last"):
        _, mean, rstd = cuda.group_norm_forward(put(x, layout), 2, None, None, 0.0)
        grouped = x.astype(np.float64).reshape(2, 2, -1)
        np.testing.assert_allclose(gpu.asnumpy(mean), grouped.mean(axis=2), rtol=1e-6)
        np.testing.assert_allclose(gpu.asnumpy(rstd), 1 / grouped.std(axis=2), rtol=1e-4)
