"""The fast kernels of sequences ran, and the reference served what they refuse."""

from __future__ import annotations

import numpy as np
import pytest

import allgrad as ag
from allgrad import backend, kernel_counts, nn
from allgrad.nn import functional as F

pytestmark = pytest.mark.skipif(
    getattr(backend.get(), "missing", "reference") is not None, reason="oneDNN is not installed"
)


def counts(function):
    """(fast kernels, fallbacks) of a call."""
    kernel_counts.reset()
    function()
    return kernel_counts.fast_counts(), kernel_counts.fallback_counts()


@pytest.mark.parametrize("kind", ["RNN", "LSTM", "GRU"])
def test_recurrent_layers(kind):
    layer = getattr(nn, kind)(6, 8, 2, bidirectional=True)
    fast, slow = counts(lambda: layer(ag.randn(5, 3, 6))[0].sum().backward())
    assert fast["recurrent_forward"] == fast["recurrent_backward"] == 4
    assert not slow


def test_projection_falls_back():
    layer = nn.LSTM(6, 8, proj_size=4)
    _, slow = counts(lambda: layer(ag.randn(5, 3, 6))[0].sum().backward())
    assert ("recurrent_forward", "projection") in slow


def test_transformer_layer():
    layer = nn.TransformerEncoderLayer(
        32, 4, 64, activation="gelu", batch_first=True, norm_first=True
    )
    x = ag.randn(4, 16, 32, requires_grad=True)
    mask = nn.Transformer.generate_square_subsequent_mask(16)
    fast, slow = counts(lambda: layer(x, mask, is_causal=True).sum().backward())
    kernels = {"attention", "gelu", "layer_norm"}
    wanted = {f"{k}_{way}" for k in kernels for way in ("forward", "backward")}
    # for some processors oneDNN has no fast softmax of gradients
    unoptimised = {name for name, reason in slow if "unoptimised" in reason}
    assert wanted - unoptimised <= set(fast)
    assert len(unoptimised) == len(slow)
    assert unoptimised <= {"attention_backward"}


@pytest.mark.parametrize("approximate", ["none", "tanh"])
def test_gelu_of_any_layout_and_of_odd_values(approximate):
    x = np.random.default_rng(0).standard_normal((4, 5, 6)).astype(np.float32) * 4
    x[0, 0, :4] = [np.nan, np.inf, 0, -40]
    for array in (x, x.transpose(2, 0, 1), x[:, ::2]):
        results = []
        for name in ("reference", "cpu"):
            backend.use(name)
            t = ag.tensor(array.copy()) if name == "x" else ag.from_numpy(array)
            t.requires_grad_()
            y = F.gelu(t, approximate=approximate)
            y.sum().backward()
            results.append((y.detach().numpy().copy(), t.grad.numpy().copy()))
        finite = np.isfinite(array)
        for a, b in zip(*results, strict=True):
            np.testing.assert_allclose(a[finite], b[finite], atol=3e-6)
        assert np.isnan(results[1][0][np.isnan(array)]).all()


def test_large_products_pack_their_second_factor():
    rng = np.random.default_rng(0)
    for shape in ((300, 70, 90), (256, 33, 520)):
        m, k, n = shape
        a, b = rng.standard_normal((m, k)), rng.standard_normal((k, n))
        for left in (a, np.asfortranarray(a)):
            for right in (b, np.asfortranarray(b)):
                got = backend.get().matmul(left.astype(np.float32), right.astype(np.float32))
                np.testing.assert_allclose(got, a @ b, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("biased", [False, True])
def test_huge_linear_layers_go_through_blas(biased):
    rng = np.random.default_rng(0)
    x, weight, bias = (
        rng.standard_normal(shape).astype(np.float32) for shape in ((700, 256), (3000, 256), 3000)
    )
    want = x.astype(float) @ weight.T.astype(float) + (bias if biased else 0)
    for given in (x, np.asfortranarray(x)):  # the second lies so that the matmul primitive serves
        fast, slow = counts(
            lambda given=given: np.testing.assert_allclose(
                backend.get().linear_forward(given, weight, bias if biased else None),
                want,
                rtol=1e-4,
                atol=1e-3,
            )
        )
        assert fast["linear_forward"] == 1
        assert not slow
