"""Second-order rules of normalisation layers."""

from __future__ import annotations

import math
from typing import Any

from ...ops import norm as ops
from ...ops.rms_norm import RMSNorm
from . import Rule
from .activations import passed
from .functions import sum_to
from .node import Node
from .products import channel_sum

Axes = tuple[int, ...]


def _standardised(x: Any, axes: Axes, eps: float) -> tuple[Any, Any]:
    """(x with mean 0 and variance 1 over `axes`, 1 / standard deviation), recorded."""
    centred = x - x.mean(axes, keepdim=True)
    variance = (centred * centred).mean(axes, keepdim=True)
    rstd = (variance + eps).rsqrt()
    return centred * rstd, rstd


def _through(grad: Any, normal: Any, rstd: Any, axes: Axes) -> Any:
    """The gradient for x, from the gradient for the standardised x (`normal`)."""
    mean = grad.mean(axes, keepdim=True)
    share = (grad * normal).mean(axes, keepdim=True)
    return rstd * (grad - mean - normal * share)


def _by_channel(weight: Any, ndim: int) -> Any:
    return None if weight is None else weight.reshape(-1, *(1,) * (ndim - 2))


def _times(grad: Any, weight: Any) -> Any:
    return grad if weight is None else grad * weight


def _batch_norm(node: Node, grad: Any) -> tuple[Any, Any, Any]:
    x, weight, _, _, _, bias = node.saved
    t, w = node.input(0, x), _by_channel(node.input(1, weight), x.ndim)
    axes = tuple(i for i in range(x.ndim) if i != 1)
    normal, rstd = _standardised(t, axes, node.op.eps)
    if node.op.relu:
        y = normal._array if w is None else normal._array * w._array
        grad = passed(grad, y if bias is None else y + _by_channel(bias, x.ndim))
    return (
        _through(_times(grad, w), normal, rstd, axes) if node.needs[0] else None,
        channel_sum(grad * normal) if node.needs[1] else None,
        channel_sum(grad) if node.needs[2] else None,
    )


def _batch_norm_inference(node: Node, grad: Any) -> tuple[Any, Any, Any]:
    op, (x, weight, y) = node.op, node.saved
    if op.relu:
        grad = passed(grad, y)
    mean = _by_channel(node.constant(op.mean), x.ndim)
    rstd = (_by_channel(node.constant(op.var), x.ndim) + op.eps) ** -0.5
    w = _by_channel(node.input(1, weight), x.ndim)
    grad_weight = None
    if node.needs[1]:
        grad_weight = channel_sum(grad * ((node.input(0, x) - mean) * rstd))
    return (
        _times(grad, w) * rstd if node.needs[0] else None,
        grad_weight,
        channel_sum(grad) if node.needs[2] else None,
    )


def _layer_norm(node: Node, grad: Any) -> tuple[Any, Any, Any]:
    op, (x, weight, *_) = node.op, node.saved
    axes = tuple(range(x.ndim - op.axes_count, x.ndim))
    inner = x.shape[x.ndim - op.axes_count :]
    normal, rstd = _standardised(node.input(0, x), axes, op.eps)
    w = node.input(1, weight)
    return (
        _through(_times(grad, w), normal, rstd, axes) if node.needs[0] else None,
        sum_to(grad * normal, inner) if node.needs[1] else None,
        sum_to(grad, inner) if node.needs[2] else None,
    )


def _group_norm(node: Node, grad: Any) -> tuple[Any, Any, Any]:
    op, (x, weight, *_) = node.op, node.saved
    size = math.prod(x.shape[1:]) // op.num_groups
    groups = (x.shape[0], op.num_groups, size)
    t = node.input(0, x).reshape(groups)
    normal, rstd = _standardised(t, (2,), op.eps)
    w = _by_channel(node.input(1, weight), x.ndim)
    grad_x = grad_weight = None
    if node.needs[0]:
        inner = _times(grad, w).reshape(groups)
        grad_x = _through(inner, normal, rstd, (2,)).reshape(x.shape)
    if node.needs[1]:
        grad_weight = channel_sum(grad * normal.reshape(x.shape))
    return grad_x, grad_weight, channel_sum(grad) if node.needs[2] else None


def _rms_norm(node: Node, grad: Any) -> tuple[Any, Any]:
    op, (x, weight, *_) = node.op, node.saved
    axes = tuple(range(x.ndim - op.axes_count, x.ndim))
    t, w = node.input(0, x), node.input(1, weight)
    rstd = ((t * t).mean(axes, keepdim=True) + op.eps).rsqrt()
    grad_x = None
    if node.needs[0]:
        inner = _times(grad, w)
        grad_x = rstd * inner - t * ((inner * t).mean(axes, keepdim=True) * rstd**3)
    grad_weight = sum_to(grad * t * rstd, weight.shape) if node.needs[1] else None
    return grad_x, grad_weight


RULES: dict[type[Any], Rule] = {
    ops.BatchNorm: _batch_norm,
    ops.BatchNormInference: _batch_norm_inference,
    ops.LayerNorm: _layer_norm,
    ops.GroupNorm: _group_norm,
    RMSNorm: _rms_norm,
}
