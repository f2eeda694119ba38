"""Inverses, determinants and decompositions of matrices, on NumPy's LAPACK.

Source of the gradients: Giles 2008, "Collected matrix derivative results for forward and reverse
mode algorithmic differentiation"; Walter and Lehmann 2018 for QR; Golub and Pereyra 1973 for the
pseudo-inverse. `X^H` below is the adjoint of X.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np

from ..backend import Array
from ..backend.arrays import as_array, module_of
from .base import Op
from .elementwise import Grads
from .linear import adjoint


def _zero(grad: Array | None, like: Array) -> Array:
    return np.zeros_like(like) if grad is None else grad


class Inverse(Op):
    """The inverse of square matrices."""

    def forward(self, a: Array) -> Array:
        y = np.linalg.inv(a)
        self.saved = (y,)
        return y

    def backward(self, grad: Array) -> Grads:
        (y,) = self.saved
        h = adjoint(y)
        return (-h @ grad @ h,)


class Solve(Op):
    """x with a @ x = b; b holds columns."""

    def forward(self, a: Array, b: Array) -> Array:
        x = np.linalg.solve(a, b)
        self.saved = (a, x)
        return x

    def backward(self, grad: Array) -> Grads:
        a, x = self.saved
        grad_b = np.linalg.solve(adjoint(a), grad)
        return (-grad_b @ adjoint(x) if self.needs[0] else None), grad_b


class Det(Op):
    """Determinants. The gradient is the cofactor matrix, so singular matrices have one too."""

    def forward(self, a: Array) -> Array:
        self.saved = (a,)
        return as_array(np.linalg.det(a))

    def backward(self, grad: Array) -> Grads:
        (a,) = self.saved
        u, s, vh = np.linalg.svd(a)
        phase = np.linalg.det(u) * np.linalg.det(vh)
        n = s.shape[-1]
        others = (
            np.where(module_of(s).eye(n, dtype=bool), 1, s[..., None, :]).prod(-1).astype(s.dtype)
        )
        cofactors = (u * others[..., None, :]) @ vh
        return ((grad * phase.conj())[..., None, None] * cofactors,)


class SlogDet(Op):
    """(sign, logarithm of the absolute value) of determinants."""

    outputs = 2

    def forward(self, a: Array) -> tuple[Array, Array]:
        sign, logarithm = np.linalg.slogdet(a)
        sign, logarithm = as_array(sign), as_array(logarithm)
        self.saved = (a, sign)
        return sign, logarithm

    def backward(self, grads: Any) -> Grads:
        a, sign = self.saved
        factor = _zero(grads[1], sign.real).astype(a.dtype)
        if grads[0] is not None and a.dtype.kind == "c":
            factor = factor - 1j * (grads[0].conj() * sign).imag
        return (factor[..., None, None] * adjoint(np.linalg.inv(a)),)


class Cholesky(Op):
    """The lower triangle l with a = l @ l^H."""

    def forward(self, a: Array) -> Array:
        y = np.linalg.cholesky(a)
        self.saved = (y,)
        return y

    def backward(self, grad: Array) -> Grads:
        (y,) = self.saved
        h = adjoint(y)
        inner = np.tril(h @ grad)
        diagonal = np.einsum("...ii->...i", inner)
        diagonal *= 0.5
        left = np.linalg.solve(h, inner)
        s = adjoint(np.linalg.solve(h, adjoint(left)))
        return ((s + adjoint(s)) / 2,)


class QR(Op):
    """(q, r) with a = q @ r; q has orthonormal columns, r is an upper triangle.

    Args:
        complete: q is square.
    """

    outputs = 2

    def __init__(self, complete: bool) -> None:
        self.complete = complete

    def forward(self, a: Array) -> tuple[Array, Array]:
        q, r = np.linalg.qr(a, mode="complete" if self.complete else "reduced")
        self.saved = (q, r)
        return q, r

    def backward(self, grads: Any) -> Grads:
        q, r = self.saved
        grad_q, grad_r = _zero(grads[0], q), _zero(grads[1], r)
        m, n = q.shape[-2], r.shape[-1]
        if m < n:  # a = [x y], q r = x r1, and r2 = q^H y
            tail = adjoint_product(q, r, grad_q, grad_r, m)
            return (tail,)
        return (_tall(q, r, grad_q, grad_r),)


def _tall(q: Array, r: Array, grad_q: Array, grad_r: Array) -> Array:
    """Gradient of the matrix behind a QR decomposition with a square r."""
    m = r @ adjoint(grad_r) - adjoint(grad_q) @ q
    lower = np.tril(m, -1)
    diagonal = np.einsum("...ii->...i", m).real
    symmetric = lower + adjoint(lower) + _diagonal(diagonal).astype(m.dtype)
    return adjoint(np.linalg.solve(r, adjoint(grad_q + q @ symmetric)))


def adjoint_product(q: Array, r: Array, grad_q: Array, grad_r: Array, m: int) -> Array:
    """Gradient of a wide matrix behind its QR decomposition."""
    r1, r2 = r[..., :, :m], r[..., :, m:]
    g1, g2 = grad_r[..., :, :m], grad_r[..., :, m:]
    y = q @ r2
    head = _tall(q, r1, grad_q + y @ adjoint(g2), g1)
    return np.concatenate([head, q @ g2], axis=-1)


def _diagonal(values: Array) -> Array:
    """Matrices with `values` on the diagonal."""
    return values[..., None] * module_of(values).eye(values.shape[-1], dtype=values.dtype)


class SVD(Op):
    """(u, s, vh) with a = u @ diag(s) @ vh, reduced. Repeated values have no gradient for u, vh."""

    outputs = 3

    def forward(self, a: Array) -> tuple[Array, Array, Array]:
        u, s, vh = np.linalg.svd(a, full_matrices=False)
        self.saved = (u, s, vh)
        return u, s, vh

    def backward(self, grads: Any) -> Grads:
        u, s, vh = self.saved
        grad_u, grad_s, grad_vh = grads
        inner = _diagonal(_zero(grad_s, s)).astype(u.dtype)
        outside = np.zeros((1, 1), u.dtype, like=u)
        if grad_u is None and grad_vh is None:
            return (u @ inner @ vh,)
        gap = s[..., None, :] ** 2 - s[..., :, None] ** 2
        f = np.where(
            module_of(s).eye(s.shape[-1], dtype=bool), 0, 1 / np.where(gap == 0, np.inf, gap)
        )
        eye = module_of(s).eye
        if grad_u is not None:
            part = adjoint(u) @ grad_u
            skew = f * (part - adjoint(part))
            inner = inner + skew * s[..., None, :]
            if part.dtype.kind == "c":
                inner = inner + _diagonal(1j * np.einsum("...ii->...i", part).imag / s)
            rest = (eye(u.shape[-2]) - u @ adjoint(u)) @ (grad_u / s[..., None, :])
            outside = outside + rest @ vh
        if grad_vh is not None:
            part = vh @ adjoint(grad_vh)
            skew = f * (part - adjoint(part))
            inner = inner + s[..., :, None] * skew
            rest = (grad_vh / s[..., :, None]) @ (eye(vh.shape[-1]) - adjoint(vh) @ vh)
            outside = outside + u @ rest
        return ((u @ inner @ vh + outside).astype(u.dtype, copy=False),)


class EigH(Op):
    """(eigenvalues, eigenvectors) of hermitian matrices, of which one triangle is read."""

    outputs = 2

    def __init__(self, uplo: Literal["L", "U"]) -> None:
        self.uplo = uplo

    def forward(self, a: Array) -> tuple[Array, Array]:
        values, vectors = np.linalg.eigh(a, UPLO=self.uplo)
        self.saved = (values, vectors)
        return values, vectors

    def backward(self, grads: Any) -> Grads:
        values, vectors = self.saved
        inner = _diagonal(_zero(grads[0], values)).astype(vectors.dtype)
        if grads[1] is not None:
            gap = values[..., None, :] - values[..., :, None]
            f = np.where(
                module_of(gap).eye(values.shape[-1], dtype=bool),
                0,
                1 / np.where(gap == 0, np.inf, gap),
            )
            inner = inner + (adjoint(vectors) @ grads[1]) * f
        return ((vectors @ inner @ adjoint(vectors)).astype(vectors.dtype, copy=False),)


class PseudoInverse(Op):
    """Moore-Penrose inverses; singular values below `cutoff` times the largest count as 0."""

    def __init__(self, cutoff: float, hermitian: bool) -> None:
        self.cutoff, self.hermitian = cutoff, hermitian

    def forward(self, a: Array) -> Array:
        options = {"hermitian": True} if self.hermitian else {}  # CuPy has no such argument
        y = as_array(np.linalg.pinv(a, rcond=self.cutoff, **options))
        self.saved = (a, y)
        return y

    def backward(self, grad: Array) -> Grads:
        a, p = self.saved
        h, g = adjoint(p), adjoint(grad)
        eye = module_of(a).eye
        left = eye(a.shape[-2], dtype=a.dtype) - a @ p
        right = eye(a.shape[-1], dtype=a.dtype) - p @ a
        return (-h @ grad @ h + left @ g @ p @ h + h @ p @ g @ right,)


class SolveTriangular(Op):
    """x with a @ x = b, of which one triangle of a is read.

    Args:
        upper: the upper one.
        unit: the diagonal counts as ones.
    """

    def __init__(self, upper: bool, unit: bool) -> None:
        self.upper, self.unit = upper, unit

    def _triangle(self, a: Array) -> Array:
        y = np.triu(a, int(self.unit)) if self.upper else np.tril(a, -int(self.unit))
        return y + module_of(a).eye(a.shape[-1], dtype=a.dtype) if self.unit else y

    def forward(self, a: Array, b: Array) -> Array:
        x = np.linalg.solve(self._triangle(a), b)
        self.saved = (a, x)
        return x

    def backward(self, grad: Array) -> Grads:
        a, x = self.saved
        grad_b = np.linalg.solve(adjoint(self._triangle(a)), grad)
        grad_a = None
        if self.needs[0]:
            full = -grad_b @ adjoint(x)
            grad_a = np.triu(full, int(self.unit)) if self.upper else np.tril(full, -int(self.unit))
        return grad_a, grad_b
