"""Second-order rules of inverses, determinants and decompositions. Sources: see `ops/linalg.py`."""

from __future__ import annotations

from typing import Any

import numpy as np

from ...errors import GradientError
from ...ops import linalg as ops
from .. import arithmetic as fn
from .. import joining
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


def _svd(node: Node, grad: Any) -> tuple[Any]:
    u, s, vh = (node.output(a, slot) for slot, a in enumerate(node.saved))
    grad_u, grad_s, grad_vh = grad
    rows, columns = s.unsqueeze(-1), s.unsqueeze(-2)
    gap = columns * columns - rows * rows
    same = np.equal(gap._array, 0)
    f = masked(1 / fn.where(node.constant(same), 1.0, gap), ~same)
    inner = masked(gap, False)
    if grad_s is not None:
        inner = inner + times(grad_s.unsqueeze(-1), np.eye(s.shape[-1]))
    outside = None
    if grad_u is not None:
        part = adjoint(u) @ grad_u
        inner = inner + f * (part - adjoint(part)) * columns
        outside = _beside(node, u @ adjoint(u)) @ (grad_u / columns) @ vh
    if grad_vh is not None:
        part = vh @ adjoint(grad_vh)
        inner = inner + rows * (f * (part - adjoint(part)))
        rest = u @ ((grad_vh / rows) @ _beside(node, adjoint(vh) @ vh))
        outside = rest if outside is None else outside + rest
    result = u @ inner @ vh
    return (result if outside is None else result + outside,)


def _beside(node: Node, projection: Any) -> Any:
    """The projection on what is orthogonal to the range of `projection`."""
    return node.constant(np.eye(projection.shape[-1], dtype=projection._array.dtype)) - projection


def _qr(node: Node, grad: Any) -> tuple[Any]:
    q, r = (node.output(a, slot) for slot, a in enumerate(node.saved))
    grad_q, grad_r = (
        masked(t, False) if g is None else g for t, g in zip((q, r), grad, strict=True)
    )
    m = q.shape[-2]
    if m >= r.shape[-1]:
        return (_tall(q, r, grad_q, grad_r),)
    right = grad_r[..., m:]
    grad_q = grad_q + q @ r[..., m:] @ adjoint(right)
    return (joining.cat([_tall(q, r[..., :m], grad_q, grad_r[..., :m]), q @ right], -1),)


def _tall(q: Any, r: Any, grad_q: Any, grad_r: Any) -> Any:
    """Gradient of the matrix behind a QR decomposition with a square r."""
    m = r @ adjoint(grad_r) - adjoint(grad_q) @ q
    lower = m.tril(-1)
    symmetric = lower + adjoint(lower) + times(m, np.eye(m.shape[-1]))
    return adjoint(apply(ops.Solve(), r, adjoint(grad_q + q @ symmetric)))


RULES: dict[type[Any], Rule] = {
    ops.Inverse: _inverse,
    ops.Solve: _solve,
    ops.SolveTriangular: _solve_triangular,
    ops.Det: _det,
    ops.SlogDet: _slogdet,
    ops.Cholesky: _cholesky,
    ops.EigH: _eigh,
    ops.SVD: _svd,
    ops.QR: _qr,
    ops.PseudoInverse: _pseudo_inverse,
}
