"""Second-order rules of activation functions."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ...ops import activation as ops
from ...ops.dropout import Dropout
from .. import arithmetic as fn
from . import Rule
from .elementwise import constant_slope, from_input, from_output
from .functions import masked, sum_to, times
from .node import Node

_SQRT_2_PI = math.sqrt(2 / math.pi)
_INV_SQRT_2PI = 1 / math.sqrt(2 * math.pi)


def passed(grad: Any, y: Any) -> Any:
    """`grad` where a ReLU with result `y` (an array) passed, else 0."""
    return masked(grad, np.greater(y, 0))


def _relu(node: Node, grad: Any) -> tuple[Any]:
    return (passed(grad, node.saved[0]),)


def _add_activations(node: Node, grad: Any) -> tuple[Any, Any]:
    if node.op.relu:
        grad = passed(grad, node.saved[0])
    return grad, grad


def _parameterised(derivative: Any) -> Rule:
    """The rule of an op that saved its input, from its derivative, a function of (op, input)."""

    def rule(node: Node, grad: Any) -> tuple[Any]:
        return (grad * derivative(node.op, node.input(0, node.saved[0])),)

    return rule


def _elu(op: Any, x: Any) -> Any:
    low = op.scale * op.alpha * op.rate * (x.clamp(max=0.0) * op.rate).exp()
    return fn.where(x > 0, float(op.scale), low)


def _gelu(op: Any, x: Any) -> Any:
    if op.approximate == "tanh":
        t = (_SQRT_2_PI * (x + 0.044715 * x**3)).tanh()
        inner = _SQRT_2_PI * (1 + 3 * 0.044715 * x * x)
        return 0.5 * (1 + t) + 0.5 * x * (1 - t * t) * inner
    density = _INV_SQRT_2PI * (-0.5 * x * x).exp()
    return 0.5 * (1 + (x * math.sqrt(0.5)).erf()) + x * density


def _silu(op: Any, x: Any) -> Any:
    s = x.sigmoid()
    return s * (1 + x * (1 - s))


def _softplus(op: Any, x: Any) -> Any:
    return fn.where(x * op.beta > op.threshold, 1.0, (x * op.beta).sigmoid())


def _prelu(node: Node, grad: Any) -> tuple[Any, Any]:
    x, weight = (node.input(i, a) for i, a in enumerate(node.saved))
    wide = weight.reshape(()) if weight.numel() == 1 else weight
    if wide.ndim:
        wide = wide.reshape(-1, *(1,) * (x.ndim - 2))
    grad_x = fn.where(x > 0, grad, wide * grad) if node.needs[0] else None
    if not node.needs[1]:
        return grad_x, None
    part = grad * masked(x, node.saved[0] < 0)
    return grad_x, sum_to(part, tuple(wide.shape)).reshape(tuple(weight.shape))


def _dropout(node: Node, grad: Any) -> tuple[Any]:
    return (times(grad, node.op.factors_like(grad._array)),)


RULES: dict[type[Any], Rule] = {
    ops.ReLU: _relu,
    ops.AddActivations: _add_activations,
    ops.Sigmoid: from_output(lambda y: y * (1 - y)),
    ops.LogSigmoid: from_input(lambda x: (-x).sigmoid()),
    ops.LeakyReLU: constant_slope(lambda op, x: np.where(x > 0, 1.0, op.slope)),
    ops.PReLU: _prelu,
    ops.ELU: _parameterised(_elu),
    ops.GELU: _parameterised(_gelu),
    ops.SiLU: _parameterised(_silu),
    ops.Softplus: _parameterised(_softplus),
    ops.Erf: from_input(lambda x: 2 / math.sqrt(math.pi) * (-x * x).exp()),
    Dropout: _dropout,
}
