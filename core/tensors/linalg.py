"""What `allgrad.linalg` offers: norms, solvers and decompositions under names of `torch.linalg`.

All take stacks of matrices (..., M, N) of float32, float64 or complex elements. A matrix that
has no inverse, or is not positive definite, raises `LinAlgError`, a RuntimeError.
May import: graph, products, reductions. Loaded when it is first needed.
"""

from __future__ import annotations

import contextlib
from collections import namedtuple
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from ..backend.arrays import as_array
from ..errors import AllgradError, DtypeError, ShapeError
from ..ops import linalg as ops
from . import reductions as reduce
from .graph import TensorBase, apply
from .moving import diagonal as _diagonal
from .products import cross as _cross
from .products import matmul, multi_dot
from .promote import cast

__all__ = [
    "LinAlgError",
    "cholesky",
    "cond",
    "cross",
    "det",
    "diagonal",
    "eigh",
    "eigvalsh",
    "inv",
    "lstsq",
    "matmul",
    "matrix_norm",
    "matrix_power",
    "matrix_rank",
    "multi_dot",
    "norm",
    "pinv",
    "qr",
    "slogdet",
    "solve",
    "solve_triangular",
    "svd",
    "svdvals",
    "tensorinv",
    "vander",
    "vecdot",
    "vector_norm",
]

SlogdetResult = namedtuple("SlogdetResult", ["sign", "logabsdet"])
QRResult = namedtuple("QRResult", ["Q", "R"])
SVDResult = namedtuple("SVDResult", ["U", "S", "Vh"])
EighResult = namedtuple("EighResult", ["eigenvalues", "eigenvectors"])
LstsqResult = namedtuple("LstsqResult", ["solution", "residuals", "rank", "singular_values"])


class LinAlgError(AllgradError, RuntimeError):
    """The matrix does not allow this: it is singular, or not positive definite."""


def _matrix(name: str, a: Any, square: bool = False) -> Any:
    """`a`, if it is a matrix or a stack of them that LAPACK can work on."""
    if not isinstance(a, TensorBase):
        raise TypeError(f"linalg.{name}: expected a tensor, came {type(a).__name__}")
    shape = tuple(a.shape)
    if len(shape) < 2 or (square and shape[-1] != shape[-2]):
        what = "square matrices" if square else "matrices"
        raise ShapeError(f"linalg.{name}: expected {what} (..., M, N), came {shape}")
    _inexact(name, a)
    return a


def _inexact(name: str, a: Any) -> None:
    if a._array.dtype.char not in "fdFD":
        raise DtypeError(
            f"linalg.{name}: expected float32, float64 or complex elements, came {a.dtype}"
        )


@contextlib.contextmanager
def _lapack(name: str, *tensors: Any) -> Iterator[None]:
    """Turn NumPy's complaints into ours."""
    try:
        yield
    except np.linalg.LinAlgError as err:
        shapes = " and ".join(str(tuple(t.shape)) for t in tensors)
        raise LinAlgError(f"linalg.{name}: {err} (shape {shapes})") from err


# -- norms ---------------------------------------------------------------------------------------
def vector_norm(
    x: Any, ord: Any = 2, dim: Any = None, keepdim: bool = False, *, dtype: Any = None
) -> Any:
    """The vector norm over `dim` (None: all): ``sum(abs(x) ** ord) ** (1 / ord)``.

    Args:
        ord: any number, inf or -inf (largest, smallest), 0 (how many are not 0).

    >>> import allgrad as ag
    >>> vector_norm(ag.tensor([3.0, 4.0]))
    tensor(5.)
    """
    x = x if dtype is None else x.to(dtype)
    if not isinstance(ord, int | float):
        raise TypeError(f"linalg.vector_norm: expected a number for ord, came {ord!r}")
    if x.is_complex():
        x = x.abs()
    return reduce.norm(x, ord, dim, keepdim)


def matrix_norm(
    A: Any,  # noqa: N803 - PyTorch's spelling
    ord: Any = "fro",
    dim: Sequence[int] = (-2, -1),
    keepdim: bool = False,
    *,
    dtype: Any = None,
) -> Any:
    """The norm of matrices.

    Args:
        ord: "fro" (Frobenius), "nuc" (sum of singular values), inf and -inf (largest and
            smallest sum of a row), 1 and -1 (of a column), 2 and -2 (largest and smallest
            singular value).
        dim: the two dimensions of the matrices.

    Raises:
        RuntimeError: not two different dimensions, or an unknown `ord`.
    """
    x = A if dtype is None else A.to(dtype)
    if x.ndim < 2 or len(tuple(dim)) != 2:
        raise ShapeError(f"linalg.matrix_norm: expected matrices, came {tuple(x.shape)}, dim {dim}")
    x = x.movedim(tuple(dim), (-2, -1))
    y = _matrix_norm(x, ord)
    if keepdim:
        y = y[..., None, None].movedim((-2, -1), tuple(dim))
    return y


