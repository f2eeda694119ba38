"""Ready-made parametrisations: weight norm, spectral norm, orthogonal weights."""

from __future__ import annotations

from typing import Any

import numpy as np

from ...autograd import no_grad
from ...backend.arrays import contiguous, on, to_host
from ...errors import OptionError
from ...tensors import Tensor
from .. import functional as F  # noqa: N812 - PyTorch's spelling
from ..modules.module import Module
from . import parametrize
from .norms import as_matrix, norm_except, power_iteration, random_unit


class _WeightNorm(Module):
    def __init__(self, dim: int | None = 0) -> None:
        super().__init__()
        self.dim = -1 if dim is None else dim

    def forward(self, weight_g: Tensor, weight_v: Tensor) -> Tensor:
        return weight_v * (weight_g / norm_except(weight_v, self.dim))

    def right_inverse(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        """(lengths, directions) of a weight."""
        return norm_except(weight, self.dim), weight


def weight_norm(module: Module, name: str = "weight", dim: int | None = 0) -> Module:
    """``module.name`` as direction v and length g, learnt separately (Salimans & Kingma 2016).

    Args:
        dim: the dimension with a length of its own for each index; None for one length.

    Returns:
        The module; its state has ``parametrizations.weight.original0`` (g) and ``original1`` (v).

    >>> from allgrad import nn
    >>> layer = weight_norm(nn.Linear(3, 2))
    >>> [tuple(p.shape) for p in layer.parametrizations.weight.parameters()]
    [(2, 1), (2, 3)]
    """
    return parametrize.register_parametrization(module, name, _WeightNorm(dim), unsafe=True)


class _SpectralNorm(Module):
    def __init__(
        self, weight: Tensor, n_power_iterations: int = 1, dim: int = 0, eps: float = 1e-12
    ) -> None:
        super().__init__()
        if n_power_iterations <= 0:
            raise OptionError(
                f"spectral_norm: expected n_power_iterations above 0, came {n_power_iterations}"
            )
        if not -weight.ndim <= dim < weight.ndim:
            raise IndexError(f"spectral_norm: dim {dim} is no dimension of {tuple(weight.shape)}")
        self.dim = dim % weight.ndim
        self.eps, self.n_power_iterations = eps, n_power_iterations
        if weight.ndim > 1:
            matrix = as_matrix(weight.detach(), self.dim)
            rows, columns = matrix.shape
            self.register_buffer("_u", random_unit(rows, weight._array, eps))
            self.register_buffer("_v", random_unit(columns, weight._array, eps))
            power_iteration(matrix._canonical(), self._u._array, self._v._array, 15, eps)

    def forward(self, weight: Tensor) -> Tensor:
        if weight.ndim == 1:
            return F.normalize(weight, dim=0, eps=self.eps)
        matrix = as_matrix(weight, self.dim)
        if self.training:
            with no_grad():
                power_iteration(
                    matrix.detach()._canonical(), self._u._array, self._v._array,
                    self.n_power_iterations, self.eps,
                )  # fmt: skip
                self._u._bump_version()
                self._v._bump_version()
        sigma = (self._u.clone() * (matrix @ self._v.clone())).sum()
        return weight / sigma

    def right_inverse(self, value: Tensor) -> Tensor:
        """The weight itself, which is assumed to have norm 1."""
        return value


def spectral_norm(
    module: Module,
    name: str = "weight",
    n_power_iterations: int = 1,
    eps: float = 1e-12,
    dim: int | None = None,
) -> Module:
    """``module.name`` divided by its largest singular value (Miyato et al. 2018).

    Args:
        n_power_iterations: steps towards the singular vectors in each forward of training.
        dim: the dimension of the rows; by default 0, or 1 for transposed convolutions.
    """
    weight = getattr(module, name)
    if dim is None:
        dim = 1 if type(module).__name__.startswith("ConvTranspose") else 0
    norm = _SpectralNorm(weight, n_power_iterations, dim, eps)
    return parametrize.register_parametrization(module, name, norm)


class _Orthogonal(Module):
    def __init__(self, weight: Tensor, orthogonal_map: str, use_trivialization: bool) -> None:
        super().__init__()
        self.orthogonal_map, self.tall = orthogonal_map, weight.shape[-2] >= weight.shape[-1]
        base = None
        if use_trivialization:
            base = Tensor(_complete(weight.detach()._canonical(), self.tall))
        self.register_buffer("base", base)

    def forward(self, x: Tensor) -> Tensor:
        if not self.tall:
            x = x.transpose(-1, -2)
        n, k = x.shape[-2:]
        if self.orthogonal_map == "householder":
            signs = np.diagonal(x.detach()._array, axis1=-2, axis2=-1).astype(int)
            q = _reflections(x.tril(-1)) * Tensor(signs.astype(x._array.dtype)).unsqueeze(-2)
        else:
            lower = x.tril()
            if n != k:
                lower = F.pad(lower, [0, n - k])
            skew = lower - lower.transpose(-1, -2)
            q = _exponential(skew) if self.orthogonal_map == "matrix_exp" else _cayley(skew)
            q = q[..., :k]
        if self.base is not None:
            q = self.base @ q
        found: Tensor = q if self.tall else q.transpose(-1, -2)
        return found

    def right_inverse(self, value: Tensor) -> Tensor:
        """What `forward` maps to the orthogonal matrix nearest to `value`."""
        array = value.detach()._canonical()
        if self.base is not None:
            self.base._array[...] = _complete(array, self.tall)
            self.base._bump_version()
            start = np.zeros(array.shape, array.dtype)
            diagonal = range(min(array.shape[-2:]))
            start[..., diagonal, diagonal] = -1.0
            return Tensor(on(start, array))
        if self.orthogonal_map != "householder" or array.ndim != 2:
            raise NotImplementedError(
                "orthogonal: a value can be assigned only with use_trivialization=True"
            )
        host = to_host(array)
        h, tau = np.linalg.qr(host if self.tall else host.T, mode="raw")
        vectors = np.array(h.T, order="C")
        signs = np.sign(np.diagonal(vectors)) * np.where(tau == 0, -1, 1)
        np.fill_diagonal(vectors, signs)
        return Tensor(on(np.ascontiguousarray(vectors if self.tall else vectors.T), array))


def _complete(array: np.ndarray, tall: bool) -> np.ndarray:
    """An orthogonal n x n matrix whose first columns are those of the orthonormalised array."""
    matrix = array if tall else array.swapaxes(-1, -2)
    q, r = np.linalg.qr(matrix, mode="complete")
    k = matrix.shape[-1]
    signs = np.sign(np.diagonal(r, axis1=-2, axis2=-1))
    q[..., :, :k] *= np.where(signs == 0, 1, signs)[..., None, :]
    return contiguous(q)


def _eye(n: int, like: Tensor) -> Tensor:
    return Tensor(on(np.eye(n, dtype=like._array.dtype), like._array))


def _exponential(skew: Tensor) -> Tensor:
    """The matrix exponential, by Taylor's series of skew / 2**s and s squarings."""
    sums = np.abs(skew.detach()._array).sum(axis=-1)
    size = float(sums.max()) if sums.size else 0.0
    squarings = max(0, int(np.ceil(np.log2(size / 0.25)))) if size > 0.25 else 0
    small = skew * (0.5**squarings)
    term = total = _eye(skew.shape[-1], skew)
    for i in range(1, 12):
        term = term @ small / i
        total = total + term
    for _ in range(squarings):
        total = total @ total
    return total


def _cayley(skew: Tensor) -> Tensor:
    """(I + skew/2)(I - skew/2)^-1 for skew = A - A.T, the inverse by Newton's iteration."""
    eye = _eye(skew.shape[-1], skew)
    matrix = eye - skew * 0.5
    # A start from NumPy is exact up to rounding; one step makes it differentiable.
    inverse = Tensor(np.linalg.inv(matrix.detach()._canonical()))
    inverse = inverse @ (eye * 2 - matrix @ inverse)
    found: Tensor = (eye + skew * 0.5) @ inverse
    return found


def _reflections(lower: Tensor) -> Tensor:
    """The first k columns of H_1 ... H_k, reflections by the columns of `lower` with 1 on top."""
    n, k = lower.shape[-2:]
    vectors = lower + Tensor(np.eye(n, k, dtype=lower._array.dtype))
    scale = 2.0 / (1.0 + (lower * lower).sum(-2))
    q = _eye(n, lower)[:, :k] + lower[..., :1] * 0
    for i in reversed(range(k)):
        v = vectors[..., i : i + 1]
        q = q - (v * scale[..., i : i + 1].unsqueeze(-1)) @ (v.transpose(-1, -2) @ q)
    found: Tensor = q
    return found


def orthogonal(
    module: Module,
    name: str = "weight",
    orthogonal_map: str | None = None,
    *,
    use_trivialization: bool = True,
) -> Module:
    """Keep the matrices of ``module.name`` orthogonal (columns or rows orthonormal).

    Args:
        orthogonal_map: "matrix_exp", "cayley" or "householder"; by default the first for square
            matrices and the last for others.
        use_trivialization: start from the present weight instead of from the identity, as
            Lezcano-Casado 2019 ("Trivializations") describes.

    Raises:
        ValueError: a weight of fewer than 2 dimensions, or an unknown map.
    """
    weight: Any = getattr(module, name)
    if weight.ndim < 2:
        raise OptionError(
            f"orthogonal: expected a weight of at least 2 dimensions, came {tuple(weight.shape)}"
        )
    known = ("matrix_exp", "cayley", "householder")
    if orthogonal_map is None:
        orthogonal_map = "matrix_exp" if weight.shape[-2] == weight.shape[-1] else "householder"
    if orthogonal_map not in known:
        raise OptionError.unknown("orthogonal_map", orthogonal_map, known)
    made = _Orthogonal(weight, orthogonal_map, use_trivialization)
    return parametrize.register_parametrization(module, name, made, unsafe=True)
