"""Embeddings on a GPU against the CPU, and their kernels against the twins."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest

import allgrad as ag
from allgrad.backend.cuda.kernels import launch
from allgrad.backend.cuda.kernels.twins import TWINS
from allgrad.nn import functional as F


@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16])
@pytest.mark.parametrize("cols", [8, 3])
def test_kernels_are_the_twins(gpu, dtype, cols):
    rng = np.random.default_rng(0)
    n, rows = 300, 40
    table = rng.standard_normal((rows, cols)).astype(dtype)
    indices = rng.integers(0, rows, n)
    indices[7] = rows  # there is no such row
    out, want = gpu.empty((n, cols), dtype), np.empty((n, cols), dtype)
    sizes = (np.int64(n), np.int64(cols * table.itemsize), np.int64(rows))
    there = gpu.asarray(indices)
    launch("embedding_rows", None, (2,), (256,), (gpu.asarray(table), there, out, *sizes))
    TWINS["embedding_rows"](table, indices, want, *sizes)
    np.testing.assert_array_equal(out.get().astype(np.float32), want.astype(np.float32))
    assert np.isnan(want[7].astype(np.float32)).all()

    order = np.argsort(indices, kind="stable")
    following, first = np.empty(n, np.int64), np.empty(n, np.uint8)
    TWINS["embedding_links_sorted"](indices, order, n, following, first)
    for name, middle in (("embedding_links", ()), ("embedding_links_sorted", (order,))):
        got = gpu.empty(n, np.int64), gpu.empty(n, np.uint8)
        args = (there, *map(gpu.asarray, middle), np.int64(n), *got)
        launch(name, None, (2,), (256,), args)
        np.testing.assert_array_equal(got[0].get(), following)
        np.testing.assert_array_equal(got[1].get(), first)

    grad = rng.standard_normal((n, cols)).astype(dtype)
    for padding, by_frequency in ((-1, 0), (3, 1)):
        sums, want = gpu.zeros((rows, cols), dtype), np.zeros((rows, cols), dtype)
        tail = (np.int64(cols), np.int64(rows), np.int64(padding), np.int32(by_frequency))
        args = (gpu.asarray(grad), there, *got, sums, *tail)
        launch("embedding_sums", np.dtype(dtype), (n,), (128,), args)
        TWINS["embedding_sums"](grad, indices, following, first, want, *tail)
        np.testing.assert_array_equal(sums.get().astype(np.float32), want.astype(np.float32))


@pytest.mark.parametrize("few", [8192, 0])
@pytest.mark.parametrize(
    "settings", [{}, {"padding_idx": 1}, {"scale_grad_by_freq": True, "padding_idx": -1}]
)
def test_as_on_the_cpu(cuda, monkeypatch, few, settings):
    from allgrad.backend.cuda import embedding as module

    monkeypatch.setattr(module, "_FEW", few)
    ag.manual_seed(0)
    here = ag.randn(11, 6).requires_grad_()
    there = here.detach().cuda().requires_grad_()
    indices, grad = ag.randint(0, 11, (5, 9)), ag.randn(5, 9, 6)
    results = []
    for weight, device in ((here, "cpu"), (there, "cuda"), (there, "cuda")):
        weight.grad = None
        y = F.embedding(indices.to(device), weight, **settings)
        y.backward(grad.to(device))
        results.append([t.detach().cpu().numpy() for t in (y, weight.grad)])
    for want, got in zip(*results[:2], strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(results[1][1], results[2][1])