def _matrix_norm(x: Any, ord: Any) -> Any:
    if ord == "fro":
        return vector_norm(x, 2, (-2, -1))
    if ord == "nuc":
        return svdvals(x).sum(-1)
    largest = ord in (1, 2, float("inf"))
    if ord in (2, -2):
        values = svdvals(x)
    elif ord in (1, -1, float("inf"), -float("inf")):
        values = x.abs().sum(-2 if ord in (1, -1) else -1)
    else:
        raise ShapeError(
            f"linalg.matrix_norm: unknown ord {ord!r}; known: 'fro', 'nuc', inf, -inf, 1, -1, 2, -2"
        )
    return values.amax(-1) if largest else values.amin(-1)


def norm(
    A: Any,  # noqa: N803 - PyTorch's spelling
    ord: Any = None,
    dim: Any = None,
    keepdim: bool = False,
    *,
    dtype: Any = None,
) -> Any:
    """`vector_norm` or `matrix_norm`, as the arguments tell.

    Args:
        ord: None is 2 over all elements; "fro" and "nuc" are norms of matrices.
        dim: one dimension for vectors, two for matrices; None with an `ord` takes the tensor as
            a vector or a matrix.
    """
    if ord is None:
        return vector_norm(A, 2, dim, keepdim, dtype=dtype)
    dims = (dim,) if isinstance(dim, int) else dim
    if dims is None:
        if A.ndim not in (1, 2):
            raise ShapeError(
                f"linalg.norm: with ord={ord!r} and no dim, expected a vector or a matrix, came "
                f"{tuple(A.shape)}"
            )
        dims = (-1,) if A.ndim == 1 else (-2, -1)
    if len(dims) == 2:
        return matrix_norm(A, ord, dims, keepdim, dtype=dtype)
    return vector_norm(A, ord, dims, keepdim, dtype=dtype)


# -- solving -------------------------------------------------------------------------------------
def inv(A: Any) -> Any:  # noqa: N803 - PyTorch's spelling
    """The inverse of square matrices.

    Raises:
        LinAlgError: a matrix is singular.
    """
    with _lapack("inv", A):
        return apply(ops.Inverse(), _matrix("inv", A, square=True))


def solve(A: Any, B: Any, *, left: bool = True) -> Any:  # noqa: N803 - PyTorch's spelling
    """X with ``A @ X = B``.

    Args:
        A: (..., N, N).
        B: (..., N, K), or (N) or (..., N) beside a stack of as many matrices.
        left: with False, ``X @ A = B``.

    Raises:
        LinAlgError: a matrix is singular.
        RuntimeError: shapes or dtypes that do not fit.
    """
    _matrix("solve", A, square=True)
    vector = B.ndim == 1 or (A.ndim == B.ndim + 1 and B.shape == A.shape[:-1])
    columns = B.unsqueeze(-1) if vector else B
    if not left:
        return solve(A.mT, columns.mT).mT
    _same("solve", A, B, A.shape[-1] == columns.shape[-2])
    with _lapack("solve", A, B):
        x = apply(ops.Solve(), A, columns)
    return x.squeeze(-1) if vector else x


def _same(name: str, a: Any, b: Any, fits: bool) -> None:
    if a.dtype != b.dtype:
        raise DtypeError(f"linalg.{name}: expected one dtype, came {a.dtype} and {b.dtype}")
    if not fits:
        raise ShapeError(
            f"linalg.{name}: shapes {tuple(a.shape)} and {tuple(b.shape)} do not fit together"
        )


def solve_triangular(
    A: Any,  # noqa: N803 - PyTorch's spelling
    B: Any,  # noqa: N803 - PyTorch's spelling
    *,
    upper: bool,
    left: bool = True,
    unitriangular: bool = False,
) -> Any:
    """X with ``A @ X = B`` for a triangle A; its other half is not read.

    Args:
        upper: A is an upper triangle.
        left: with False, ``X @ A = B``.
        unitriangular: the diagonal of A counts as ones.
    """
    _matrix("solve_triangular", A, square=True)
    if not left:
        return solve_triangular(A.mT, B.mT, upper=not upper, unitriangular=unitriangular).mT
    _same("solve_triangular", A, B, B.ndim >= 2 and A.shape[-1] == B.shape[-2])
    with _lapack("solve_triangular", A, B):
        return apply(ops.SolveTriangular(upper, unitriangular), A, B)


