"""The in-place forms of elementwise functions: ``t.sin_()`` stores what ``t.sin()`` gives in t.

May import: the files of the functions, inplace.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from ..errors import DtypeError
from . import arithmetic, logic, pairs, unary
from .inplace import assign, check_in_place
from .promote import not_a_tensor, operator_of

__all__ = [
    "abs_",
    "acos_",
    "acosh_",
    "arccos_",
    "arccosh_",
    "arcsin_",
    "arcsinh_",
    "arctan_",
    "arctanh_",
    "asin_",
    "asinh_",
    "atan_",
    "atanh_",
    "ceil_",
    "clamp_",
    "clamp_max_",
    "clamp_min_",
    "clip_",
    "cos_",
    "cosh_",
    "deg2rad_",
    "erf_",
    "erfc_",
    "exp2_",
    "exp_",
    "expm1_",
    "fix_",
    "floor_",
    "frac_",
    "gcd_",
    "lcm_",
    "ldexp_",
    "log1p_",
    "log2_",
    "log10_",
    "log_",
    "logit_",
    "nan_to_num_",
    "neg_",
    "negative_",
    "rad2deg_",
    "reciprocal_",
    "round_",
    "rsqrt_",
    "sigmoid_",
    "sin_",
    "sinc_",
    "sinh_",
    "sqrt_",
    "square_",
    "tan_",
    "tanh_",
    "trunc_",
    "xlogy_",
]


def in_place(function: Callable[..., Any]) -> Callable[..., Any]:
    """The method that stores the result of `function` in its first argument."""
    name = f"{function.__name__}_"

    def method(self: Any, *args: Any, **kwargs: Any) -> Any:
        if not hasattr(self, "_version"):
            raise not_a_tensor(name, self)
        check_in_place(self, name)
        return assign(self, function(self, *args, **kwargs), name)

    method.__name__ = method.__qualname__ = name
    method.__doc__ = f"`{function.__name__}` in place; returns self."
    return method


def _each(*functions: Callable[..., Any]) -> Iterator[Callable[..., Any]]:
    return map(in_place, functions)


add_, clamp_, clamp_max_, clamp_min_ = _each(
    arithmetic.add, arithmetic.clamp, arithmetic.clamp_max, arithmetic.clamp_min
)
div_, floor_divide_, fmod_, mul_ = _each(
    arithmetic.div, arithmetic.floor_divide, arithmetic.fmod, arithmetic.mul
)
pow_, remainder_, sub_ = _each(arithmetic.pow, arithmetic.remainder, arithmetic.sub)
abs_, acos_, acosh_, asin_ = _each(unary.abs, unary.acos, unary.acosh, unary.asin)
asinh_, atan_, atanh_, ceil_ = _each(unary.asinh, unary.atan, unary.atanh, unary.ceil)
cos_, cosh_, deg2rad_, digamma_ = _each(unary.cos, unary.cosh, unary.deg2rad, unary.digamma)
erf_, erfc_, erfinv_, exp_ = _each(unary.erf, unary.erfc, unary.erfinv, unary.exp)
exp2_, expm1_, floor_, frac_ = _each(unary.exp2, unary.expm1, unary.floor, unary.frac)
lgamma_, log_, log1p_, log2_ = _each(unary.lgamma, unary.log, unary.log1p, unary.log2)
log10_, logit_, nan_to_num_ = _each(unary.log10, unary.logit, unary.nan_to_num)
neg_, rad2deg_, reciprocal_, round_ = _each(unary.neg, unary.rad2deg, unary.reciprocal, unary.round)
rsqrt_, sgn_, sigmoid_, sign_ = _each(unary.rsqrt, unary.sgn, unary.sigmoid, unary.sign)
sin_, sinc_, sinh_, sqrt_ = _each(unary.sin, unary.sinc, unary.sinh, unary.sqrt)
square_, tan_, tanh_, trunc_ = _each(unary.square, unary.tan, unary.tanh, unary.trunc)
addcdiv_, addcmul_, atan2_, copysign_ = _each(
    pairs.addcdiv, pairs.addcmul, pairs.atan2, pairs.copysign
)
gcd_, heaviside_, hypot_ = _each(pairs.gcd, pairs.heaviside, pairs.hypot)
lcm_, ldexp_, lerp_, nextafter_ = _each(pairs.lcm, pairs.ldexp, pairs.lerp, pairs.nextafter)
xlogy_ = in_place(pairs.xlogy)
bitwise_and_, bitwise_left_shift_, bitwise_not_, bitwise_or_ = _each(
    logic.bitwise_and, logic.bitwise_left_shift, logic.bitwise_not, logic.bitwise_or
)
bitwise_right_shift_, bitwise_xor_, eq_, ge_ = _each(
    logic.bitwise_right_shift, logic.bitwise_xor, logic.eq, logic.ge
)
gt_, le_, logical_and_, logical_not_ = _each(
    logic.gt, logic.le, logic.logical_and, logic.logical_not
)
logical_or_, logical_xor_, lt_, ne_ = _each(logic.logical_or, logic.logical_xor, logic.lt, logic.ne)
absolute_, arccos_, arccosh_, arcsin_ = abs_, acos_, acosh_, asin_
arcsinh_, arctan_, arctanh_, arctan2_ = asinh_, atan_, atanh_, atan2_
clip_, divide_, fix_, greater_ = clamp_, div_, trunc_, gt_
greater_equal_, less_, less_equal_, multiply_ = ge_, lt_, le_, mul_
negative_, not_equal_, subtract_ = neg_, ne_, sub_


def mvlgamma_(input: Any, p: int) -> Any:
    """`mvlgamma` in place; returns input."""
    check_in_place(input, "mvlgamma_")
    return assign(input, unary.mvlgamma(input.clone(), p), "mvlgamma_")


def float_power_(input: Any, exponent: Any) -> Any:
    """`float_power` in place, of a float64 or complex128 tensor; returns input."""
    check_in_place(input, "float_power_")
    y = pairs.float_power(input, exponent)
    if y._array.dtype != input._array.dtype:
        raise DtypeError(
            f"float_power_: the result is {y.dtype} and cannot be stored in a tensor of "
            f"{input.dtype}"
        )
    return assign(input, y, "float_power_")


class InPlaceMethods:
    """Methods of Tensor that overwrite it by a function of it."""

    add_, clamp_, clamp_max_, clamp_min_ = add_, clamp_, clamp_max_, clamp_min_
    div_, floor_divide_, fmod_, mul_ = div_, floor_divide_, fmod_, mul_
    pow_, remainder_, sub_, abs_ = pow_, remainder_, sub_, abs_
    acos_, acosh_, asin_, asinh_ = acos_, acosh_, asin_, asinh_
    atan_, atanh_, ceil_, cos_ = atan_, atanh_, ceil_, cos_
    cosh_, deg2rad_, digamma_, erf_ = cosh_, deg2rad_, digamma_, erf_
    erfc_, erfinv_, exp_, exp2_ = erfc_, erfinv_, exp_, exp2_
    expm1_, floor_, frac_, lgamma_ = expm1_, floor_, frac_, lgamma_
    log_, log1p_, log2_, log10_ = log_, log1p_, log2_, log10_
    logit_, mvlgamma_, nan_to_num_, neg_ = logit_, mvlgamma_, nan_to_num_, neg_
    rad2deg_, reciprocal_, round_, rsqrt_ = rad2deg_, reciprocal_, round_, rsqrt_
    sgn_, sigmoid_, sign_, sin_ = sgn_, sigmoid_, sign_, sin_
    sinc_, sinh_, sqrt_, square_ = sinc_, sinh_, sqrt_, square_
    tan_, tanh_, trunc_, addcdiv_ = tan_, tanh_, trunc_, addcdiv_
    addcmul_, atan2_, copysign_, float_power_ = addcmul_, atan2_, copysign_, float_power_
    gcd_, heaviside_, hypot_, lcm_ = gcd_, heaviside_, hypot_, lcm_
    ldexp_, lerp_, nextafter_, xlogy_ = ldexp_, lerp_, nextafter_, xlogy_
    bitwise_and_, bitwise_left_shift_, bitwise_not_, bitwise_or_ = (
        bitwise_and_,
        bitwise_left_shift_,
        bitwise_not_,
        bitwise_or_,
    )
    bitwise_right_shift_, bitwise_xor_, eq_, ge_ = bitwise_right_shift_, bitwise_xor_, eq_, ge_
    gt_, le_, logical_and_, logical_not_ = gt_, le_, logical_and_, logical_not_
    logical_or_, logical_xor_, lt_, ne_ = logical_or_, logical_xor_, lt_, ne_
    absolute_, arccos_, arccosh_, arcsin_ = absolute_, arccos_, arccosh_, arcsin_
    arcsinh_, arctan_, arctanh_, arctan2_ = arcsinh_, arctan_, arctanh_, arctan2_
    clip_, divide_, fix_, greater_ = clip_, divide_, fix_, greater_
    greater_equal_, less_, less_equal_, multiply_ = greater_equal_, less_, less_equal_, multiply_
    negative_, not_equal_, subtract_ = negative_, not_equal_, subtract_
    true_divide_ = in_place(arithmetic.true_divide)

    def polygamma_(self: Any, n: int) -> Any:
        """`polygamma` in place; returns self."""
        check_in_place(self, "polygamma_")
        return assign(self, unary.polygamma(n, self), "polygamma_")

    __iadd__, __isub__, __imul__ = map(operator_of, (add_, sub_, mul_))
    __itruediv__, __ifloordiv__, __imod__ = map(operator_of, (div_, floor_divide_, remainder_))
    __ipow__, __iand__, __ior__ = map(operator_of, (pow_, bitwise_and_, bitwise_or_))
    __ixor__, __ilshift__, __irshift__ = map(
        operator_of, (bitwise_xor_, bitwise_left_shift_, bitwise_right_shift_)
    )
