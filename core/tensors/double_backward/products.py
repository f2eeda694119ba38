"""Second-order rules of matrix products, linear layers and convolutions."""

from __future__ import annotations

from typing import Any

from ... import backend
from ...backend import Dims
from ...ops import conv, linear
from ...ops.maps import Trilinear
from ..graph import apply
from . import Rule
from .activations import passed
from .functions import complex_too, conjugate
from .node import Node


def adjoint(t: Any) -> Any:
    """The conjugate transpose of matrices."""
    return conjugate(t.transpose(-1, -2))


@complex_too
def _matmul(node: Node, grad: Any) -> tuple[Any, Any]:
    a, b = node.saved
    return (
        grad @ adjoint(node.input(1, b)) if node.needs[0] else None,
        adjoint(node.input(0, a)) @ grad if node.needs[1] else None,
    )


@complex_too
def _dot(node: Node, grad: Any) -> tuple[Any, Any]:
    a, b = (node.input(i, array) for i, array in enumerate(node.saved))
    if a.ndim == 1 == b.ndim:
        return grad * conjugate(b), grad * conjugate(a)
    if a.ndim == 1:  # (k) @ (..., k, n) -> (..., n)
        grad_a = (conjugate(b) @ grad.unsqueeze(-1)).squeeze(-1)
        return grad_a, conjugate(a).unsqueeze(-1) * grad.unsqueeze(-2)
    # (..., m, k) @ (k) -> (..., m)
    grad_b = (adjoint(a) @ grad.unsqueeze(-1)).squeeze(-1)
    return grad.unsqueeze(-1) * conjugate(b), grad_b


def _linear(node: Node, grad: Any) -> tuple[Any, ...]:
    x, weight, y = node.saved
    if node.op.relu:
        grad = passed(grad, y)
    width = grad.shape[-1]
    grad_x = grad_weight = grad_bias = None
    if node.needs[0]:
        grad_x = grad @ node.input(1, weight)
    if node.needs[1]:
        inputs = node.input(0, x)
        rows = grad.reshape(-1, width)
        grad_weight = rows.t() @ inputs.reshape(-1, inputs.shape[-1])
    if node.needs[2]:
        axes = tuple(range(grad.ndim - 1))
        grad_bias = grad.sum(axes) if axes else grad
    return grad_x, grad_weight, grad_bias


def convolution(op: Any, x_shape: Any, weight_shape: Any) -> tuple[Any, Any, Any]:
    """The three maps of the form <grad, conv(x, weight)>: for x, for weight, for the output."""
    geometry: tuple[Dims, Dims, Dims, int] = op.geometry

    def for_x(weight: Any, grad: Any) -> Any:
        return backend.of(grad).conv_backward_input(grad, weight, x_shape, *geometry)

    def for_weight(x: Any, grad: Any) -> Any:
        kernels = backend.of(grad)
        return kernels.conv_backward_weight(grad, x, weight_shape, *geometry, False, None)[0]

    def forward(x: Any, weight: Any) -> Any:
        return backend.of(x).conv_forward(x, weight, None, *geometry, None)

    return for_x, for_weight, forward


def channel_sum(grad: Any) -> Any:
    """The sum over everything but the channels (axis 1)."""
    return grad.sum(tuple(i for i in range(grad.ndim) if i != 1))


def _conv(node: Node, grad: Any) -> tuple[Any, ...]:
    op, (x, weight, y) = node.op, node.saved
    if op.relu:
        grad = passed(grad, y)
    maps = convolution(op, op.x_shape, weight.shape)
    grad_x = grad_weight = grad_bias = None
    if node.needs[0]:
        grad_x = apply(Trilinear(maps, 0, op), node.input(1, weight), grad)
    if node.needs[1]:
        grad_weight = apply(Trilinear(maps, 1, op), node.input(0, x), grad)
    if node.needs[2]:
        grad_bias = channel_sum(grad)
    return grad_x, grad_weight, grad_bias


def _conv_transpose(node: Node, grad: Any) -> tuple[Any, ...]:
    """A transposed convolution is the map "for x" of the form, so x and grad change places."""
    op, (x, weight) = node.op, node.saved
    maps = convolution(op, tuple(grad.shape), weight.shape)
    grad_x = grad_weight = grad_bias = None
    if node.needs[0]:
        grad_x = apply(Trilinear(maps, 2, op), grad, node.input(1, weight))
    if node.needs[1]:
        grad_weight = apply(Trilinear(maps, 1, op), grad, node.input(0, x))
    if node.needs[2]:
        grad_bias = channel_sum(grad)
    return grad_x, grad_weight, grad_bias


def _trilinear(node: Node, grad: Any) -> tuple[Any, ...]:
    op = node.op
    at = {place: node.input(i, node.saved[i]) for i, place in enumerate(op.places)}
    at[op.role] = grad
    results = []
    for i, place in enumerate(op.places):
        others = [at[j] for j in range(3) if j != place]
        results.append(apply(Trilinear(op.maps, place, op.of), *others) if node.needs[i] else None)
    return tuple(results)


RULES: dict[type[Any], Rule] = {
    linear.MatMul: _matmul,
    linear.Dot: _dot,
    linear.Linear: _linear,
    conv.Conv: _conv,
    conv.ConvTranspose: _conv_transpose,
    Trilinear: _trilinear,
}