def lstsq(A: Any, B: Any, rcond: float | None = None, *, driver: str | None = None) -> Any:  # noqa: N803
    """X with the least ``norm(A @ X - B)``, by the pseudo-inverse.

    Args:
        A: (..., M, N).
        B: (..., M, K).
        rcond: singular values below this part of the largest count as 0.
        driver: "gelsy", "gels", "gelsd" or "gelss"; all give the solution of least norm.

    Returns:
        (solution, residuals, rank, singular_values); residuals only if M > N and full rank.
    """
    known = (None, "gels", "gelsy", "gelsd", "gelss")
    if driver not in known:
        raise ShapeError(f"linalg.lstsq: unknown driver {driver!r}; known: {known[1:]}")
    _matrix("lstsq", A)
    _same("lstsq", A, B, A.ndim == B.ndim and A.shape[-2] == B.shape[-2])
    x = matmul(pinv(A, rtol=rcond), B)
    rank, (m, n) = matrix_rank(A, rtol=rcond), tuple(A.shape)[-2:]
    residuals = A._new(np.empty(0, A._array.real.dtype))
    if m > n and bool((rank._array == n).all()):
        residuals = (matmul(A, x) - B).abs().square().sum(-2)
    values = svdvals(A.detach()) if driver in ("gelsd", "gelss") else A._new(residuals._array[:0])
    return LstsqResult(x, residuals, rank, values)


def pinv(
    A: Any,  # noqa: N803 - PyTorch's spelling
    *,
    atol: float | None = None,
    rtol: float | None = None,
    hermitian: bool = False,
) -> Any:
    """The Moore-Penrose inverse of matrices.

    Args:
        rtol: singular values below this part of the largest count as 0; by default the larger
            of M and N times the resolution of the dtype.
        atol: not supported; cut by `rtol`.
        hermitian: the matrices are hermitian.
    """
    _matrix("pinv", A, square=hermitian)
    if atol is not None:
        raise DtypeError("linalg.pinv: atol is not supported, use rtol")
    cutoff = _cutoff(A) if rtol is None else rtol
    with _lapack("pinv", A):
        return apply(ops.PseudoInverse(cutoff, hermitian), A)


def _cutoff(a: Any) -> float:
    return float(max(a.shape[-2:]) * np.finfo(a._array.dtype).eps)


def matrix_power(A: Any, n: int) -> Any:  # noqa: N803 - PyTorch's spelling
    """Square matrices times themselves, `n` factors; the inverse for a negative `n`."""
    if A.ndim < 2 or A.shape[-1] != A.shape[-2]:
        raise ShapeError(f"linalg.matrix_power: expected square matrices, came {tuple(A.shape)}")
    if n < 0:
        return matrix_power(inv(A), -n)
    if n == 0:
        eye = np.eye(A.shape[-1], dtype=A._array.dtype)
        return A._new(np.array(np.broadcast_to(eye, A._array.shape)))
    y, square = None, A
    while n:
        if n & 1:
            y = square if y is None else matmul(y, square)
        n >>= 1
        square = matmul(square, square) if n else square
    return y


def tensorinv(A: Any, ind: int = 2) -> Any:  # noqa: N803 - PyTorch's spelling
    """The inverse of `A` as a map from its last dimensions to its first `ind` ones."""
    head, tail = tuple(A.shape)[:ind], tuple(A.shape)[ind:]
    if int(np.prod(head)) != int(np.prod(tail)):
        raise ShapeError(f"linalg.tensorinv: {head} and {tail} do not hold as many elements")
    n = int(np.prod(head))
    return inv(A.reshape(n, n)).reshape(*tail, *head)


# -- determinants and decompositions ---------------------------------------------------------------
def det(A: Any) -> Any:  # noqa: N803 - PyTorch's spelling
    """The determinant of square matrices."""
    return apply(ops.Det(), _matrix("det", A, square=True))


def slogdet(A: Any) -> Any:  # noqa: N803 - PyTorch's spelling
    """(sign, logarithm of the absolute value) of the determinant."""
    with _lapack("slogdet", A):
        return SlogdetResult(*apply(ops.SlogDet(), _matrix("slogdet", A, square=True)))


def cholesky(A: Any, *, upper: bool = False) -> Any:  # noqa: N803 - PyTorch's spelling
    """The lower triangle L with ``A = L @ L.mH`` (or, with `upper`, its adjoint).

    Raises:
        LinAlgError: a matrix is not positive definite.
    """
    with _lapack("cholesky", A):
        y = apply(ops.Cholesky(), _matrix("cholesky", A, square=True))
    return y.mH if upper else y


