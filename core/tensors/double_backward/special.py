"""Second-order rules of trigonometric, hyperbolic and special functions."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ...ops import special
from ...ops import trigonometric as ops
from .. import arithmetic as fn
from ..graph import apply
from . import Rule
from .elementwise import constant_slope, from_input, from_output
from .functions import masked
from .node import Node


def _polygamma(node: Node, grad: Any) -> tuple[Any]:
    return (grad * apply(special.Polygamma(node.op.n + 1), node.input(0, node.saved[0])),)


def _logit(node: Node, grad: Any) -> tuple[Any]:
    x = node.input(0, node.saved[0])
    slope = 1 / (x * (1 - x))
    low, outside = (0.0, math.nan) if node.op.eps is None else (node.op.eps, 0.0)
    inside = np.greater_equal(x._array, low) & np.less_equal(x._array, 1 - low)
    return (grad * fn.where(node.constant(inside), slope, outside),)


def _sinc(node: Node, grad: Any) -> tuple[Any]:
    """By quotients away from 0; near 0, where they cancel, by the series of the function."""
    x = node.input(0, node.saved[0]) * math.pi
    near = np.abs(x._array) < 0.5
    safe = fn.where(node.constant(near), 1.0, x)
    far = (safe * safe.cos() - safe.sin()) / (safe * safe)
    small = masked(x, near)
    square, series = small * small, 0.0
    for k in range(8, 0, -1):  # sin(z)/z = sum (-1)^k z^2k / (2k+1)!
        series = series * square + (-1) ** k * 2 * k / math.factorial(2 * k + 1)
    slope = fn.where(node.constant(near), small * series, far)
    return (grad * math.pi * slope,)


RULES: dict[type[Any], Rule] = {
    ops.Asin: from_input(lambda x: (1 - x * x).rsqrt()),
    ops.Acos: from_input(lambda x: -(1 - x * x).rsqrt()),
    ops.Atan: from_input(lambda x: 1 / (1 + x * x)),
    ops.Sinh: from_input(lambda x: apply(ops.Cosh(), x)),
    ops.Cosh: from_input(lambda x: apply(ops.Sinh(), x)),
    ops.Asinh: from_input(lambda x: (x * x + 1).rsqrt()),
    ops.Acosh: from_input(lambda x: (x * x - 1).rsqrt()),
    ops.Atanh: from_input(lambda x: 1 / (1 - x * x)),
    ops.Exp2: from_output(lambda y: y * math.log(2)),
    special.Lgamma: from_input(lambda x: apply(special.Polygamma(0), x)),
    special.Polygamma: _polygamma,
    special.Erfc: from_input(lambda x: -2 / math.sqrt(math.pi) * (-x * x).exp()),
    special.Erfinv: from_output(lambda y: math.sqrt(math.pi) / 2 * (y * y).exp()),
    special.Logit: _logit,
    special.Sinc: _sinc,
    special.NanToNum: constant_slope(lambda op, x: np.isfinite(x)),
}
