"""Distances and likenesses of vectors: between all pairs, row by row; covariance."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

from ..backend.arrays import constant, on_device
from ..dtypes import FLOATING
from ..errors import DtypeError, OptionError, ShapeError
from ..ops.index import Take
from .autocasting import widens
from .graph import apply
from .linalg import vector_norm
from .products import matmul
from .promote import cast, result_dtype
from .shaping import broadcast_tensors, unsqueeze

_MODES = (
    "use_mm_for_euclid_dist_if_necessary",
    "use_mm_for_euclid_dist",
    "donot_use_mm_for_euclid_dist",
)


@widens
def cdist(x1: Any, x2: Any, p: float = 2.0, compute_mode: str = _MODES[0]) -> Any:
    """Distances between all rows of two sets: (..., P, M), (..., R, M) -> (..., P, R).

    Args:
        p: order of the norm, 0 or more.
        compute_mode: which of PyTorch's ways to prefer; all give the exact differences here.

    Raises:
        RuntimeError: another number of columns, or a negative `p`.

    >>> import allgrad as ag
    >>> ag.cdist(ag.tensor([[0.0, 0.0]]), ag.tensor([[3.0, 4.0], [0.0, 1.0]]))
    tensor([[5., 1.]])
    """
    if compute_mode not in _MODES:
        raise OptionError.unknown("compute_mode of cdist", compute_mode, _MODES)
    a, b = tuple(x1.shape), tuple(x2.shape)
    if len(a) < 2 or len(b) < 2 or a[-1] != b[-1]:
        raise ShapeError(f"cdist: expected (..., P, M) and (..., R, M), came {a} and {b}")
    if p < 0:
        raise ShapeError(f"cdist: expected p of 0 or more, came {p}")
    return vector_norm(unsqueeze(x1, -2) - unsqueeze(x2, -3), p, -1)


@functools.lru_cache(16)
def _pairs(count: int) -> tuple[np.ndarray, np.ndarray]:
    """The first and the second member of every pair of `count` rows."""
    return np.triu_indices(count, 1)


def pdist(input: Any, p: float = 2.0) -> Any:
    """Distances between all pairs of rows (N, M) -> (N * (N - 1) / 2): (0, 1), (0, 2), ...

    Raises:
        RuntimeError: not a matrix, or a negative `p`.
    """
    if input.ndim != 2 or p < 0:
        raise ShapeError(
            f"pdist: expected a matrix and p of 0 or more, came {tuple(input.shape)}, p={p}"
        )
    i, j = (constant(p, input._array) for p in _pairs(input._array.shape[0]))
    return vector_norm(apply(Take((i,)), input) - apply(Take((j,)), input), p, -1)


def cosine_similarity(x1: Any, x2: Any, dim: int = 1, eps: float = 1e-8) -> Any:
    """Cosine of the angle between vectors along `dim`.

    Args:
        x1, x2: floating, broadcast.
        eps: the least value that a norm may have.

    Raises:
        RuntimeError: shapes that do not broadcast, or integers.
    """
    to = result_dtype(x1, x2)
    if to.kind in "iub":
        raise DtypeError(f"cosine_similarity: expected floating tensors, came {x1.dtype}")
    x1, x2 = broadcast_tensors(cast(x1, to), cast(x2, to))
    norms = (vector_norm(x, 2, dim, True).clamp(min=eps) for x in (x1, x2))
    return ((x1 / next(norms)) * (x2 / next(norms))).sum(dim)


def pairwise_distance(
    x1: Any, x2: Any, p: float = 2.0, eps: float = 1e-6, keepdim: bool = False
) -> Any:
    """Distance of the vectors in the last dimension, row by row.

    Args:
        p: order of the norm.
        eps: added to every difference.
        keepdim: keep the last dimension, with size 1.
    """
    return vector_norm(x1 - x2 + eps, p, -1, keepdim)


def cov(input: Any, *, correction: int = 1, fweights: Any = None, aweights: Any = None) -> Any:
    """Covariance matrix of variables (rows) that were observed several times (columns).

    Args:
        input: (variables, observations), or one variable as a vector.
        correction: what is taken from the number of observations; 1 is unbiased.
        fweights: how often each observation was made, integers.
        aweights: how much each observation counts, floating.

    Raises:
        RuntimeError: more than two dimensions, or weights that do not fit.

    >>> import allgrad as ag
    >>> ag.cov(ag.tensor([[0.0, 1.0, 2.0], [2.0, 1.0, 0.0]]))
    tensor([[ 1., -1.],
            [-1.,  1.]])
    """
    if input.ndim > 2:
        raise ShapeError(f"cov: expected at most two dimensions, came {tuple(input.shape)}")
    x = input if input.ndim == 2 else input.reshape(1, -1)
    count = x.shape[1]
    weights = _weights(count, fweights, aweights)
    if weights is None:
        centred = x - x.mean(1, keepdim=True)
        y = matmul(centred, centred.mH) / max(count - correction, 0)
    else:
        total = weights.sum()
        centred = x - (x * weights).sum(1, keepdim=True) / total
        lost = 1 if aweights is None else (weights * aweights).sum() / total
        y = matmul(centred, (centred * weights).mH) / (total - correction * lost)
    return y if input.ndim == 2 else y.reshape(())


def _weights(count: int, fweights: Any, aweights: Any) -> Any:
    """The product of both kinds of weights of `count` observations; None without any."""
    product = None
    for name, w, kinds in (("fweights", fweights, "iu"), ("aweights", aweights, FLOATING)):
        if w is None:
            continue
        fits = w._array.shape == (count,) and w._array.dtype.kind in kinds
        if not fits or (not on_device(w._array) and (w._array < 0).any()):
            what = "integers" if kinds == "iu" else "floating numbers"
            raise ShapeError(
                f"cov: expected {name} to be {count} {what} of 0 or more, came {w.dtype} of shape "
                f"{tuple(w.shape)}"
            )
        product = w if product is None else product * w
    return product


def corrcoef(input: Any) -> Any:
    """Correlation matrix of variables (rows) that were observed several times (columns)."""
    c = cov(input)
    if not c.ndim:
        return c / c
    deviation = c.diagonal().sqrt()
    return (c / deviation.unsqueeze(1) / deviation).clamp(-1, 1)
