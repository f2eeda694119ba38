"""Activation functions. Source of the formulas: PyTorch manual, "Non-linear Activations"."""

from __future__ import annotations

from ...errors import OptionError
from ...ops import activation as ops
from ...ops.elementwise import Clamp
from ...tensors import Tensor, arithmetic
from ...tensors.arithmetic import sigmoid, tanh
from ...tensors.graph import apply
from ...tensors.inplace import assign
from ...tensors.reductions import softmax

__all__ = ["sigmoid", "tanh"]


def relu(input: Tensor, inplace: bool = False) -> Tensor:
    """max(x, 0)."""
    return arithmetic.relu_(input) if inplace else arithmetic.relu(input)


def relu6(input: Tensor, inplace: bool = False) -> Tensor:
    """min(max(x, 0), 6)."""
    return hardtanh(input, 0.0, 6.0, inplace)


def hardtanh(
    input: Tensor, min_val: float = -1.0, max_val: float = 1.0, inplace: bool = False
) -> Tensor:
    """x limited to [min_val, max_val]."""
    y = apply(Clamp(min_val, max_val, at_bounds=False), input)
    return assign(input, y, "hardtanh_") if inplace else y


def leaky_relu(input: Tensor, negative_slope: float = 0.01, inplace: bool = False) -> Tensor:
    """x where positive, else negative_slope * x."""
    y = apply(ops.LeakyReLU(negative_slope), input)
    return assign(input, y, "leaky_relu_") if inplace else y


def prelu(input: Tensor, weight: Tensor) -> Tensor:
    """x where positive, else weight * x; weight has one element or one per channel."""
    return apply(ops.PReLU(), input, weight)


def elu(input: Tensor, alpha: float = 1.0, inplace: bool = False) -> Tensor:
    """x where positive, else alpha * (e**x - 1)."""
    y = apply(ops.ELU(alpha), input)
    return assign(input, y, "elu_") if inplace else y


def selu(input: Tensor, inplace: bool = False) -> Tensor:
    """Self-normalising ELU (Klambauer et al. 2017)."""
    y = apply(ops.ELU(1.6732632423543772, 1.0507009873554805), input)
    return assign(input, y, "selu_") if inplace else y


def celu(input: Tensor, alpha: float = 1.0, inplace: bool = False) -> Tensor:
    """max(x, 0) + min(0, alpha * (e**(x / alpha) - 1))."""
    y = apply(ops.ELU(alpha, 1.0, 1 / alpha), input)
    return assign(input, y, "celu_") if inplace else y


def gelu(input: Tensor, approximate: str = "none") -> Tensor:
    """x * Phi(x); `approximate` is "none" or "tanh"."""
    if approximate not in ("none", "tanh"):
        raise OptionError.unknown("approximation of gelu", approximate, ("none", "tanh"))
    return apply(ops.GELU(approximate), input)


def silu(input: Tensor, inplace: bool = False) -> Tensor:
    """x * sigmoid(x)."""
    y = apply(ops.SiLU(), input)
    return assign(input, y, "silu_") if inplace else y


def mish(input: Tensor, inplace: bool = False) -> Tensor:
    """x * tanh(softplus(x))."""
    x = input.clone() if inplace else input  # the parts remember x, which is overwritten
    y = x * tanh(softplus(x))
    return assign(input, y, "mish_") if inplace else y


def softplus(input: Tensor, beta: float = 1.0, threshold: float = 20.0) -> Tensor:
    """log(1 + e**(beta * x)) / beta."""
    return apply(ops.Softplus(beta, threshold), input)


def logsigmoid(input: Tensor) -> Tensor:
    """log(sigmoid(x))."""
    return apply(ops.LogSigmoid(), input)


def softsign(input: Tensor) -> Tensor:
    """x / (1 + |x|)."""
    return input / (1 + input.abs())


def hardsigmoid(input: Tensor, inplace: bool = False) -> Tensor:
    """min(max(x + 3, 0), 6) / 6."""
    y = hardtanh(input + 3, 0.0, 6.0) / 6
    return assign(input, y, "hardsigmoid_") if inplace else y


def hardswish(input: Tensor, inplace: bool = False) -> Tensor:
    """x * hardsigmoid(x)."""
    x = input.clone() if inplace else input
    y = x * hardsigmoid(x)
    return assign(input, y, "hardswish_") if inplace else y


def softmin(input: Tensor, dim: int) -> Tensor:
    """softmax of -x along `dim`."""
    return softmax(-input, dim)
