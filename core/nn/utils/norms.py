"""The mathematics of weight norm and spectral norm, for the two forms in which they come."""

from __future__ import annotations

from typing import Any

import numpy as np

from ...backend.arrays import on_device
from ...tensors import Tensor


def norm_except(v: Tensor, dim: int | None) -> Tensor:
    """2-norm of `v` over all dimensions but `dim` (over all, for None or -1), dimensions kept.

    Source: Salimans & Kingma 2016, "Weight Normalization".
    """
    if dim is None or dim == -1:
        whole: Tensor = (v * v).sum().sqrt()
        return whole
    axis = dim % v.ndim
    others = tuple(i for i in range(v.ndim) if i != axis)
    squares = v * v
    total: Tensor = squares.sum(others, keepdim=True) if others else squares
    found: Tensor = total.sqrt()
    return found


def as_matrix(weight: Tensor, dim: int) -> Tensor:
    """`weight` with dimension `dim` as rows and all others joined as columns."""
    if dim != 0:
        order = (dim, *(d for d in range(weight.ndim) if d != dim))
        weight = weight.permute(*order)
    matrix: Tensor = weight.flatten(1)
    return matrix


def _unit(x: Any, eps: float) -> Any:
    if on_device(x):  # whose norm nobody waits for
        return (x / np.maximum(np.linalg.norm(x), eps)).astype(x.dtype, copy=False)
    return np.asarray(x / max(float(np.linalg.norm(x)), eps), x.dtype)


def power_iteration(
    matrix: np.ndarray, u: np.ndarray, v: np.ndarray, steps: int, eps: float
) -> None:
    """Bring u and v closer to the first singular vectors of `matrix`, in place.

    Source: Miyato et al. 2018, "Spectral Normalization for GANs", algorithm 1.
    """
    for _ in range(steps):
        u[...] = _unit(matrix @ v, eps)
        v[...] = _unit(matrix.T @ u, eps)


def random_unit(size: int, weight: Any, eps: float) -> Tensor:
    """A random vector of length 1, of the type of `weight` and beside it."""
    vector = Tensor(np.empty(size, weight.dtype, like=weight)).normal_(0, 1)
    return Tensor(_unit(vector._array, eps))
