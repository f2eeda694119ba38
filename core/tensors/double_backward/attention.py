"""Second-order rules of attention."""

from __future__ import annotations

from typing import Any

from ...ops import attention as ops
from ...ops.elementwise import Add
from ...ops.softmax import Softmax
from .. import joining
from ..tensor import Tensor
from . import Rule
from .node import Node


def _weights(node: Node, scores: Any, probabilities: Any, mask: int) -> Any:
    """The saved softmax of the scores, connected to them and to the mask, input number `mask`."""
    parents, slots = [scores._node], [0]
    if node.op.needs[mask]:
        parents.append(node.op.parents[mask])
        slots.append(node.op.slots[mask])
    total = Add()  # of scores and mask; its value is needed by nobody, the softmax is known
    total.needs = (True,) * len(parents)
    total.link(tuple(parents), tuple(slots))
    total.shape, total.dtype = probabilities.shape, probabilities.dtype
    softmax = Softmax(probabilities.ndim - 1)
    softmax.needs, softmax.saved = (True,), (probabilities,)
    softmax.link((total,), (0,))
    softmax.shape, softmax.dtype = probabilities.shape, probabilities.dtype
    weights = Tensor._new(probabilities)
    weights._node, weights._requires_grad = softmax, True
    return weights


def _gradients(
    node: Node, grad: Any, q: Any, k: Any, v: Any, saved: Any, mask: int
) -> tuple[Any, Any, Any, Any]:
    """Gradients for q, k, v and the scores."""
    probabilities, keep = saved
    scores = (q @ k.transpose(-1, -2)) * node.op.scale
    weights = node.constant(probabilities)
    if scores.requires_grad or node.op.needs[mask]:
        if scores._node is None:  # only the mask requires a gradient
            scores = scores.requires_grad_(True) * 1
        weights = _weights(node, scores, probabilities, mask)
    share = grad @ v.transpose(-1, -2)
    used = weights
    if keep is not None:
        factors = node.constant(keep)
        share, used = share * factors, weights * factors
    inner = share * weights
    to_scores = inner - weights * inner.sum(-1, keepdim=True)
    to_products = to_scores * node.op.scale
    return (
        to_products @ k,
        to_products.transpose(-1, -2) @ q,
        used.transpose(-1, -2) @ grad,
        to_scores,
    )


def _attention(node: Node, grad: Any) -> tuple[Any, ...]:
    *arrays, probabilities, keep, _ = node.saved
    q, k, v = (node.input(i, a) for i, a in enumerate(arrays))
    to_q, to_k, to_v, to_mask = _gradients(node, grad, q, k, v, (probabilities, keep), 3)
    return to_q, to_k, to_v, to_mask if node.needs[3] else None


def _heads(node: Node, grad: Any) -> tuple[Any, None]:
    op, (array, probabilities, keep) = node.op, node.saved
    order = (2, 1, 3, 0, 4) if op.steps_first else (2, 0, 3, 1, 4)
    a, b, features = array.shape
    size = features // (3 * op.heads)

    def parts(x: Any, count: int) -> Any:
        return x.reshape(a, b, count, op.heads, size).permute(order)

    q, k, v = parts(node.input(0, array), 3)
    grad = parts(grad, 1)[0]
    found = _gradients(node, grad, q, k, v, (probabilities, keep), 1)
    back = tuple(order.index(i) for i in range(5))
    return joining.stack(found[:3]).permute(back).reshape(a, b, features), None


RULES: dict[type[Any], Rule] = {
    ops.Attention: _attention,
    ops.HeadsAttention: _heads,
}
