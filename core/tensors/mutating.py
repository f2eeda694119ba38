"""The in-place forms of elementwise functions: ``t.sin_()`` stores what ``t.sin()`` gives in t."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from . import arithmetic, unary
from .inplace import assign, check_in_place
from .promote import operator_of


def in_place(function: Callable[..., Any], name: str | None = None) -> Callable[..., Any]:
    """The method that stores the result of `function` in its first argument."""
    name = f"{name or function.__name__}_"

    def method(self: Any, *args: Any, **kwargs: Any) -> Any:
        check_in_place(self, name)
        return assign(self, function(self, *args, **kwargs), name)

    method.__name__ = method.__qualname__ = name
    method.__doc__ = f"`{function.__name__}` in place; returns self."
    return method


def _each(*functions: Callable[..., Any]) -> Iterator[Callable[..., Any]]:
    return map(in_place, functions)


class InPlaceMethods:
    """Methods of Tensor that overwrite it by a function of it."""

    add_, sub_, mul_, div_, pow_ = _each(
        arithmetic.add, arithmetic.sub, arithmetic.mul, arithmetic.div, arithmetic.pow
    )
    subtract_, multiply_, divide_ = add_, mul_, div_
    floor_divide_, remainder_, fmod_, clamp_ = _each(
        arithmetic.floor_divide, arithmetic.remainder, arithmetic.fmod, arithmetic.clamp
    )
    exp_, expm1_, log_, log2_, log10_, log1p_ = _each(
        unary.exp, unary.expm1, unary.log, unary.log2, unary.log10, unary.log1p
    )
    sqrt_, tanh_, sigmoid_ = _each(unary.sqrt, unary.tanh, unary.sigmoid)
    abs_, neg_, floor_, ceil_ = _each(unary.abs, unary.neg, unary.floor, unary.ceil)
    round_, reciprocal_, square_ = _each(unary.round, unary.reciprocal, unary.square)
    __iadd__, __isub__ = operator_of(add_), operator_of(sub_)
    __imul__, __itruediv__ = operator_of(mul_), operator_of(div_)
