"""Matrix products through cuBLAS: every layout that it can take, and copies of those it cannot."""

from __future__ import annotations

import numpy as np
import pytest

from allgrad import kernel_counts
from allgrad.backend.reference import ReferenceBackend
from allgrad.errors import DeviceError, ShapeError, Unsupported

from .test_conv import TYPES, close, numbers, wide

REFERENCE = ReferenceBackend()


@pytest.fixture
def cuda(cuda):
    """The backend; nothing may be served in float32 or by the reference in its place."""
    yield cuda
    assert kernel_counts.fallback_counts() == {}


@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("activation", [None, "relu"])
@pytest.mark.parametrize("with_bias", [False, True])
def test_linear(cuda, gpu, kind, activation, with_bias):
    x, w, b = (numbers(s, i, kind) for i, s in enumerate(((9, 13), (11, 13), (11,))))
    b = b if with_bias else None
    expected = REFERENCE.linear_forward(*wide(x, w, b), activation)
    on_device = None if b is None else gpu.asarray(b)
    views = [
        (gpu.asarray(x), gpu.asarray(w)),
        (gpu.asarray(np.asfortranarray(x)), gpu.asarray(np.asfortranarray(w))),
        (gpu.asarray(np.repeat(x, 2, axis=1))[:, ::2], gpu.asarray(np.tile(w, (1, 2)))[:, :13]),
    ]
    for source, weight in views:
        y = cuda.linear_forward(source, weight, on_device, activation)
        close(y, expected, kind)
        assert y.flags.c_contiguous


def views(cupy, array):
    """The same matrices in several layouts."""
    swapped = np.ascontiguousarray(np.swapaxes(array, -1, -2))
    padded = np.concatenate([array, array], axis=-1)
    yield cupy.asarray(array)
    yield cupy.asarray(swapped).swapaxes(-1, -2)
    yield cupy.asarray(padded)[..., : array.shape[-1]]
    yield cupy.asarray(np.repeat(array, 2, axis=-1))[..., ::2]


BATCHES = {
    "matrices": ((5, 7), (7, 3)),
    "a batch": ((4, 5, 7), (4, 7, 3)),
    "one right factor": ((2, 3, 5, 7), (7, 3)),
    "one left factor": ((5, 7), (4, 7, 3)),
    "both broadcast": ((3, 1, 5, 7), (1, 2, 7, 3)),
    "many, uneven": ((6, 1, 2, 7), (6, 2, 7, 3)),
    "one row": ((3, 1, 7), (3, 7, 4)),
    "one column": ((3, 5, 7), (3, 7, 1)),
    "outer product": ((5, 1), (1, 3)),
}


@pytest.mark.parametrize("kind", [*TYPES, "f8"])
@pytest.mark.parametrize("name", BATCHES)
def test_matmul(cuda, gpu, name, kind):
    shapes = BATCHES[name]
    if kind == "f8":
        a, b = (np.random.default_rng(i).standard_normal(s) for i, s in enumerate(shapes))
        expected, tolerance = np.matmul(a, b), "f4"
    else:
        a, b = (numbers(s, i, kind) for i, s in enumerate(shapes))
        expected, tolerance = np.matmul(*wide(a, b)), kind
    for left in views(gpu, a):
        for right in views(gpu, b):
            close(cuda.matmul(left, right), expected, tolerance)
    for out in views(gpu, np.zeros(expected.shape, a.dtype)):
        found = cuda.matmul(gpu.asarray(a), gpu.asarray(b), out)
        assert found is out
        close(out, expected, tolerance)


def test_heads_of_attention_are_not_copied_one_by_one(cuda, gpu):
    a = numbers((3, 6, 4, 5), 0)  # (N, L, H, E), seen as (N, H, L, E)
    left = gpu.asarray(a).transpose(0, 2, 1, 3)
    expected = np.matmul(a.transpose(0, 2, 1, 3), a.transpose(0, 2, 3, 1))
    close(cuda.matmul(left, left.swapaxes(-1, -2)), expected, "f4")


def test_tf32_is_a_choice(cuda, gpu, monkeypatch):
    a, b = numbers((16, 64), 0), numbers((64, 16), 1)
    exact = np.matmul(a.astype(np.float64), b)
    error = np.abs(cuda.matmul(gpu.asarray(a), gpu.asarray(b)).get() - exact).max()
    monkeypatch.setattr("allgrad.backends.cuda.matmul.allow_tf32", True)
    rounded = np.abs(cuda.matmul(gpu.asarray(a), gpu.asarray(b)).get() - exact).max()
    assert error < 1e-4
    assert 1e-4 < rounded < 0.1


def test_what_is_refused(cuda, gpu):
    with pytest.raises(ShapeError, match="inner sizes"):
        cuda.matmul(gpu.zeros((2, 3), np.float32), gpu.zeros((2, 3), np.float32))
    with pytest.raises(Unsupported, match="int64"):
        cuda.matmul(gpu.zeros((2, 2), np.int64), gpu.zeros((2, 2), np.int64))
    with pytest.raises(Unsupported, match="float32 and float64"):
        cuda.matmul(gpu.zeros((2, 2), np.float32), gpu.zeros((2, 2), np.float64))
    with pytest.raises(Unsupported, match="empty"):
        cuda.matmul(gpu.zeros((2, 0), np.float32), gpu.zeros((0, 2), np.float32))


def test_products_are_captured(cuda, gpu):
    from allgrad.backend.cuda import device

    a, b = gpu.asarray(numbers((4, 8), 0)), gpu.asarray(numbers((8, 4), 1))
    stream = device.stream()
    cuda.matmul(a, b)
    pool = gpu.cuda.MemoryPool()
    capture = device.Capture()
    device.begin_capture(capture)
    try:
        with gpu.cuda.using_allocator(pool.malloc):
            stream.begin_capture()
            y = cuda.matmul(a, b)
            graph = stream.end_capture()
    finally:
        device.end_capture()
    assert capture.kept  # the workspace
    a *= 2
    graph.launch(stream)
    close(y, a.get() @ b.get(), "f4")


def test_a_capture_before_the_first_product_is_refused(cuda, gpu):
    from allgrad.backend.cuda import device

    a = gpu.zeros((4, 4), np.float32)
    device.begin_capture(device.Capture())
    try:
        with pytest.raises(DeviceError, match="run the step once before capturing"):
            cuda.matmul(a, a)
    finally:
        device.end_capture()
