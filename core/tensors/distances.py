"""Distances and likenesses of vectors: between all pairs, or row by row."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..errors import DtypeError, OptionError, ShapeError
from ..ops.index import Take
from .graph import apply
from .linalg import vector_norm
from .promote import cast, result_dtype
from .shaping import broadcast_tensors, unsqueeze

_MODES = (
    "use_mm_for_euclid_dist_if_necessary",
    "use_mm_for_euclid_dist",
    "donot_use_mm_for_euclid_dist",
)


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


def pdist(input: Any, p: float = 2.0) -> Any:
    """Distances between all pairs of rows (N, M) -> (N * (N - 1) / 2): (0, 1), (0, 2), ...

    Raises:
        RuntimeError: not a matrix, or a negative `p`.
    """
    if input.ndim != 2 or p < 0:
        raise ShapeError(
            f"pdist: expected a matrix and p of 0 or more, came {tuple(input.shape)}, p={p}"
        )
    i, j = np.triu_indices(input._array.shape[0], 1)
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
