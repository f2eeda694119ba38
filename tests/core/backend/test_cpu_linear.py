"""oneDNN and BLAS matrix products against NumPy in float64."""

from __future__ import annotations

import numpy as np
import pytest

from allgrad import kernel_counts
from allgrad.errors import ShapeError

# M, K, N: served by oneDNN, by BLAS because small, and by BLAS because thin
SIZES = [(128, 784, 64), (64, 320, 50), (200, 1, 300), (4, 5, 6), (1, 300, 900), (500, 300, 1),
         (8, 400, 400), (300, 9, 300), (1, 1, 1)]  # fmt: skip


def _double(*arrays):
    return [a if a is None else a.astype(np.float64) for a in arrays]


@pytest.mark.parametrize(("m", "k", "n"), SIZES)
@pytest.mark.parametrize("with_bias", [True, False])
@pytest.mark.parametrize("activation", [None, "relu"])
def test_linear(cpu, reference, draw, close, m, k, n, with_bias, activation):
    x, w, bias = draw(m, k), draw(n, k), draw(n) if with_bias else None
    y = cpu.linear_forward(x, w, bias, activation)
    close(y, reference.linear_forward(*_double(x, w, bias), activation))
    assert kernel_counts.fast_counts() == {"linear_forward": 1}


@pytest.mark.parametrize(("m", "k", "n"), SIZES)
@pytest.mark.parametrize("turned", [(False, False), (True, False), (False, True), (True, True)])
@pytest.mark.parametrize("given", [True, False])
def test_matmul(cpu, draw, close, m, k, n, turned, given):
    a = draw(k, m).T if turned[0] else draw(m, k)
    b = draw(n, k).T if turned[1] else draw(k, n)
    out = np.full((m, n), np.nan, np.float32) if given else None
    y = cpu.matmul(a, b, out)
    close(y, np.matmul(*_double(a, b)))
    assert y is out or not given


def test_every_memory_layout(cpu, draw, close, layout):
    a, b = draw(65, 70), draw(70, 80)
    close(cpu.matmul(layout(a), layout(b)), np.matmul(*_double(a, b)))
    bias = draw(90)[10:]
    close(
        cpu.linear_forward(layout(a), layout(b).T, layout(bias)),
        np.matmul(*_double(a, b)) + bias,
    )


@pytest.mark.parametrize(
    "shapes",
    [
        ((3, 64, 65), (3, 65, 66)),
        ((1, 64, 65), (3, 65, 66)),
        ((3, 64, 65), (65, 66)),
        ((64, 65), (2, 3, 65, 66)),
        ((2, 1, 64, 65), (3, 65, 66)),
        ((2, 3, 4, 5), (2, 3, 5, 6)),
    ],
)
def test_batches_broadcast(cpu, draw, close, shapes):
    a, b = (draw(*shape) for shape in shapes)
    close(cpu.matmul(a, b), np.matmul(*_double(a, b)))
    out = np.empty(np.matmul(a, b).shape, np.float32)
    close(cpu.matmul(a, b, out), np.matmul(*_double(a, b)))
    assert kernel_counts.fast_counts() == {"matmul": 2}


def test_transposed_batches(cpu, draw, close):
    a, b = draw(3, 64, 65).transpose(0, 2, 1), draw(64, 3, 66).transpose(1, 0, 2)
    close(cpu.matmul(a, b), np.matmul(*_double(a, b)))


def test_out_with_gaps(cpu, draw, close):
    a, b, wide = draw(64, 65), draw(65, 66), np.zeros((64, 132), np.float32)
    cpu.matmul(a, b, wide[:, ::2])
    close(wide[:, ::2], np.matmul(*_double(a, b)))
    assert not wide[:, 1::2].any()


def test_broadcast_operand(cpu, draw, close):
    a, b = np.broadcast_to(draw(1, 65), (64, 65)), np.broadcast_to(draw(65, 1), (65, 66))
    close(cpu.matmul(a, b), np.matmul(*_double(a, b)))


def test_nan_is_not_hidden_by_relu(cpu, draw):
    x, w = draw(128, 256), draw(64, 256)
    x[3] = np.nan
    y = cpu.linear_forward(x, w, None, "relu")
    assert np.isnan(y[3]).all()
    assert not np.isnan(y[:3]).any()


def test_inner_sizes_must_agree(cpu, draw):
    with pytest.raises(ShapeError, match=r"\(3, 4\) @ \(5, 6\)"):
        cpu.matmul(draw(3, 4), draw(5, 6))


@pytest.mark.parametrize("dtype", [np.float64, np.int64])
def test_other_dtypes_fall_back(lenient, dtype):
    a, b = np.arange(12).reshape(3, 4).astype(dtype), np.arange(8).reshape(4, 2).astype(dtype)
    y = lenient.matmul(a, b)
    assert y.dtype == dtype
    np.testing.assert_array_equal(y, a @ b)
    assert kernel_counts.fallback_counts() == {("matmul", f"dtype {np.dtype(dtype)}"): 1}


@pytest.mark.parametrize(("m", "k", "n"), [(0, 300, 400), (300, 0, 400), (300, 400, 0)])
def test_empty(lenient, m, k, n):
    y = lenient.matmul(np.ones((m, k), np.float32), np.ones((k, n), np.float32))
    assert y.shape == (m, n)
    assert not y.any()
