"""The oracle itself: float64 against PyTorch where installed, and against slow plain loops."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

POOLS = list(itertools.product((7, 8, 13), (2, 3, 4), (1, 2, 3), (0, 1), (1, 2), (False, True)))


@pytest.mark.torch
@pytest.mark.parametrize("kernel", [2, 3, 4])
def test_pooling_as_in_pytorch(reference, rng, kernel):
    torch = pytest.importorskip("torch")
    functional = torch.nn.functional
    for size, k, s, p, d, ceil in POOLS:
        if k != kernel or p > k // 2 or size + 2 * p < d * (k - 1) + 1:
            continue
        x = torch.tensor(rng.integers(0, 5, (2, 3, size, size + 1)) * 1.0, requires_grad=True)
        want = functional.max_pool2d(x, k, s, p, d, ceil)
        window = ((k, k), (s, s), (p, p))
        y, saved = reference.max_pool_forward(x.detach().numpy(), *window, (d, d), ceil)
        np.testing.assert_array_equal(y, want.detach().numpy())
        grad = rng.standard_normal(y.shape)
        want.backward(torch.tensor(grad))
        got = reference.max_pool_backward(grad, saved, tuple(x.shape), *window, (d, d))
        np.testing.assert_allclose(got, x.grad.numpy(), atol=1e-12)
        for include in (False, True) if d == 1 else ():
            x.grad = None
            want = functional.avg_pool2d(x, k, s, p, ceil, include)
            y = reference.avg_pool_forward(x.detach().numpy(), *window, ceil, include)
            np.testing.assert_allclose(y, want.detach().numpy(), atol=1e-12)
            want.backward(torch.tensor(grad))
            got = reference.avg_pool_backward(grad, tuple(x.shape), *window, ceil, include)
            np.testing.assert_allclose(got, x.grad.numpy(), atol=1e-12)


def test_pooling_in_one_and_three_dimensions(reference, rng):
    x = rng.standard_normal((2, 3, 5, 6, 7))
    y, _ = reference.max_pool_forward(x, (2, 3, 2), (1, 2, 3), (0,) * 3, (1,) * 3, False)
    for d, h, w in np.ndindex(*y.shape[2:]):
        box = x[:, :, d : d + 2, 2 * h : 2 * h + 3, 3 * w : 3 * w + 2]
        np.testing.assert_array_equal(y[:, :, d, h, w], box.max(axis=(2, 3, 4)))
    line = x[:, :, 0, 0]
    y = reference.avg_pool_forward(line, (3,), (2,), (1,), False, True)
    np.testing.assert_allclose(y[..., 0], line[..., :2].sum(-1) / 3)
    np.testing.assert_allclose(y[..., 1], line[..., 1:4].mean(-1))


def test_max_pool_of_integers_and_nan(reference):
    y, _ = reference.max_pool_forward(
        -np.ones((1, 1, 3, 3), np.int32), (2, 2), (1, 1), (1, 1), (1, 1), False
    )
    assert y.dtype == np.int32
    assert (y == -1).all()
    x = np.zeros((1, 1, 2, 2))
    x[0, 0, 1, 0] = np.nan
    assert np.isnan(reference.max_pool_forward(x, (2, 2), (2, 2), (0, 0), (1, 1), False)[0])


def _slope(function, x, grad, step=1e-6):
    """Central differences of sum(function(x) * grad) for every element of x."""
    result = np.empty_like(x)
    for index in np.ndindex(*x.shape):
        up, down = x.copy(), x.copy()
        up[index] += step
        down[index] -= step
        result[index] = ((function(up) - function(down)) * grad).sum() / (2 * step)
    return result


@pytest.mark.parametrize("activation", [None, "relu"])
def test_batch_norm_gradient(reference, rng, activation):
    x, grad = rng.standard_normal((3, 2, 3, 2)), rng.standard_normal((3, 2, 3, 2))
    w, b = rng.standard_normal(2), rng.standard_normal(2)

    def y(x=x, w=w, b=b):
        return reference.batch_norm_forward(x, w, b, 1e-5, activation)[0]

    _, mean, var, saved = reference.batch_norm_forward(x, w, b, 1e-5, activation)
    got = reference.batch_norm_backward(grad, x, w, mean, var, 1e-5, saved, activation)
    np.testing.assert_allclose(got[0], _slope(lambda v: y(x=v), x, grad), atol=1e-6)
    np.testing.assert_allclose(got[1], _slope(lambda v: y(w=v), w, grad), atol=1e-6)
    np.testing.assert_allclose(got[2], _slope(lambda v: y(b=v), b, grad), atol=1e-6)


def test_layer_and_group_norm_gradients(reference, rng):
    x, grad = rng.standard_normal((2, 4, 3)), rng.standard_normal((2, 4, 3))
    w = rng.standard_normal((4, 3))
    _, mean, rstd = reference.layer_norm_forward(x, 2, w, None, 1e-5)
    got, grad_w, _ = reference.layer_norm_backward(grad, x, 2, w, mean, rstd)
    want = _slope(lambda v: reference.layer_norm_forward(v, 2, w, None, 1e-5)[0], x, grad)
    np.testing.assert_allclose(got, want, atol=1e-6)
    want = _slope(lambda v: reference.layer_norm_forward(x, 2, v, None, 1e-5)[0], w, grad)
    np.testing.assert_allclose(grad_w, want, atol=1e-6)
    w = rng.standard_normal(4)
    _, mean, rstd = reference.group_norm_forward(x, 2, w, None, 1e-5)
    got, grad_w, _ = reference.group_norm_backward(grad, x, 2, w, mean, rstd)
    want = _slope(lambda v: reference.group_norm_forward(v, 2, w, None, 1e-5)[0], x, grad)
    np.testing.assert_allclose(got, want, atol=1e-6)
    want = _slope(lambda v: reference.group_norm_forward(x, 2, v, None, 1e-5)[0], w, grad)
    np.testing.assert_allclose(grad_w, want, atol=1e-6)


@pytest.mark.torch
@pytest.mark.parametrize("nesterov", [False, True])
def test_sgd_as_in_pytorch(reference, rng, nesterov):
    torch = pytest.importorskip("torch")
    options = {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.01, "nesterov": nesterov}
    parameter = torch.nn.Parameter(torch.tensor(rng.standard_normal(20)))
    theirs = torch.optim.SGD([parameter], **options)
    param, buffer = parameter.detach().numpy().copy(), np.empty(20)
    for step in range(4):
        grad = rng.standard_normal(20)
        parameter.grad = torch.tensor(grad)
        theirs.step()
        reference.sgd_step(
            param, grad, buffer, **options, dampening=0.0, maximize=False, first=step == 0
        )
        np.testing.assert_allclose(param, parameter.detach().numpy(), rtol=1e-12)


@pytest.mark.torch
@pytest.mark.parametrize("decoupled", [False, True])
@pytest.mark.parametrize("amsgrad", [False, True])
def test_adam_as_in_pytorch(reference, rng, decoupled, amsgrad):
    torch = pytest.importorskip("torch")
    parameter = torch.nn.Parameter(torch.tensor(rng.standard_normal(20)))
    kind = torch.optim.AdamW if decoupled else torch.optim.Adam
    theirs = kind(
        [parameter], lr=0.1, betas=(0.8, 0.9), eps=1e-6, weight_decay=0.01, amsgrad=amsgrad
    )
    param, largest = parameter.detach().numpy().copy(), np.zeros(20) if amsgrad else None
    first, second = np.zeros(20), np.zeros(20)
    for step in range(1, 5):
        grad = rng.standard_normal(20)
        parameter.grad = torch.tensor(grad)
        theirs.step()
        reference.adam_step(
            param, grad, first, second, largest, step=step, lr=0.1, beta1=0.8, beta2=0.9,
            eps=1e-6, weight_decay=0.01, decoupled=decoupled, maximize=False,
        )  # fmt: skip
        np.testing.assert_allclose(param, parameter.detach().numpy(), rtol=1e-10)
