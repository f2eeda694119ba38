"""Second-order rules of elementwise functions of two inputs, of scans, and of cutting ranges."""

from __future__ import annotations

from typing import Any

import numpy as np

from ...backend.arrays import as_array
from ...ops import pairs as ops
from ...ops import scan, shrink
from .. import arithmetic as fn
from ..graph import apply
from ..tensor import Tensor
from . import Rule
from .composition import gradients_of, running
from .elementwise import constant_slope
from .functions import complex_too, conjugate, masked, times
from .node import Node


def _both(node: Node) -> tuple[Any, Any]:
    return node.input(0, node.saved[0]), node.input(1, node.saved[1])


def _atan2(node: Node, grad: Any) -> tuple[Any, Any]:
    a, b = _both(node)
    square = a * a + b * b
    zero = np.equal(square._array, 0)
    share = masked(grad / fn.where(node.constant(zero), 1.0, square), ~zero)
    return share * b, -share * a


def _hypot(node: Node, grad: Any) -> tuple[Any, Any]:
    a, b = _both(node)
    share = grad / node.output(node.saved[2])
    return share * a, share * b


def _logaddexp(node: Node, grad: Any) -> tuple[Any, Any]:
    a, b = _both(node)
    rate = node.op.rate
    return grad * ((a - b) * rate).sigmoid(), grad * ((b - a) * rate).sigmoid()


def _copysign(node: Node, grad: Any) -> tuple[Any, Any]:
    a, b = node.saved
    slope = np.where(np.equal(a, 0), 0, np.where(np.signbit(a) != np.signbit(b), -1, 1))
    return times(grad, slope), node.constant(np.zeros_like(grad._array)) if node.needs[1] else None


def _fmax(node: Node, grad: Any) -> tuple[Any, Any]:
    a, b = node.saved
    chosen = node.op.first(a, b) | np.isnan(b)
    return masked(grad, chosen), masked(grad, ~chosen)


@complex_too
def _xlogy(node: Node, grad: Any) -> tuple[Any, Any]:
    a, b = _both(node)
    zero = np.equal(node.saved[0], 0) & np.less_equal(np.real(node.saved[1]), 0)
    grad_a = None
    if node.needs[0]:
        wide = b if isinstance(b, Tensor) else node.constant(as_array(b, grad._array.dtype))
        log = fn.where(node.constant(zero), 1.0, wide).log()
        grad_a = masked(grad * conjugate(log), ~zero)
    return grad_a, grad * conjugate(a / b) if node.needs[1] else None


def _mantissa(node: Node, grad: Any) -> tuple[Any]:
    (exponent,) = node.saved
    return (times(grad, np.ldexp(np.ones(exponent.shape), -exponent)),)


def _scan(function: Any) -> Rule:
    """The rule of a scan by an associative function of two tensors."""

    def rule(node: Node, grad: Any) -> tuple[Any, ...]:
        axis = node.op.axis

        def forward(x: Any) -> tuple[Any]:
            return (running(function, x.movedim(axis, -1)).movedim(-1, axis),)

        return gradients_of(forward, [node.input(0, node.saved[0])], [grad])

    return rule


RULES: dict[type[Any], Rule] = {
    ops.Atan2: _atan2,
    ops.Hypot: _hypot,
    ops.LogAddExp: _logaddexp,
    ops.LogAddExp2: _logaddexp,
    ops.CopySign: _copysign,
    ops.Fmax: _fmax,
    ops.Fmin: _fmax,
    ops.XLogY: _xlogy,
    ops.Mantissa: _mantissa,
    scan.CumProd: complex_too(_scan(lambda a, b: a * b)),
    scan.LogCumSumExp: _scan(lambda a, b: apply(ops.LogAddExp(), a, b)),
    shrink.Hardshrink: constant_slope(lambda op, x: op.derivative(x)),
    shrink.Softshrink: constant_slope(lambda op, x: op.derivative(x)),
    shrink.Threshold: constant_slope(lambda op, x: op.derivative(x)),
}
