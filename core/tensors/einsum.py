"""Sums of products over named dimensions.

A composition of diagonals, permutations and matrix products, so gradients of any order follow.
"""

from __future__ import annotations

import itertools
from typing import Any

from ..errors import ShapeError
from .graph import TensorBase
from .moving import diagonal
from .products import matmul
from .shaping import expand, reshape

__all__ = ["einsum"]

Labels = list[Any]  # a letter, or a negative integer for a dimension of "...", counted from its end
_LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"


def einsum(equation: Any, *operands: Any) -> Any:
    """Sums of products of tensors whose dimensions are named by letters.

    Args:
        equation: the dimensions of every operand, commas between them, then optionally "->" and
            those of the result; without, they are the letters that occur once, in order. A
            letter that occurs twice in an operand takes its diagonal; "..." stands for any
            dimensions, which broadcast.
        operands: the tensors. Also ``einsum(a, [0, 1], b, [1, 2], [0, 2])``.

    Raises:
        RuntimeError: the equation does not fit the tensors.

    >>> import allgrad as ag
    >>> einsum("bij,bjk->bik", ag.ones(2, 3, 4), ag.ones(2, 4, 5)).shape
    allgrad.Size([2, 3, 5])
    """
    if not isinstance(equation, str):
        equation, operands = _from_lists((equation, *operands))
    if len(operands) == 1 and isinstance(operands[0], list | tuple):
        operands = tuple(operands[0])
    names, result = _parse(equation, operands)
    sizes = _sizes(equation, names, operands)
    pairs = [_diagonals(t, labels) for t, labels in zip(operands, names, strict=True)]
    while True:
        i, j = _next_pair(pairs, result, sizes)
        if i is None:
            break
        a, b = pairs[i], pairs[j]
        pairs = [p for k, p in enumerate(pairs) if k not in (i, j)]
        kept = set(result).union(*(labels for _, labels in pairs))
        pairs.append(_contract(a, b, kept, sizes))
    y, labels = _sum_out(*pairs[0], set(result))
    return y.permute([labels.index(name) for name in result]) if result else y


def _from_lists(arguments: tuple[Any, ...]) -> tuple[str, tuple[Any, ...]]:
    """The equation of operands that are each followed by a list of integers."""

    def term(numbers: Any) -> str:
        parts = ["..." if n is Ellipsis else _letter(n) for n in numbers]
        return "".join(parts)

    pairs = len(arguments) // 2 * 2
    equation = ",".join(term(arguments[i]) for i in range(1, pairs, 2))
    if len(arguments) % 2:
        equation += "->" + term(arguments[-1])
    return equation, arguments[0:pairs:2]


def _letter(number: int) -> str:
    if not 0 <= number < len(_LETTERS):
        raise ShapeError(f"einsum: expected dimensions named 0..{len(_LETTERS) - 1}, came {number}")
    return _LETTERS[number]


def _parse(equation: str, operands: tuple[Any, ...]) -> tuple[list[Labels], Labels]:
    """(labels of every operand, labels of the result)."""
    left, arrow, right = equation.replace(" ", "").partition("->")
    terms = left.split(",")
    if not operands or len(terms) != len(operands):
        raise ShapeError(
            f"einsum: equation {equation!r} names {len(terms)} operands, came {len(operands)}"
        )
    for t in operands:
        if not isinstance(t, TensorBase):
            raise TypeError(f"einsum: expected tensors, came {type(t).__name__}")
    names = [_labels(equation, s, t._array.ndim) for s, t in zip(terms, operands, strict=True)]
    everything = list(itertools.chain(*names))
    dots = sorted({name for name in everything if isinstance(name, int)})
    if not arrow:
        once = {name for name in everything if everything.count(name) == 1}
        return names, [*dots, *sorted(n for n in once if isinstance(n, str))]
    result: Labels = []
    before, ellipsis, after = right.partition("...")
    for part in (before, dots if ellipsis else "", after):
        result.extend(part)
    unknown = [n for n in result if n not in everything]
    if unknown or len(set(result)) != len(result):
        raise ShapeError(
            f"einsum: expected each dimension of the result of {equation!r} once, and in an operand"
        )
    return names, result


