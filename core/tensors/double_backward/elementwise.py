"""Second-order rules of elementwise ops: arithmetic, powers, comparisons, elementary functions."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ...ops import elementwise as ops
from ...ops.transfer import Move
from .. import arithmetic as fn
from ..tensor import Tensor
from . import Rule
from .functions import complex_too, conjugate, masked, times
from .node import Node


def from_input(derivative: Any) -> Rule:
    """The rule of an op that saved its input, from the derivative as a tensor function of it."""

    def rule(node: Node, grad: Any) -> tuple[Any]:
        return (grad * conjugate(derivative(node.input(0, node.saved[0]))),)

    return complex_too(rule)


def from_output(derivative: Any) -> Rule:
    """Like `from_input`, for an op that saved its output."""

    def rule(node: Node, grad: Any) -> tuple[Any]:
        return (grad * conjugate(derivative(node.output(node.saved[0]))),)

    return complex_too(rule)


def constant_slope(derivative: Any) -> Rule:
    """The rule of an op whose derivative is constant where it exists; `derivative` sees arrays."""

    def rule(node: Node, grad: Any) -> tuple[Any]:
        return (times(grad, derivative(node.op, node.saved[0])),)

    return rule


@complex_too
def unchanged(node: Node, grad: Any) -> tuple[Any, ...]:
    """The gradient passes as it is, to every input."""
    return (grad,) * len(node.needs)


@complex_too
def _move(node: Node, grad: Any) -> tuple[Any, ...]:
    return (grad.to(node.op.source),)


@complex_too
def _add(node: Node, grad: Any) -> tuple[Any, ...]:
    return grad, _scaled(grad, node.op.alpha) if node.needs[1] else None


@complex_too
def _sub(node: Node, grad: Any) -> tuple[Any, ...]:
    return grad, _scaled(grad, -node.op.alpha) if node.needs[1] else None


def _scaled(grad: Any, factor: Any) -> Any:
    return grad if factor == 1 else grad * conjugate(factor)


@complex_too
def _mul(node: Node, grad: Any) -> tuple[Any, ...]:
    a, b = node.saved
    return (
        grad * conjugate(node.input(1, b)) if node.needs[0] else None,
        grad * conjugate(node.input(0, a)) if node.needs[1] else None,
    )


@complex_too
def _div(node: Node, grad: Any) -> tuple[Any, ...]:
    b, y = node.saved
    grad_a = grad / conjugate(node.input(1, b))
    return grad_a, -grad_a * conjugate(node.output(y)) if node.needs[1] else None


def _pow(node: Node, grad: Any) -> tuple[Any, ...]:
    a, b, y = node.saved
    base, exponent = node.input(0, a), node.input(1, b)
    grad_a = grad_b = None
    if node.needs[0]:
        if isinstance(exponent, Tensor):
            zero = np.equal(b, 0)
            safe = fn.where(node.constant(zero), 1.0, exponent)
            grad_a = grad * masked(exponent * base ** (safe - 1), ~zero)
        elif exponent == 0:
            grad_a = masked(grad, False)
        else:
            grad_a = grad * (exponent * base ** (exponent - 1))
    if node.needs[1]:
        if not isinstance(base, Tensor):
            base = node.constant(
                np.full_like(grad._array, a, grad._array.dtype, shape=grad._array.shape, order="C")
            )
        zero = np.equal(base._array, 0) & np.greater_equal(b, 0)
        log = fn.where(node.constant(zero), 1.0, base).log()
        grad_b = masked(grad * (node.output(y) * log), ~zero)
    return grad_a, grad_b


def _maximum(node: Node, grad: Any) -> tuple[Any, ...]:
    a, b = node.saved
    share = np.where(np.equal(a, b), 0.5, np.where(node.op.first(a, b), 1.0, 0.0))
    return times(grad, share), times(grad, 1 - share) if node.needs[1] else None


@complex_too
def _where(node: Node, grad: Any) -> tuple[Any, ...]:
    (condition,) = node.saved
    return (
        None,
        masked(grad, condition) if node.needs[1] else None,
        masked(grad, ~condition) if node.needs[2] else None,
    )


def _clamp(node: Node, grad: Any) -> tuple[Any]:
    op, (x,) = node.op, node.saved
    above, below = (np.greater_equal, np.less_equal) if op.at_bounds else (np.greater, np.less)
    inside = np.ones(np.shape(x), bool) if op.low is None else above(x, op.low)
    if op.high is not None:
        inside = inside & below(x, op.high)
    return (times(grad, inside),)


@complex_too
def _neg(node: Node, grad: Any) -> tuple[Any]:
    return (-grad,)


def _flat(node: Node, grad: Any) -> tuple[Any]:
    return (node.constant(np.zeros_like(grad._array)),)


RULES: dict[type[Any], Rule] = {
    ops.Add: _add,
    ops.Sub: _sub,
    ops.Mul: _mul,
    ops.Div: _div,
    ops.Pow: _pow,
    ops.Maximum: _maximum,
    ops.Minimum: _maximum,
    ops.Where: _where,
    ops.Cast: unchanged,  # the run casts back
    ops.Clone: unchanged,
    Move: _move,
    ops.Clamp: _clamp,
    ops.Neg: _neg,
    ops.Flat: _flat,
    ops.Exp: from_output(lambda y: y),
    ops.Expm1: from_output(lambda y: y + 1),
    ops.Log: from_input(lambda x: 1 / x),
    ops.Log2: from_input(lambda x: 1 / (x * math.log(2))),
    ops.Log10: from_input(lambda x: 1 / (x * math.log(10))),
    ops.Log1p: from_input(lambda x: 1 / (1 + x)),
    ops.Sqrt: from_output(lambda y: 0.5 / y),
    ops.Rsqrt: from_output(lambda y: -0.5 * y * y * y),
    ops.Reciprocal: from_output(lambda y: -y * y),
    ops.Square: from_input(lambda x: 2 * x),
    ops.Sin: from_input(lambda x: x.cos()),
    ops.Cos: from_input(lambda x: -x.sin()),
    ops.Tan: from_output(lambda y: 1 + y * y),
    ops.Tanh: from_output(lambda y: 1 - y * y),
}
