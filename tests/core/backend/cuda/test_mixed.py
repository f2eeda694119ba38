"""Tensors of the CPU and of a GPU in one function: what PyTorch allows, and its error."""

from __future__ import annotations

import numpy as np
import pytest

import allgrad as ag
import allgrad.nn.functional as F
from allgrad import nn

pytestmark = pytest.mark.usefixtures("gpu")

MIXED = {
    "add": lambda a, b: a + b,
    "activations": lambda a, b: a.view(1, 2, 3) + b.view(1, 2, 3),
    "compare": lambda a, b: a < b,
    "matmul": lambda a, b: a @ b.T,
    "cat": lambda a, b: ag.cat([a, b]),
    "stack": lambda a, b: ag.stack([a, b]),
    "where": lambda a, b: ag.where(a > 0, a, b),
    "in_place": lambda a, b: a.mul_(b),
    "linear": lambda a, b: F.linear(a, b),
    "mse_loss": lambda a, b: F.mse_loss(a, b),
    "cross_entropy": lambda a, b: F.cross_entropy(a, b.argmax(1)),
    "embedding": lambda a, b: F.embedding(b.argmax(1), a),
    "layer_norm": lambda a, b: F.layer_norm(a, (3,), b[0]),
    "lerp": lambda a, b: a.lerp(b, 0.5),
    "addcmul": lambda a, b: a.addcmul(a, b),
    "gather": lambda a, b: a.gather(1, b.argmax(1, keepdim=True)),
    "weight": lambda a, b: F.binary_cross_entropy_with_logits(a, a, pos_weight=b[0]),
    "dot": lambda a, b: a.view(-1).dot(b.view(-1)),
    "einsum": lambda a, b: ag.einsum("ij,kj->ik", a, b),
    "masked_fill": lambda a, b: a.masked_fill(b > 0, 0.0),
    "index_add": lambda a, b: a.index_add(0, ag.tensor([0, 1], device=a.device), b),
}


@pytest.mark.parametrize("tracked", [False, True])
@pytest.mark.parametrize("name", MIXED)
def test_two_devices(name, tracked):
    here, there = ag.randn(2, 3), ag.randn(2, 3, device="cuda")
    with pytest.raises(RuntimeError, match="Expected all tensors to be on the same device") as e:
        MIXED[name](here.clone(), there)
    assert "cuda:0 and cpu!" in str(e.value)
    assert ".to('cuda:0')" in str(e.value)
    first = there.requires_grad_(tracked) * 1
    with pytest.raises(RuntimeError, match="Expected all tensors to be on the same device"):
        MIXED[name](first, here)
    assert (there * 2).is_cuda  # nothing is left behind


def test_a_model_elsewhere():
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU()).cuda()
    with pytest.raises(RuntimeError, match=r"Conv.*input 0 of shape \(1, 3, 5, 5\) on cpu"):
        net(ag.randn(1, 3, 5, 5))
    with pytest.raises(RuntimeError, match="Expected all tensors to be on the same device"):
        net.cpu()(ag.randn(1, 3, 5, 5, device="cuda"))


def test_numbers_of_the_cpu():
    number = ag.tensor(2.0, requires_grad=True)
    x = ag.tensor([1.0, 3.0], device="cuda", requires_grad=True)
    for y, slope in (
        (x * number, 4),
        (number * x, 4),
        (x + number, 2),
        (number / x, 4 / 3),
        (ag.where(x > 2, x, number), 1),
        (x.lerp(x * 0, number), -4),
    ):
        number.grad = x.grad = None
        y.sum().backward()
        assert y.is_cuda
        assert number.grad.is_cpu
        assert number.grad.item() == pytest.approx(slope)
        assert x.grad.is_cuda
    assert (x > number).tolist() == [False, True]
    assert (number == x).is_cuda
    y = x.detach().clone()
    y += number.detach()
    y[0] = number.detach()
    assert y.tolist() == [2, 5]
    assert (x.detach() * np.float32(2)).tolist() == [2, 6]
    with pytest.raises(RuntimeError, match="same device"):
        ag.ones(2) * ag.tensor(2.0, device="cuda")
    with pytest.raises(RuntimeError, match="same device"):
        ag.tensor(2.0).add_(ag.tensor(3.0, device="cuda"))


def test_double_backward_of_a_number():
    number = ag.tensor(3.0, requires_grad=True)
    x = ag.ones(2, device="cuda", requires_grad=True)
    (slope,) = ag.autograd.grad((x * number**2).sum(), number, create_graph=True)
    assert slope.is_cpu
    slope.backward()
    assert (number.grad.item(), x.grad.tolist()) == (4, [6, 6])


def test_indices():
    x = ag.arange(6, device="cuda").view(2, 3)
    assert x[ag.tensor([1, 0])].tolist() == [[3, 4, 5], [0, 1, 2]]
    assert x[:, np.array([2])].tolist() == [[2], [5]]
    assert x[ag.tensor([[True, False, True], [False] * 3])].tolist() == [0, 2]
    x[ag.tensor([0]), 1] = 7
    x[1] = ag.tensor([9, 9, 9])
    assert x.tolist() == [[0, 7, 2], [9, 9, 9]]
    with pytest.raises(RuntimeError, match="same device"):
        x.cpu()[ag.tensor([0], device="cuda")]
    here = ag.zeros(2)
    here[0] = ag.tensor(4.0, device="cuda")
    here[1:] = ag.tensor([5.0], device="cuda")
    assert here.tolist() == [4, 5]
    with pytest.raises(RuntimeError, match="same device"):
        x[ag.tensor([0, 1])] = ag.zeros(2, 3, dtype=ag.int64)


def test_gradients_elsewhere():
    x = ag.ones(2, device="cuda", requires_grad=True)
    with pytest.raises(RuntimeError, match=r"backward: .*cuda:0.*cpu"):
        (x * 2).backward(ag.ones(2))
    with pytest.raises(RuntimeError, match=r"grad: .*cuda:0.*cpu"):
        x.grad = ag.ones(2)
    (x * 2).backward(ag.ones(2, device="cuda"))
    assert x.grad.tolist() == [2, 2]


def test_other_errors_stay():
    class Wrong(ag.autograd.Function):
        @staticmethod
        def forward(ctx, x, y):
            raise TypeError("mine")

        @staticmethod
        def backward(ctx, grad):
            raise AssertionError

    x = ag.ones(2, device="cuda", requires_grad=True)
    with pytest.raises(TypeError, match=r"^mine$"):
        Wrong.apply(x, ag.ones(2))
    with pytest.raises(RuntimeError, match="do not broadcast"):
        x + ag.ones(3, device="cuda")
    with pytest.raises(TypeError, match="expected a tensor or a number"):
        ag.add(x, "1")