def qr(A: Any, mode: str = "reduced") -> Any:  # noqa: N803 - PyTorch's spelling
    """(Q, R) with ``A = Q @ R``: Q with orthonormal columns, R an upper triangle.

    Args:
        mode: "reduced", "complete" (Q square; no gradient if A is tall) or "r" (Q is empty).
    """
    if mode not in ("reduced", "complete", "r"):
        raise ShapeError(f"linalg.qr: unknown mode {mode!r}; known: 'reduced', 'complete', 'r'")
    _matrix("qr", A)
    if mode == "r":
        triangle: Any = np.linalg.qr(A._array, mode="r")
        return QRResult(A._new(np.empty(0, triangle.dtype, like=triangle)), A._new(triangle))
    if mode == "complete" and A.shape[-2] > A.shape[-1]:
        q, r = np.linalg.qr(A._array, mode="complete")
        return QRResult(A._new(q), A._new(r))
    return QRResult(*apply(ops.QR(mode == "complete"), A))


def svd(A: Any, full_matrices: bool = True, *, driver: str | None = None) -> Any:  # noqa: N803
    """(U, S, Vh) with ``A = U @ diag(S) @ Vh``, singular values from the largest down.

    Args:
        full_matrices: U and Vh square; without a gradient unless A is square.
        driver: must be None; that of LAPACK is fixed.
    """
    if driver is not None:
        raise ShapeError("linalg.svd: driver chooses among CUDA's methods; on the CPU use None")
    _matrix("svd", A)
    with _lapack("svd", A):
        if full_matrices and A.shape[-1] != A.shape[-2]:
            return SVDResult(*(A._new(part) for part in np.linalg.svd(A._array)))
        return SVDResult(*apply(ops.SVD(), A))


def svdvals(A: Any, *, driver: str | None = None) -> Any:  # noqa: N803 - PyTorch's spelling
    """The singular values of matrices, from the largest down."""
    return svd(A, full_matrices=False, driver=driver).S


def eigh(A: Any, UPLO: str = "L") -> Any:  # noqa: N803 - PyTorch's spelling
    """(eigenvalues, eigenvectors) of hermitian matrices, from the smallest up.

    Args:
        UPLO: which triangle is read, "L" or "U".
    """
    if UPLO.upper() not in ("L", "U"):
        raise ShapeError(f"linalg.eigh: expected UPLO 'L' or 'U', came {UPLO!r}")
    with _lapack("eigh", A):
        triangle: Any = UPLO.upper()
        return EighResult(*apply(ops.EigH(triangle), _matrix("eigh", A, square=True)))


def eigvalsh(A: Any, UPLO: str = "L") -> Any:  # noqa: N803 - PyTorch's spelling
    """The eigenvalues of hermitian matrices, from the smallest up."""
    return eigh(A, UPLO).eigenvalues


def matrix_rank(
    A: Any,  # noqa: N803 - PyTorch's spelling
    *,
    atol: float | None = None,
    rtol: float | None = None,
    hermitian: bool = False,
) -> Any:
    """How many singular values count as larger than 0, int64.

    Args:
        atol, rtol: the bound is the larger of `atol` and `rtol` times the largest value.
        hermitian: the matrices are hermitian.
    """
    _matrix("matrix_rank", A, square=hermitian)
    values = np.linalg.svd(A._array, compute_uv=False)
    relative = rtol if rtol is not None else 0.0 if atol is not None else _cutoff(A)
    bound = np.maximum(atol or 0.0, relative * _largest(values))
    return A._new(as_array((values > bound).sum(-1)))


def _largest(values: np.ndarray) -> np.ndarray:
    """The largest of each row, (..., 1); 0 of an empty one."""
    if values.shape[-1]:
        return values.max(-1, keepdims=True)
    return np.zeros_like(values, shape=(*values.shape[:-1], 1))


def cond(A: Any, p: Any = None) -> Any:  # noqa: N803 - PyTorch's spelling
    """The condition number of matrices in norm `p` (None: 2)."""
    if p in (None, 2, -2):
        s = svdvals(A)
        return s[..., -1] / s[..., 0] if p == -2 else s[..., 0] / s[..., -1]
    return matrix_norm(A, p) * matrix_norm(inv(A), p)


# -- vectors ---------------------------------------------------------------------------------------
def cross(input: Any, other: Any, *, dim: int = -1) -> Any:
    """Vector product of vectors with three elements along `dim`."""
    return _cross(input, other, dim)


def vecdot(x: Any, y: Any, *, dim: int = -1) -> Any:
    """Sum of products along `dim`, `x` conjugated if complex."""
    return ((x.conj() if x.is_complex() else x) * y).sum(dim)


def diagonal(A: Any, *, offset: int = 0, dim1: int = -2, dim2: int = -1) -> Any:  # noqa: N803
    """The diagonals of matrices, as a view."""
    return _diagonal(A, offset, dim1, dim2)


def vander(x: Any, N: int | None = None) -> Any:  # noqa: N803 - PyTorch's spelling
    """Matrices whose rows are powers 0 to N-1 of the elements of `x`."""
    count = x.shape[-1] if N is None else N
    powers = x._new(np.arange(count, like=x._array))
    return x.unsqueeze(-1) ** cast(powers, x._array.dtype)
