"""Comparisons, tests and logical functions of tensors: bool results without gradients."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ..dtypes import DIFFERENTIABLE
from ..errors import DtypeError
from .graph import TensorBase
from .promote import operator_of, plain

__all__ = [
    "allclose",
    "bitwise_and",
    "bitwise_not",
    "bitwise_or",
    "bitwise_xor",
    "eq",
    "equal",
    "ge",
    "gt",
    "isclose",
    "isfinite",
    "isinf",
    "isnan",
    "le",
    "logical_and",
    "logical_not",
    "logical_or",
    "logical_xor",
    "lt",
    "ne",
]


def _test(function: Any, name: str) -> Callable[..., Any]:
    def test(input: Any) -> Any:
        return input._new(function(input._array))

    test.__name__ = test.__qualname__ = name
    test.__doc__ = f"Bool tensor: {name} of each element."
    return test


isnan = _test(np.isnan, "isnan")
isinf = _test(np.isinf, "isinf")
isfinite = _test(np.isfinite, "isfinite")
logical_not = _test(np.logical_not, "logical_not")


def _compare(function: Any, name: str) -> Callable[..., Any]:
    def compare(input: Any, other: Any) -> Any:
        return plain(function, name, input, other)

    compare.__name__ = compare.__qualname__ = name
    compare.__doc__ = f"Bool tensor: elementwise {name}, broadcast."
    return compare


eq = _compare(np.equal, "eq")
ne = _compare(np.not_equal, "ne")
lt = _compare(np.less, "lt")
le = _compare(np.less_equal, "le")
gt = _compare(np.greater, "gt")
ge = _compare(np.greater_equal, "ge")
logical_and = _compare(np.logical_and, "logical_and")
logical_or = _compare(np.logical_or, "logical_or")
logical_xor = _compare(np.logical_xor, "logical_xor")


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


def bitwise_not(input: Any) -> Any:
    """Elementwise not of integers or bools."""
    if input._array.dtype.kind in DIFFERENTIABLE:
        raise TypeError("bitwise_not: expected an integer or bool tensor")
    return input._new(np.invert(input._array))


def isclose(input: Any, other: Any, rtol: float = 1e-5, atol: float = 1e-8) -> Any:
    """Bool tensor: |input - other| <= atol + rtol * |other|."""
    return input._new(np.isclose(input._array, other._array, rtol, atol))


def allclose(input: Any, other: Any, rtol: float = 1e-5, atol: float = 1e-8) -> bool:
    """True when `isclose` holds everywhere."""
    return bool(np.allclose(input._array, other._array, rtol, atol))


def equal(input: Any, other: Any) -> bool:
    """True when both tensors have the same shape and elements."""
    return bool(np.array_equal(input._array, other._array))


class LogicMethods:
    """Comparing and logical methods and operators of Tensor."""

    isnan, isinf, isfinite, isclose, allclose = isnan, isinf, isfinite, isclose, allclose
    eq, ne, lt, le, gt, ge, equal = eq, ne, lt, le, gt, ge, equal
    logical_not, logical_and, logical_or = logical_not, logical_and, logical_or
    logical_xor, bitwise_not, bitwise_and = logical_xor, bitwise_not, bitwise_and
    bitwise_or, bitwise_xor = bitwise_or, bitwise_xor

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
    __hash__ = object.__hash__
