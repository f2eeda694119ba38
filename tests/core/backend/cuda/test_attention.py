"""Attention on a GPU against the reference: masks, causality, dropout masks, half types."""

from __future__ import annotations

import numpy as np
import pytest

import allgrad as ag
import allgrad.nn.functional as F
from allgrad import backend, kernel_counts, nn

pytestmark = pytest.mark.usefixtures("gpu")

MASKS = {
    "none": lambda q, k: None,
    "bool": lambda q, k: ag.tensor(np.random.default_rng(1).random((q, k)) < 0.6),
    "nothing": lambda q, k: ag.tensor(np.arange(q)[:, None] > np.zeros(k)),  # row 0: no key
    "added": lambda q, k: ag.randn(q, k),
}


def attend(device, dtype, mask, causal):
    rng = np.random.default_rng(0)
    q, k, v = (
        ag.tensor(rng.standard_normal((2, 3, n, 8)).astype(np.float32), device=device).to(dtype)
        for n in (5, 7, 7)
    )
    for t in (q, k, v):
        t.requires_grad_()
    mask = None if mask is None else mask.to(device)
    if mask is not None and mask.dtype is not ag.bool:
        mask = mask.to(dtype)
    y = F.scaled_dot_product_attention(q, k, v, mask, is_causal=causal)
    grad = np.linspace(-1, 1, y.numel(), dtype=np.float32).reshape(tuple(y.shape))
    y.backward(ag.tensor(grad, device=device).to(dtype))
    return [t.detach().float().cpu().numpy() for t in (y, q.grad, k.grad, v.grad)]


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("name", MASKS)
def test_like_the_reference(name, dtype):
    mask = MASKS[name](5, 7)
    for causal in (False, True) if name == "none" else (False,):
        backend.use("reference")
        want = attend("cpu", ag.float32, mask, causal)
        kernel_counts.reset()
        got = attend("cuda", getattr(ag, dtype), mask, causal)
        counts = kernel_counts.fast_counts()
        assert counts["attention_forward"] == counts["attention_backward"] == 1
        slack = {"float32": 1e-5, "float16": 5e-3, "bfloat16": 4e-2}[dtype]
        for a, b in zip(got, want, strict=True):
            np.testing.assert_allclose(a, b, rtol=slack, atol=slack)


def test_a_transformer_step_can_be_recorded():
    ag.manual_seed(0)
    layer = nn.TransformerEncoderLayer(16, 4, 32, dropout=0.0, batch_first=True).cuda()
    x = ag.randn(2, 6, 16).cuda()

    def step():
        for p in layer.parameters():
            p.grad = None
        loss = (layer(x) ** 2).mean()
        loss.backward()
        return loss

    eager = float(step())
    gradient = layer.linear1.weight.grad.cpu().numpy()
    recorded = ag.cuda.capture(step, warmup=1)
    for _ in range(3):
        loss = float(recorded())
    assert recorded.replays == 2
    assert loss == eager
    np.testing.assert_array_equal(layer.linear1.weight.grad.cpu().numpy(), gradient)
