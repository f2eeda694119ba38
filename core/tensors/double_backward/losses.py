"""Second-order rules of losses."""

from __future__ import annotations

from typing import Any

import numpy as np

from ...backend.arrays import as_array, is_array
from ...ops import loss, softmax
from ...ops.maps import LinearMap
from .. import arithmetic as fn
from . import Rule
from .functions import masked, times
from .node import Node


def pair_loss(derivatives: Any) -> Rule:
    """The rule of a `PairLoss`.

    Args:
        derivatives: (op, x, t, needs) -> derivatives of the loss of each element, as tensors or
            arrays, for the two inputs; None for one that is not needed.
    """

    def rule(node: Node, grad: Any) -> tuple[Any, ...]:
        op, (x, t) = node.op, node.saved
        if op.reduction == "mean":
            grad = grad / max(np.broadcast(x, t).size, 1)
        slopes = derivatives(op, node.input(0, x), node.input(1, t), node.needs)
        return tuple(
            None if slope is None or not needed
            else times(grad, slope) if is_array(slope) else grad * slope
            for slope, needed in zip(slopes, node.needs, strict=True)
        )  # fmt: skip

    return rule


def _mse(op: Any, x: Any, t: Any, needs: Any) -> Any:
    twice = 2 * (x - t)
    return twice, -twice


def _l1(op: Any, x: Any, t: Any, needs: Any) -> Any:
    sign = np.sign(x._array - t._array)
    return sign, -sign


def _smooth_l1(op: Any, x: Any, t: Any, needs: Any) -> Any:
    if op.beta == 0:
        sign = op.scale * np.sign(x._array - t._array)
        return sign, -sign
    slope = op.scale * ((x - t) / op.beta).clamp(-1.0, 1.0)
    return slope, -slope


def _bce(op: Any, x: Any, t: Any, needs: Any) -> Any:
    grad_t = None
    if needs[1]:
        grad_t = ((-x).log1p()).clamp(min=-100.0) - x.log().clamp(min=-100.0)
    return (x - t) / (x * (1 - x)).clamp(min=1e-12), grad_t


def _bce_with_logits(op: Any, x: Any, t: Any, needs: Any) -> Any:
    s = x.sigmoid()
    if op.pos_weight is None:
        return s - t, -x
    p = x._new(as_array(op.pos_weight, x._array.dtype))
    grad_t = None
    if needs[1]:  # log(1 + e**-x) = -log(sigmoid(x)); as max(-x, 0) + log1p(e**-|x|) it is safe
        soft = (-x).clamp(min=0.0) + ((-x.abs()).exp()).log1p()
        grad_t = -x + (p - 1) * soft
    return (1 - t) - (1 + (p - 1) * t) * (1 - s), grad_t


def _kl_div(op: Any, x: Any, t: Any, needs: Any) -> Any:
    grad_t = None
    if needs[1]:
        positive = t._array > 0
        safe = fn.where(t > 0, t, 1.0)
        grad_t = masked(safe.log() + 1 - x, positive)
    return -t, grad_t


def _log_softmax_of(node: Node, log_p: Any) -> Any:
    """The saved log-probabilities, connected to the logits they were computed from."""
    op = softmax.LogSoftmax(1)
    op.saved = (log_p,)
    return node.derived(0, log_p, op)


def _nll(node: Node, grad: Any) -> tuple[Any, None, None]:
    op = node.op
    # The loss is linear in the log-probabilities; the op's own backward tells the coefficients.
    plain = op.of_log_probs()
    log_p = plain.saved[0]
    shape = plain.saved[1].shape if op.reduction == "none" else ()
    coefficients = plain.backward(np.ones_like(log_p, shape=shape))[0]
    scale = grad.unsqueeze(1) if op.reduction == "none" else grad
    grad_log = times(scale, coefficients)
    if not op.logits:
        return grad_log, None, None
    p = _log_softmax_of(node, log_p).exp()
    return grad_log - p * grad_log.sum(1, keepdim=True), None, None


def _soft_target(node: Node, grad: Any) -> tuple[Any, Any, None]:
    op, (log_p, weighted, spread, count) = node.op, node.saved
    scale = grad.unsqueeze(1) if op.reduction == "none" else grad / count
    factor = spread * (1 - op.smoothing)
    logs = _log_softmax_of(node, log_p)
    grad_x = grad_target = None
    if node.needs[0]:
        target = node.derived(1, weighted, LinearMap(*(lambda t: t * factor,) * 2, op))
        total = target.sum(1, keepdim=True)
        grad_x = scale * (logs.exp() * total - target)
    if node.needs[1]:
        grad_target = times(-scale * logs, factor)
    return grad_x, grad_target, None


RULES: dict[type[Any], Rule] = {
    loss.MSE: pair_loss(_mse),
    loss.L1: pair_loss(_l1),
    loss.SmoothL1: pair_loss(_smooth_l1),
    loss.BCE: pair_loss(_bce),
    loss.BCEWithLogits: pair_loss(_bce_with_logits),
    loss.KLDiv: pair_loss(_kl_div),
    softmax.NLL: _nll,
    softmax.SoftTargetCrossEntropy: _soft_target,
}
