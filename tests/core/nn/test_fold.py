"""nn.Unfold and nn.Fold: as in PyTorch, and inverse to each other up to the counts of overlaps."""

from __future__ import annotations

import numpy as np
import pytest

import allgrad as ag
from allgrad import nn

OPTIONS = [
    {"kernel_size": 2}, {"kernel_size": (2, 3), "stride": 2}, {"kernel_size": 3, "padding": 1},
    {"kernel_size": 2, "dilation": (2, 1), "padding": (1, 0), "stride": (1, 2)},
]  # fmt: skip


@pytest.mark.torch
@pytest.mark.parametrize("options", OPTIONS)
def test_like_torch(options):
    torch = pytest.importorskip("torch")
    image = np.random.default_rng(0).standard_normal((2, 3, 6, 7)).astype(np.float32)
    results = []
    for lib, layers in ((ag, nn), (torch, torch.nn)):
        x = lib.tensor(image).requires_grad_()
        unfold, fold = layers.Unfold(**options), layers.Fold((6, 7), **options)
        columns = unfold(x)
        back = fold(columns * columns)
        back.sum().backward()
        results.append((columns.detach().numpy(), back.detach().numpy(), x.grad.numpy()))
        assert "kernel_size" in repr(fold) and "padding" in repr(unfold)  # noqa: PT018
    for ours, theirs in zip(*results, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5)


def test_fold_divides_by_overlaps():
    x = ag.randn(1, 2, 4, 4)
    unfold, fold = nn.Unfold(3, padding=1), nn.Fold((4, 4), 3, padding=1)
    counts = fold(unfold(ag.ones(1, 2, 4, 4)))
    np.testing.assert_allclose((fold(unfold(x)) / counts).numpy(), x.numpy(), rtol=1e-5)
