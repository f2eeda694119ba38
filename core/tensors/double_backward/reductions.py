"""Second-order rules of reductions and of softmax."""

from __future__ import annotations

from typing import Any

import numpy as np

from ...backend.arrays import as_array
from ...ops import reduce as ops
from ...ops import softmax
from ...ops.maps import LinearMap
from .. import arithmetic as fn
from .. import joining
from ..graph import apply
from . import Rule
from .composition import running
from .functions import complex_too, masked, times, widened
from .node import Node
from .shapes import linear


@complex_too
def _sum(node: Node, grad: Any) -> tuple[Any]:
    op = node.op
    return (widened(grad, op.input_shape, op.axes, op.keepdim),)


@complex_too
def _mean(node: Node, grad: Any) -> tuple[Any]:
    op = node.op
    return (widened(grad / op.count, op.input_shape, op.axes, op.keepdim),)


def _prod(node: Node, grad: Any) -> tuple[Any]:
    """The product of the others, by prefix and suffix products: exact where elements are zero."""
    op = node.op
    x = node.input(0, node.saved[0])
    if not x.numel():
        return (masked(grad.sum(), False) + masked(x, False),)
    flat = x.reshape(-1) if op.axis is None else x.movedim(op.axis, -1)
    if op.axis is None:
        grad = grad.reshape(1)
    else:
        grad = grad.movedim(op.axis, -1) if op.keepdim else grad.unsqueeze(-1)
    one = node.constant(
        np.ones_like(flat._array, flat._array.dtype, shape=(*flat.shape[:-1], 1), order="C")
    )
    before = running(_product, joining.cat([one, flat[..., :-1]], -1))
    after = running(_product, joining.cat([one, flat.flip(-1)[..., :-1]], -1)).flip(-1)
    result = grad * before * after
    if op.axis is None:
        return (result.reshape(tuple(x.shape)),)
    return (result.movedim(-1, op.axis),)


def _product(a: Any, b: Any) -> Any:
    return a * b


def _extreme(node: Node, grad: Any) -> tuple[Any]:
    op, (x, y) = node.op, node.saved
    top = ops.expanded(as_array(y), x.shape, op.axes, op.keepdim)
    hit = np.equal(x, top) | (np.isnan(x) & np.isnan(top))
    count = hit.sum(axis=op.axes, keepdims=op.keepdim)
    share = grad / node.constant(as_array(count, grad._array.dtype))
    return (times(widened(share, x.shape, op.axes, op.keepdim), hit),)


def _centred(node: Node) -> Any:
    """The input minus its mean, as a tensor connected to the input."""
    op, centred = node.op, node.saved[0]

    def centre(x: Any) -> Any:
        return x - x.mean(axis=op.axes, keepdims=True)

    return node.derived(0, centred, LinearMap(centre, centre, op))


def _var(node: Node, grad: Any) -> tuple[Any]:
    op = node.op
    centred = _centred(node)
    scale = grad * 2 / _number(op.count)
    return (centred * widened(scale, tuple(centred.shape), op.axes, op.keepdim),)


def _std(node: Node, grad: Any) -> tuple[Any]:
    op, y = node.op, node.saved[1]
    centred = _centred(node)
    zero = np.equal(y, 0)
    scale = masked(grad / (_safe(node, y, zero) * _number(op.count)), ~zero)
    return (centred * widened(scale, tuple(centred.shape), op.axes, op.keepdim),)


def _number(count: float) -> float:
    return float(count) if count else float("nan")  # x / 0 is nan or inf: no derivative


def _safe(node: Node, y: Any, zero: Any) -> Any:
    """The saved output as a tensor, 1 where it is zero, so that nothing divides by zero."""
    return fn.where(node.constant(zero), 1.0, node.output(y))


def _norm(node: Node, grad: Any) -> tuple[Any]:
    op, (x_array, y) = node.op, node.saved
    x, zero = node.input(0, x_array), np.equal(y, 0)
    scale = masked(grad / _safe(node, y, zero) ** (op.p - 1), ~zero)
    if op.p == 2:
        slope = x
    else:
        at_zero = node.constant(np.equal(x_array, 0))
        size = fn.where(at_zero, 1.0, x.abs())
        slope = times(size ** (op.p - 1), np.sign(x_array))
    return (slope * widened(scale, tuple(x.shape), op.axes, op.keepdim),)


def _logsumexp(node: Node, grad: Any) -> tuple[Any]:
    op, (x_array, y) = node.op, node.saved
    x = node.input(0, x_array)
    shape = tuple(x.shape)
    wide = widened(node.output(y), shape, op.axes, op.keepdim)
    return ((x - wide).exp() * widened(grad, shape, op.axes, op.keepdim),)


def _softmax(node: Node, grad: Any) -> tuple[Any]:
    y = node.output(node.saved[0])
    inner = grad * y
    return (inner - y * inner.sum(node.op.axis, keepdim=True),)


def _log_softmax(node: Node, grad: Any) -> tuple[Any]:
    y = node.output(node.saved[0])
    return (grad - y.exp() * grad.sum(node.op.axis, keepdim=True),)


def _pick(node: Node, grad: Any) -> tuple[Any, None]:
    return apply(linear(node, 0, node.saved[0]), grad), None


def _cumsum(node: Node, grad: Any) -> tuple[Any]:
    return (apply(linear(node, 0), grad),)


RULES: dict[type[Any], Rule] = {
    ops.Sum: _sum,
    ops.Mean: _mean,
    ops.Prod: _prod,
    ops.Extreme: _extreme,
    ops.Pick: _pick,
    ops.Var: _var,
    ops.Std: _std,
    ops.Norm: _norm,
    ops.LogSumExp: _logsumexp,
    ops.CumSum: complex_too(_cumsum),
    softmax.Softmax: _softmax,
    softmax.LogSoftmax: _log_softmax,
}
