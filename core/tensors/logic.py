"""Comparisons, tests and logical functions of tensors: bool results without gradients."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ..dtypes import DIFFERENTIABLE, FLOATING
from ..errors import DtypeError
from .graph import TensorBase
from .promote import need_tensors, not_a_tensor, operator_of, plain, refuse_complex

__all__ = [
    "allclose",
    "bitwise_and",
    "bitwise_left_shift",
    "bitwise_not",
    "bitwise_or",
    "bitwise_right_shift",
    "bitwise_xor",
    "eq",
    "equal",
    "ge",
    "greater",
    "greater_equal",
    "gt",
    "isclose",
    "isfinite",
    "isin",
    "isinf",
    "isnan",
    "isneginf",
    "isposinf",
    "isreal",
    "le",
    "less",
    "less_equal",
    "logical_and",
    "logical_not",
    "logical_or",
    "logical_xor",
    "lt",
    "ne",
    "not_equal",
    "signbit",
]


def _test(function: Any, name: str, meaning: str = "", real: bool = False) -> Callable[..., Any]:
    def test(input: Any) -> Any:
        try:
            array = input._array
        except AttributeError:
            raise not_a_tensor(name, input) from None
        if real:
            refuse_complex(name, input)
        return input._new(function(array))

    test.__name__ = test.__qualname__ = name
    test.__doc__ = meaning or f"Bool tensor: {name} of each element."
    return test


isnan = _test(np.isnan, "isnan")
isinf = _test(np.isinf, "isinf")
isfinite = _test(np.isfinite, "isfinite")
isreal = _test(np.isreal, "isreal", "Bool tensor: whether the imaginary part is 0.")
logical_not = _test(np.logical_not, "logical_not")
isposinf = _test(
    lambda x: (x == np.inf) if x.dtype.kind in FLOATING else np.zeros(x.shape, bool),
    "isposinf", "Bool tensor: whether each element is +inf.", real=True,
)  # fmt: skip
isneginf = _test(
    lambda x: (x == -np.inf) if x.dtype.kind in FLOATING else np.zeros(x.shape, bool),
    "isneginf", "Bool tensor: whether each element is -inf.", real=True,
)  # fmt: skip
signbit = _test(
    lambda x: np.signbit(x) if x.dtype.kind in FLOATING else x < 0,
    "signbit", "Bool tensor: whether the sign is negative, that of -0.0 included.", real=True,
)  # fmt: skip


def _compare(
    function: Any, name: str, ordered: bool = False, numbers: bool = True
) -> Callable[..., Any]:
    def compare(input: Any, other: Any) -> Any:
        if not numbers:
            need_tensors(name, input, other)
        if ordered:
            refuse_complex(name, input, other)
        return plain(function, name, input, other)

    compare.__name__ = compare.__qualname__ = name
    compare.__doc__ = f"Bool tensor: elementwise {name}, broadcast."
    return compare


eq = _compare(np.equal, "eq")
ne = _compare(np.not_equal, "ne")
lt = _compare(np.less, "lt", ordered=True)
le = _compare(np.less_equal, "le", ordered=True)
gt = _compare(np.greater, "gt", ordered=True)
ge = _compare(np.greater_equal, "ge", ordered=True)
not_equal, less, less_equal, greater, greater_equal = ne, lt, le, gt, ge
logical_and = _compare(np.logical_and, "logical_and", numbers=False)
logical_or = _compare(np.logical_or, "logical_or", numbers=False)
logical_xor = _compare(np.logical_xor, "logical_xor", numbers=False)


def _bits(function: Any, name: str) -> Callable[..., Any]:
    def bits(input: Any, other: Any) -> Any:
        for v in (input, other):
            if isinstance(v, float) or (
                isinstance(v, TensorBase) and v._array.dtype.kind in DIFFERENTIABLE
            ):
                raise DtypeError(f"{name}: expected integer or bool tensors")
        return plain(function, name, input, other)

    bits.__name__ = bits.__qualname__ = name
    bits.__doc__ = f"Elementwise {name} of integers or bools."
    return bits


bitwise_and = _bits(np.bitwise_and, "bitwise_and")
bitwise_or = _bits(np.bitwise_or, "bitwise_or")
bitwise_xor = _bits(np.bitwise_xor, "bitwise_xor")


def _shift(function: Any, name: str) -> Callable[..., Any]:
    bits = _bits(function, name)

    def shift(input: Any, other: Any) -> Any:
        if all(isinstance(v, bool) or _is_bool(v) for v in (input, other)):
            raise DtypeError(f"{name}: not defined for bool")
        return bits(input, other)

    shift.__name__ = shift.__qualname__ = name
    shift.__doc__ = bits.__doc__
    return shift


def _is_bool(value: Any) -> bool:
    return isinstance(value, TensorBase) and value._array.dtype.kind == "b"


bitwise_left_shift = _shift(np.left_shift, "bitwise_left_shift")
bitwise_right_shift = _shift(np.right_shift, "bitwise_right_shift")


def bitwise_not(input: Any) -> Any:
    """Elementwise not of integers or bools."""
    if input._array.dtype.kind in DIFFERENTIABLE:
        raise TypeError(f"bitwise_not: expected an integer or bool tensor, came {input.dtype}")
    return input._new(np.invert(input._array))


def isclose(
    input: Any, other: Any, rtol: float = 1e-5, atol: float = 1e-8, equal_nan: bool = False
) -> Any:
    """Bool tensor: |input - other| <= atol + rtol * |other|.

    Args:
        input, other: tensors of one dtype, broadcast.
        rtol, atol: tolerances relative to `other`, and absolute.
        equal_nan: whether nan is close to nan.

    Raises:
        RuntimeError: the dtypes or shapes do not fit, or a tolerance is negative.
    """
    need_tensors("isclose", input, other)
    if input._array.dtype != other._array.dtype:
        raise DtypeError(
            f"isclose: expected both tensors of one dtype, came {input.dtype} and {other.dtype}"
        )
    if rtol < 0 or atol < 0:
        raise DtypeError(f"isclose: expected tolerances >= 0, came rtol={rtol} and atol={atol}")

    def close(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        if a.dtype.kind in "bV":
            a, b = a.astype(np.float32), b.astype(np.float32)
        return np.isclose(a, b, rtol, atol, equal_nan)

    return plain(close, "isclose", input, other)


def allclose(
    input: Any, other: Any, rtol: float = 1e-5, atol: float = 1e-8, equal_nan: bool = False
) -> bool:
    """True when `isclose` holds everywhere."""
    return bool(isclose(input, other, rtol, atol, equal_nan)._array.all())


def isin(
    elements: Any, test_elements: Any, *, assume_unique: bool = False, invert: bool = False
) -> Any:
    """Bool tensor: whether each of `elements` is among `test_elements`.

    Args:
        elements, test_elements: tensors, or one of them a number.
        assume_unique: both hold no element twice, which may be faster.
        invert: ask whether each is not among them.

    >>> import allgrad as ag
    >>> ag.isin(ag.tensor([1, 2, 3]), ag.tensor([3, 1]))
    tensor([ True, False,  True])
    """
    given = [v._array if isinstance(v, TensorBase) else v for v in (elements, test_elements)]
    source = elements if isinstance(elements, TensorBase) else test_elements
    if not isinstance(source, TensorBase):
        raise not_a_tensor("isin", source)
    unique = assume_unique and all(isinstance(v, np.ndarray) for v in given)
    return source._new(np.isin(given[0], given[1], assume_unique=unique, invert=invert))


def equal(input: Any, other: Any) -> bool:
    """True when both tensors have the same shape and elements."""
    need_tensors("equal", input, other)
    return bool(np.array_equal(input._array, other._array))


class LogicMethods:
    """Comparing and logical methods and operators of Tensor."""

    isnan, isinf, isfinite, isclose, allclose = isnan, isinf, isfinite, isclose, allclose
    eq, ne, lt, le, gt, ge, equal = eq, ne, lt, le, gt, ge, equal
    not_equal, less, less_equal, greater, greater_equal = ne, lt, le, gt, ge
    isreal, isposinf, isneginf, signbit = isreal, isposinf, isneginf, signbit
    bitwise_left_shift, bitwise_right_shift = bitwise_left_shift, bitwise_right_shift
    logical_not, logical_and, logical_or = logical_not, logical_and, logical_or
    logical_xor, bitwise_not, bitwise_and = logical_xor, bitwise_not, bitwise_and
    bitwise_or, bitwise_xor = bitwise_or, bitwise_xor

    def __contains__(self: Any, element: Any) -> bool:
        return bool(eq(self, element)._array.any())

    __invert__ = bitwise_not
    __eq__, __ne__ = operator_of(eq), operator_of(ne)
    __lt__, __le__, __gt__, __ge__ = (
        operator_of(lt),
        operator_of(le),
        operator_of(gt),
        operator_of(ge),
    )
    __and__, __rand__ = operator_of(bitwise_and), operator_of(bitwise_and)
    __or__, __ror__ = operator_of(bitwise_or), operator_of(bitwise_or)
    __xor__, __rxor__ = operator_of(bitwise_xor), operator_of(bitwise_xor)
    __lshift__, __rlshift__ = (
        operator_of(bitwise_left_shift),
        operator_of(bitwise_left_shift, swap=True),
    )
    __rshift__, __rrshift__ = (
        operator_of(bitwise_right_shift),
        operator_of(bitwise_right_shift, swap=True),
    )
    __hash__ = object.__hash__
