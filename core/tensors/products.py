"""Products of vectors and matrices, as functions, methods and operators.

Sums over named dimensions: `einsum.py`. Decompositions and solvers: `allgrad.linalg`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from ..autograd.mode import mode
from ..errors import DtypeError, ShapeError
from ..ops import linear
from .autocasting import keeps, lowered, lowers
from .graph import TensorBase, apply
from .inplace import assign, check_in_place
from .moving import roll
from .promote import mismatch, operator_of
from .reductions import axis_of
from .shaping import broadcast_tensors, expand, reshape, unsqueeze

__all__ = [
    "addbmm",
    "addmm",
    "addmv",
    "addr",
    "baddbmm",
    "bmm",
    "chain_matmul",
    "cross",
    "dot",
    "ger",
    "inner",
    "kron",
    "matmul",
    "mm",
    "mv",
    "outer",
    "tensordot",
    "vdot",
]


def _shape(t: Any, name: str) -> tuple[int, ...]:
    if not isinstance(t, TensorBase):
        raise TypeError(f"{name}: expected a tensor, came {type(t).__name__}")
    return t._array.shape


def matmul(input: Any, other: Any) -> Any:
    """Matrix product as Python's @: vectors, matrices, or stacks of matrices.

    Args:
        input: (K), (M, K) or (..., M, K).
        other: (K), (K, N) or (..., K, N); the leading dimensions of both broadcast.

    Raises:
        RuntimeError: the inner dimensions or the dtypes differ, or the stacks do not broadcast.

    >>> import allgrad as ag
    >>> (ag.ones(5, 2, 3) @ ag.ones(3, 4)).shape
    allgrad.Size([5, 2, 4])
    """
    if mode.autocast is not None:
        return lowered(matmul, input, other)
    a, b = _shape(input, "matmul"), _shape(other, "matmul")
    inner = b[-2] if len(b) > 1 else b[-1] if b else None
    if not a or inner is None or a[-1] != inner:
        raise ShapeError(
            f"matmul: expected the last size of the first to match the rows of the second, came "
            f"{a} and {b}"
        )
    if input._array.dtype != other._array.dtype:
        raise DtypeError(
            f"matmul: expected both tensors of one dtype, came {input.dtype} and {other.dtype}"
        )
    op = linear.MatMul() if len(a) > 1 and len(b) > 1 else linear.Dot()
    try:
        return apply(op, input, other)
    except ValueError as err:
        raise mismatch("matmul", err, input, other) from err


def _fixed(name: str, input: Any, other: Any, dims: tuple[int, int], what: str) -> None:
    """Raise unless both have as many dimensions as `name` wants."""
    a, b = _shape(input, name), _shape(other, name)
    if (len(a), len(b)) != dims:
        raise ShapeError(f"{name}: expected {what}, came {a} and {b}")


def mm(input: Any, mat2: Any) -> Any:
    """Matrix product of two matrices."""
    _fixed("mm", input, mat2, (2, 2), "two matrices")
    return matmul(input, mat2)


@keeps
def mv(input: Any, vec: Any) -> Any:
    """Product of a matrix (M, K) with a vector (K)."""
    _fixed("mv", input, vec, (2, 1), "a matrix and a vector")
    return matmul(input, vec)


def bmm(input: Any, mat2: Any) -> Any:
    """Products of matrices in two stacks (B, M, K) and (B, K, N)."""
    _fixed("bmm", input, mat2, (3, 3), "(B, M, K) and (B, K, N)")
    if input._array.shape[0] != mat2._array.shape[0]:
        raise ShapeError(
            f"bmm: expected (B, M, K) and (B, K, N), came {tuple(input.shape)} and "
            f"{tuple(mat2.shape)}"
        )
    return matmul(input, mat2)


@keeps
def dot(input: Any, tensor: Any) -> Any:
    """Product of two vectors."""
    _fixed("dot", input, tensor, (1, 1), "two vectors")
    return matmul(input, tensor)


@keeps
def vdot(input: Any, other: Any) -> Any:
    """Product of two vectors, the first one conjugated if complex."""
    _fixed("vdot", input, other, (1, 1), "two vectors")
    return matmul(input.conj() if input.is_complex() else input, other)


def inner(input: Any, other: Any) -> Any:
    """Sum of products over the last dimension of both: (..., K), (---, K) -> (..., ---)."""
    a, b = _shape(input, "inner"), _shape(other, "inner")
    if not a or not b:
        return input * other
    if a[-1] != b[-1]:
        raise ShapeError(f"inner: expected last dimensions of one size, came {a} and {b}")
    rows = matmul(reshape(input, -1, a[-1]), reshape(other, -1, b[-1]).t())
    return reshape(rows, (*a[:-1], *b[:-1]))


def outer(input: Any, vec2: Any) -> Any:
    """All products of the elements of two vectors: (M), (N) -> (M, N)."""
    _fixed("outer", input, vec2, (1, 1), "two vectors")
    return unsqueeze(input, 1) * vec2


ger = outer


def _added(
    name: str, input: Any, product: Any, factors: Sequence[Any], beta: Any, alpha: Any
) -> Any:
    """beta * input + alpha * product; `factors` are what `product` was made of, for the message."""
    y = product if alpha == 1 else product * alpha
    target = tuple(y.shape)
    try:
        wide = expand(input, target)
    except ShapeError as err:
        a, b = (tuple(t.shape) for t in factors)
        raise ShapeError(
            f"{name}: input of shape {tuple(input.shape)} does not broadcast to the product "
            f"{target} of {a} and {b}"
        ) from err
    if beta == 0:  # nan in `input` must not matter
        return y
    return wide + y if beta == 1 else wide * beta + y


@lowers
def addmm(input: Any, mat1: Any, mat2: Any, *, beta: Any = 1, alpha: Any = 1) -> Any:
    """beta * input + alpha * `mm` of two matrices; a `beta` of 0 leaves `input` out."""
    return _added("addmm", input, mm(mat1, mat2), (mat1, mat2), beta, alpha)


def addmv(input: Any, mat: Any, vec: Any, *, beta: Any = 1, alpha: Any = 1) -> Any:
    """beta * input + alpha * `mv` of a matrix and a vector; a `beta` of 0 leaves `input` out."""
    return _added("addmv", input, mv(mat, vec), (mat, vec), beta, alpha)


def addr(input: Any, vec1: Any, vec2: Any, *, beta: Any = 1, alpha: Any = 1) -> Any:
    """beta * input + alpha * `outer` of two vectors; a `beta` of 0 leaves `input` out."""
    return _added("addr", input, outer(vec1, vec2), (vec1, vec2), beta, alpha)


@lowers
def baddbmm(input: Any, batch1: Any, batch2: Any, *, beta: Any = 1, alpha: Any = 1) -> Any:
    """beta * input + alpha * `bmm` of two stacks; a `beta` of 0 leaves `input` out."""
    return _added("baddbmm", input, bmm(batch1, batch2), (batch1, batch2), beta, alpha)


@lowers
def addbmm(input: Any, batch1: Any, batch2: Any, *, beta: Any = 1, alpha: Any = 1) -> Any:
    """beta * input + alpha * the sum of `bmm` of two stacks; a `beta` of 0 leaves `input` out."""
    return _added("addbmm", input, bmm(batch1, batch2).sum(0), (batch1, batch2), beta, alpha)


def _in_place(function: Callable[..., Any]) -> Callable[..., Any]:
    name = f"{function.__name__}_"

    def method(self: Any, *factors: Any, **options: Any) -> Any:
        check_in_place(self, name)
        return assign(self, function(self, *factors, **options), name)

    method.__name__ = method.__qualname__ = name
    method.__doc__ = f"`{function.__name__}` in place; returns self."
    return method


addmm_, addmv_, addr_, baddbmm_, addbmm_ = map(_in_place, (addmm, addmv, addr, baddbmm, addbmm))


def tensordot(a: Any, b: Any, dims: Any = 2) -> Any:
    """Sum of products over several dimensions of two tensors.

    Args:
        dims: how many of the last dimensions of `a` meet the first of `b`; or two lists of
            dimensions, those of `a` and those of `b`.

    Raises:
        RuntimeError: dimensions of different sizes or counts.

    >>> import allgrad as ag
    >>> tensordot(ag.ones(2, 3, 4), ag.ones(4, 3, 5), dims=([1, 2], [1, 0])).shape
    allgrad.Size([2, 5])
    """
    sa, sb = _shape(a, "tensordot"), _shape(b, "tensordot")
    if isinstance(dims, int):
        if not 0 <= dims <= min(len(sa), len(sb)):
            raise ShapeError(f"tensordot: {dims} dimensions of shapes {sa} and {sb}")
        of_a, of_b = list(range(len(sa) - dims, len(sa))), list(range(dims))
    else:
        given = dims._array.tolist() if isinstance(dims, TensorBase) else dims
        of_a, of_b = ([d] if isinstance(d, int) else list(d) for d in given)
        of_a = [axis_of(d, len(sa), "tensordot") for d in of_a]
        of_b = [axis_of(d, len(sb), "tensordot") for d in of_b]
    if [sa[i] for i in of_a] != [sb[i] for i in of_b]:
        raise ShapeError(
            f"tensordot: dimensions {of_a} of {sa} and {of_b} of {sb} differ in size or number"
        )
    rest_a = [i for i in range(len(sa)) if i not in of_a]
    rest_b = [i for i in range(len(sb)) if i not in of_b]
    count = 1
    for i in of_a:
        count *= sa[i]
    rows = reshape(a.permute([*rest_a, *of_a]), -1 if count else _count(sa, rest_a), count)
    columns = reshape(b.permute([*of_b, *rest_b]), count, -1 if count else _count(sb, rest_b))
    return reshape(matmul(rows, columns), [sa[i] for i in rest_a] + [sb[i] for i in rest_b])


def _count(shape: tuple[int, ...], axes: list[int]) -> int:
    count = 1
    for i in axes:
        count *= shape[i]
    return count


def kron(input: Any, other: Any) -> Any:
    """Kronecker product: every element of `input` times the whole of `other`."""
    a, b = _shape(input, "kron"), _shape(other, "kron")
    n = max(len(a), len(b))
    a, b = (1,) * (n - len(a)) + a, (1,) * (n - len(b)) + b
    left = reshape(input, [s for size in a for s in (size, 1)])
    right = reshape(other, [s for size in b for s in (1, size)])
    return reshape(left * right, [x * y for x, y in zip(a, b, strict=True)])


def cross(input: Any, other: Any, dim: int | None = None) -> Any:
    """Vector product of vectors with three elements along `dim`.

    Args:
        dim: None takes the first dimension of size 3.

    Raises:
        RuntimeError: no dimension of size 3, or shapes that do not broadcast.
    """
    input, other = broadcast_tensors(input, other)
    shape = tuple(input.shape)
    if dim is None and 3 not in shape:
        raise ShapeError(f"cross: expected a dimension of size 3, came {shape}")
    axis = shape.index(3) if dim is None else axis_of(dim, len(shape), "cross")
    if not shape or shape[axis] != 3:
        raise ShapeError(f"cross: expected size 3 in dimension {dim}, came {shape}")
    first = roll(input, -1, axis) * roll(other, -2, axis)
    return first - roll(input, -2, axis) * roll(other, -1, axis)


def multi_dot(tensors: Sequence[Any]) -> Any:
    """Product of several matrices in the order that needs the fewest multiplications.

    Args:
        tensors: two or more matrices; the first and the last may be vectors.

    Raises:
        RuntimeError: fewer than two, or shapes that do not fit.
    """
    parts = list(tensors)
    shapes = [_shape(t, "multi_dot") for t in parts]
    if len(parts) < 2:
        raise ShapeError(f"multi_dot: expected at least two tensors, came {len(parts)}")
    if any(len(s) != 2 for s in shapes[1:-1]) or any(len(s) not in (1, 2) for s in shapes):
        raise ShapeError(f"multi_dot: expected matrices, vectors only at the ends, came {shapes}")
    first, last = len(shapes[0]) == 1, len(shapes[-1]) == 1
    if first:
        parts[0] = unsqueeze(parts[0], 0)
    if last:
        parts[-1] = unsqueeze(parts[-1], 1)
    y = _chain(parts, _best_cuts([tuple(p.shape) for p in parts]), 0, len(parts) - 1)
    y = y.squeeze(0) if first else y
    return y.squeeze(-1) if last else y


def _best_cuts(shapes: list[tuple[int, ...]]) -> dict[tuple[int, int], int]:
    """(i, j) -> where to cut the product of matrices i to j. Dynamic programming."""
    n = len(shapes)
    cost = {(i, i): 0 for i in range(n)}
    cuts: dict[tuple[int, int], int] = {}
    for length in range(1, n):
        for i in range(n - length):
            j = i + length
            ends = shapes[i][0] * shapes[j][1]
            choices = [(cost[i, k] + cost[k + 1, j] + ends * shapes[k][1], k) for k in range(i, j)]
            cost[i, j], cuts[i, j] = min(choices)
    return cuts


def _chain(parts: list[Any], cuts: dict[tuple[int, int], int], i: int, j: int) -> Any:
    if i == j:
        return parts[i]
    k = cuts[i, j]
    return matmul(_chain(parts, cuts, i, k), _chain(parts, cuts, k + 1, j))


def chain_matmul(*matrices: Any) -> Any:
    """Product of several matrices in the cheapest order; one matrix as it is."""
    given = (
        matrices[0] if len(matrices) == 1 and isinstance(matrices[0], list | tuple) else matrices
    )
    return given[0] if len(given) == 1 else multi_dot(given)


class ProductMethods(TensorBase):
    """Methods and operators of Tensor that are products of vectors and matrices."""

    matmul, mm, mv, bmm, dot, vdot = matmul, mm, mv, bmm, dot, vdot
    inner, outer, ger, kron, cross = inner, outer, ger, kron, cross
    addmm, addmv, addr, baddbmm, addbmm = addmm, addmv, addr, baddbmm, addbmm
    addmm_, addmv_, addr_, baddbmm_, addbmm_ = addmm_, addmv_, addr_, baddbmm_, addbmm_
    __matmul__, __rmatmul__ = operator_of(matmul), operator_of(matmul, swap=True)
