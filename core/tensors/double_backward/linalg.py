"""Second-order rules of inverses, determinants and decompositions. Sources: see `ops/linalg.py`."""

from __future__ import annotations

from typing import Any

import numpy as np

from ...errors import GradientError
from ...ops import linalg as ops
from .. import arithmetic as fn
from ..graph import apply
from . import Rule
from .functions import complex_too, masked, times
from .node import Node
from .products import adjoint


@complex_too
def _inverse(node: Node, grad: Any) -> tuple[Any]:
    h = adjoint(node.output(node.saved[0]))
    return (-(h @ grad @ h),)


@complex_too
def _solve(node: Node, grad: Any) -> tuple[Any, Any]:
    a, x = node.saved
    grad_b = apply(ops.Solve(), adjoint(node.input(0, a)), grad)
    return -(grad_b @ adjoint(node.output(x))) if node.needs[0] else None, grad_b


def _solve_triangular(node: Node, grad: Any) -> tuple[Any, Any]:
    op, (a, x) = node.op, node.saved
    grad_b = apply(ops.SolveTriangular(not op.upper, op.unit), adjoint(node.input(0, a)), grad)
    grad_a = None
    if node.needs[0]:
        full = -(grad_b @ adjoint(node.output(x)))
        grad_a = full.triu(int(op.unit)) if op.upper else full.tril(-int(op.unit))
    return grad_a, grad_b


def _inverse_of(name: str, a: Any) -> Any:
    try:
        return apply(ops.Inverse(), a)
    except np.linalg.LinAlgError as err:
        raise GradientError(
            f"{name}: gradients with create_graph=True are not defined for a singular matrix"
        ) from err


def _det(node: Node, grad: Any) -> tuple[Any]:
    a = node.input(0, node.saved[0])
    scale = grad * apply(ops.Det(), a)
    return (scale.unsqueeze(-1).unsqueeze(-1) * adjoint(_inverse_of("Det", a)),)


def _slogdet(node: Node, grad: Any) -> tuple[Any]:
    a = node.input(0, node.saved[0])
    inverse = adjoint(_inverse_of("SlogDet", a))
    if grad[1] is None:  # the sign is constant
        return (masked(inverse, False),)
    return (grad[1].unsqueeze(-1).unsqueeze(-1) * inverse,)


def _cholesky(node: Node, grad: Any) -> tuple[Any]:
    y = node.output(node.saved[0])
    h = adjoint(y)
    half = np.tril(np.ones(y.shape[-2:])) - 0.5 * np.eye(y.shape[-1])
    left = apply(ops.Solve(), h, times(h @ grad, half))
    s = adjoint(apply(ops.Solve(), h, adjoint(left)))
    return ((s + adjoint(s)) / 2,)


def _eigh(node: Node, grad: Any) -> tuple[Any]:
    values, vectors = (node.output(a, slot) for slot, a in enumerate(node.saved))
    identity = np.eye(values.shape[-1])
    inner = None
    if grad[0] is not None:
        inner = times(grad[0].unsqueeze(-1), identity)
    if grad[1] is not None:
        gap = values.unsqueeze(-2) - values.unsqueeze(-1)
        same = np.equal(gap._array, 0)
        f = masked(1 / fn.where(node.constant(same), 1.0, gap), ~same)
        part = (adjoint(vectors) @ grad[1]) * f
        inner = part if inner is None else inner + part
    return (vectors @ inner @ adjoint(vectors),)


def _pseudo_inverse(node: Node, grad: Any) -> tuple[Any]:
    a, p = node.input(0, node.saved[0]), node.output(node.saved[1])
    h, g = adjoint(p), adjoint(grad)
    left = node.constant(np.eye(a.shape[-2], dtype=a._array.dtype)) - a @ p
    right = node.constant(np.eye(a.shape[-1], dtype=a._array.dtype)) - p @ a
    return (-(h @ grad @ h) + left @ g @ p @ h + h @ p @ g @ right,)


RULES: dict[type[Any], Rule] = {
    ops.Inverse: _inverse,
    ops.Solve: _solve,
    ops.SolveTriangular: _solve_triangular,
    ops.Det: _det,
    ops.SlogDet: _slogdet,
    ops.Cholesky: _cholesky,
    ops.EigH: _eigh,
    ops.PseudoInverse: _pseudo_inverse,
}