def _labels(equation: str, term: str, ndim: int) -> Labels:
    """One label for each dimension of an operand."""
    before, ellipsis, after = term.partition("...")
    letters = before + after
    if not all(c in _LETTERS for c in letters):
        raise ShapeError(f"einsum: expected letters in {equation!r}, came {term!r}")
    rest = ndim - len(letters)
    if rest < 0 or (rest and not ellipsis):
        raise ShapeError(
            f"einsum: {term!r} of {equation!r} names {len(letters)} dimensions, the operand has "
            f"{ndim}"
        )
    return [*before, *range(-rest, 0), *after]


def _sizes(equation: str, names: list[Labels], operands: tuple[Any, ...]) -> dict[Any, int]:
    """Size of every label; 1 gives way to another size."""
    sizes: dict[Any, int] = {}
    for labels, t in zip(names, operands, strict=True):
        for name, n in zip(labels, t._array.shape, strict=True):
            known = sizes.get(name, 1)
            if n != known and 1 not in (n, known):
                shapes = [tuple(o.shape) for o in operands]
                raise ShapeError(
                    f"einsum: dimension {name!r} of {equation!r} has sizes {known} and {n} in "
                    f"operands of shapes {shapes}"
                )
            sizes[name] = n if known == 1 else known
    return sizes


def _diagonals(t: Any, labels: Labels) -> tuple[Any, Labels]:
    """The operand with every label once."""
    labels = list(labels)
    for name in set(labels):
        while labels.count(name) > 1:
            i = labels.index(name)
            j = labels.index(name, i + 1)
            a, b = t._array.shape[i], t._array.shape[j]
            if a != b:
                raise ShapeError(
                    f"einsum: dimension {name!r} occurs twice in an operand of shape "
                    f"{tuple(t.shape)}, with different sizes"
                )
            t = diagonal(t, 0, i, j)
            labels = [*labels[:i], *labels[i + 1 : j], *labels[j + 1 :], name]
    return t, labels


def _next_pair(
    pairs: list[tuple[Any, Labels]], result: Labels, sizes: dict[Any, int]
) -> tuple[Any, Any]:
    """The two operands whose product is smallest; (None, None) when one is left."""
    best: tuple[Any, Any] = (None, None)
    least = None
    for i, j in itertools.combinations(range(len(pairs)), 2):
        others = set(result).union(*(p[1] for k, p in enumerate(pairs) if k not in (i, j)))
        size = 1
        for name in {*pairs[i][1], *pairs[j][1]} & others:
            size *= sizes[name]
        if least is None or size < least:
            least, best = size, (i, j)
    return best


def _sum_out(t: Any, labels: Labels, kept: set[Any]) -> tuple[Any, Labels]:
    """Without the dimensions that nobody needs."""
    gone = [i for i, name in enumerate(labels) if name not in kept]
    if gone:
        t = t.sum(gone)
        labels = [name for name in labels if name in kept]
    return t, labels


def _contract(
    a: tuple[Any, Labels], b: tuple[Any, Labels], kept: set[Any], sizes: dict[Any, int]
) -> tuple[Any, Labels]:
    """Product of two operands, summed over what is needed no more."""
    x, of_x = _sum_out(*a, kept | set(b[1]))
    y, of_y = _sum_out(*b, kept | set(of_x))
    shared = [n for n in of_x if n in of_y]
    batch = [n for n in shared if n in kept]
    summed = [n for n in shared if n not in kept]
    only_x = [n for n in of_x if n not in of_y]
    only_y = [n for n in of_y if n not in of_x]

    def matrix(t: Any, labels: Labels, *groups: Labels) -> Any:
        order = list(itertools.chain(*groups))
        t = t.permute([labels.index(n) for n in order]) if order else t
        wanted = [sizes[n] if n in shared else t._array.shape[i] for i, n in enumerate(order)]
        if list(t._array.shape) != wanted:
            t = expand(t, wanted)
        return reshape(t, [_product(sizes_of, order, wanted) for sizes_of in groups])

    left = matrix(x, of_x, batch, only_x, summed)
    right = matrix(y, of_y, batch, summed, only_y)
    if not summed:
        z = left * right
    elif batch:
        z = matmul(left, right)
    else:
        z = matmul(left.squeeze(0), right.squeeze(0))
    names = [*batch, *only_x, *only_y]
    shape_x = dict(zip(of_x, x._array.shape, strict=True))
    shape_y = dict(zip(of_y, y._array.shape, strict=True))
    own = {**shape_x, **shape_y, **{n: sizes[n] for n in batch}}
    return reshape(z, [own[n] for n in names]), names


def _product(group: Labels, order: Labels, wanted: list[int]) -> int:
    count = 1
    for name in group:
        count *= wanted[order.index(name)]
    return count
