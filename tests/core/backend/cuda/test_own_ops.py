"""Ops with kernels of our own through tensors: gradients on a GPU equal those on the CPU."""

from __future__ import annotations

import numpy as np
import pytest

import allgrad as ag
import allgrad.nn.functional as F
from allgrad import kernel_counts

pytestmark = pytest.mark.usefixtures("cuda")

LABELS = np.arange(36).reshape(2, 6, 3) % 4
LABELS[0, 1, 1] = -100
# function of an input (2, 4, 6, 3), and the kernels that must have served it
FUNCTIONS = {
    "relu": (F.relu, {"relu_forward", "relu_backward"}),
    "gelu": (F.gelu, {"gelu_forward", "gelu_backward"}),
    "silu": (F.silu, {"silu_forward", "silu_backward"}),
    "sigmoid": (lambda x: x.sigmoid(), {"sigmoid_forward", "sigmoid_backward"}),
    "tanh": (lambda x: x.tanh(), {"tanh_forward", "tanh_backward"}),
    "add_relu": (lambda x: F.relu(x + x.flip(0)), {"add_relu_forward", "relu_backward"}),
    "max_pool": (lambda x: F.max_pool2d(x, 3, 2, 1), {"max_pool_forward", "max_pool_backward"}),
    "avg_pool": (lambda x: F.avg_pool2d(x, 2, 1), {"avg_pool_forward", "avg_pool_backward"}),
    "global": (
        lambda x: F.adaptive_avg_pool2d(x, 1),
        {"avg_pool_forward", "avg_pool_backward"},
    ),
    "softmax": (lambda x: F.softmax(x, 1), {"softmax_forward", "softmax_backward"}),
    "log_softmax": (
        lambda x: F.log_softmax(x, -1),
        {"log_softmax_forward", "log_softmax_backward"},
    ),
    "cross_entropy": (
        lambda x: F.cross_entropy(x, ag.tensor(LABELS, device=x.device), label_smoothing=0.1),
        {"cross_entropy_forward", "cross_entropy_backward"},
    ),
    "layer_norm": (
        lambda x: F.layer_norm(x, (3,), ag.tensor([1.0, 2.0, 3.0], device=x.device)),
        {"layer_norm_forward", "layer_norm_backward"},
    ),
    "rms_norm": (
        lambda x: F.rms_norm(x, (3,), ag.tensor([1.0, 2.0, 3.0], device=x.device), 1e-5),
        {"rms_norm_forward", "rms_norm_backward"},
    ),
    "group_norm": (
        lambda x: F.group_norm(x, 2, ag.tensor([1.0, 2.0, 3.0, 4.0], device=x.device)),
        {"group_norm_forward", "group_norm_backward"},
    ),
}


def _gradient(y):
    values = np.cos(np.arange(y.numel())).reshape(y.shape)
    return ag.tensor(values, dtype=y.dtype, device=y.device)


def _run(function, x, device):
    there = ag.tensor(x, device=device, requires_grad=True)
    y = function(there)
    y.backward(_gradient(y))
    return y.detach().cpu(), there.grad.cpu()


@pytest.mark.parametrize("name", FUNCTIONS)
def test_values_and_gradients_are_the_cpus(rng, name):
    function, kernels = FUNCTIONS[name]
    x = rng.standard_normal((2, 4, 6, 3)).astype(np.float32)
    got = _run(function, x, "cuda")
    served = set(kernel_counts.fast_counts())
    assert kernels <= served
    for there, here in zip(got, _run(function, x, "cpu"), strict=True):
        np.testing.assert_allclose(there.numpy(), here.numpy(), rtol=2e-5, atol=1e-5)


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_halves_are_served_as_they_are(rng, name, dtype):
    function, kernels = FUNCTIONS[name]
    x = ag.tensor(rng.standard_normal((2, 4, 6, 3)), dtype=getattr(ag, dtype))
    there = x.cuda().requires_grad_()
    y = function(there)
    y.backward(_gradient(y))
    assert y.dtype is there.grad.dtype is x.dtype
    assert kernels <= set(kernel_counts.fast_counts())
    assert not kernel_counts.fallback_counts()
    want = function(x.float())
    np.testing.assert_allclose(y.detach().cpu().float().numpy(), want.numpy(), rtol=0.02, atol=0.02)


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_second_derivatives_of_cross_entropy(rng, reduction):
    def gradient(device):
        x = ag.tensor(rng_values, device=device, requires_grad=True)
        target = ag.tensor(LABELS[1, 0], device=device)
        loss = F.cross_entropy(x, target, reduction=reduction)
        (first,) = ag.autograd.grad(loss, x, _gradient(loss), create_graph=True)
        (second,) = ag.autograd.grad(first, x, _gradient(first))
        return second.cpu().numpy()

    rng_values = rng.standard_normal((3, 4)).astype(np.float32)
    np.testing.assert_allclose(gradient("cuda"), gradient("cpu"), rtol=1e-5, atol=1e-6)


def test_a_class_that_there_is_not_gives_nan_without_waiting():
    x, target = ag.zeros(2, 3, device="cuda"), ag.tensor([1, 3], device="cuda")
    for loss in (F.cross_entropy, F.nll_loss):
        assert loss(x, target, reduction="none").isnan().tolist() == [False, True]
    with pytest.raises(IndexError, match="target 3 is out of bounds for 3 classes"):
        F.cross_entropy(x.cpu(), target.cpu())


def test_logits_changed_in_place_are_noticed():
    x = ag.zeros(3, 4, device="cuda", requires_grad=True) * 1
    loss = F.cross_entropy(x, ag.tensor([0, 1, 2], device="cuda"))
    x.add_(1)
    with pytest.raises(RuntimeError, match="modified by an in-place operation"):
        loss.backward()
