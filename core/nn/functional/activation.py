"""Activation functions. Source of the formulas: PyTorch manual, "Non-linear Activations"."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np

from ... import random
from ...backend.arrays import on_device
from ...errors import ArgumentError, DtypeError, ShapeError
from ...ops import activation as ops
from ...ops import shrink
from ...ops.elementwise import Clamp
from ...tensors import Tensor, arithmetic, reductions
from ...tensors.autocasting import lowers
from ...tensors.graph import apply
from ...tensors.inplace import assign
from ...tensors.reductions import axis_of
from ...tensors.sampling import uniform_beside
from ...tensors.splitting import split
from ...tensors.unary import sigmoid, tanh
from .checks import need_floating

__all__ = ["sigmoid", "tanh"]


def _activation(name: str, op: Any, input: Tensor, inplace: bool) -> Tensor:
    need_floating(name, input)
    y: Tensor = apply(op, input)
    return assign(input, y, f"{name}_") if inplace else y


def _in_place(function: Callable[..., Any]) -> Callable[..., Tensor]:
    """The form with an underscore: ``function(..., inplace=True)``."""

    @functools.wraps(function)
    def changed(input: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        found: Tensor = function(input, *args, **kwargs, inplace=True)
        return found

    changed.__name__ = changed.__qualname__ = f"{function.__name__}_"
    changed.__doc__ = f"`{function.__name__}` in place; returns the input."
    return changed


def relu(input: Tensor, inplace: bool = False) -> Tensor:
    """max(x, 0)."""
    return arithmetic.relu_(input) if inplace else arithmetic.relu(input)


def relu6(input: Tensor, inplace: bool = False) -> Tensor:
    """min(max(x, 0), 6)."""
    return hardtanh(input, 0.0, 6.0, inplace)


def hardtanh(
    input: Tensor, min_val: float = -1.0, max_val: float = 1.0, inplace: bool = False
) -> Tensor:
    """x limited to [min_val, max_val].

    Raises:
        ValueError: `min_val` is larger than `max_val`.
    """
    if min_val > max_val:
        raise ArgumentError(f"hardtanh: min_val {min_val} is larger than max_val {max_val}")
    if input._array.dtype.kind in "iub":
        y: Tensor = arithmetic.clamp(input, int(min_val), int(max_val))
    else:
        y = apply(Clamp(min_val, max_val, at_bounds=False), input)
    return assign(input, y, "hardtanh_") if inplace else y


def leaky_relu(input: Tensor, negative_slope: float = 0.01, inplace: bool = False) -> Tensor:
    """x where positive, else negative_slope * x."""
    return _activation("leaky_relu", ops.LeakyReLU(negative_slope), input, inplace)


@lowers
def prelu(input: Tensor, weight: Tensor) -> Tensor:
    """x where positive, else weight * x; weight has one element or one per channel.

    Raises:
        RuntimeError: another number of weights, or another dtype.
    """
    need_floating("prelu", input)
    x, w = input._array, weight._array
    channels = x.shape[1] if x.ndim > 1 else 1
    if w.ndim > 1 or w.size not in (1, channels):
        raise ShapeError(
            f"prelu: expected 1 weight, or one for each of {channels} channels of input {x.shape}, "
            f"came {w.shape}"
        )
    if x.dtype != w.dtype:
        raise DtypeError(f"prelu: input is {input.dtype}, weight {weight.dtype}; expected one")
    return apply(ops.PReLU(), input, weight)


def rrelu(
    input: Tensor,
    lower: float = 1.0 / 8,
    upper: float = 1.0 / 3,
    training: bool = False,
    inplace: bool = False,
) -> Tensor:
    """x where positive, else a * x with a random a of each element in [lower, upper] in training.

    Outside of training a is the middle of the range (Xu et al. 2015).
    """
    if lower > upper:
        raise ArgumentError(f"rrelu: lower {lower} is larger than upper {upper}")
    need_floating("rrelu", input)
    if not training:
        return leaky_relu(input, (lower + upper) / 2, inplace)
    x = input._array
    draws = uniform_beside(x, x.shape) * (upper - lower) + lower
    y = input * Tensor(np.where(x > 0, 1, draws).astype(x.dtype))
    return assign(input, y, "rrelu_") if inplace else y


def elu(input: Tensor, alpha: float = 1.0, inplace: bool = False) -> Tensor:
    """x where positive, else alpha * (e**x - 1)."""
    return _activation("elu", ops.ELU(alpha), input, inplace)


def selu(input: Tensor, inplace: bool = False) -> Tensor:
    """Self-normalising ELU (Klambauer et al. 2017)."""
    op = ops.ELU(1.6732632423543772, 1.0507009873554805)
    return _activation("selu", op, input, inplace)


def celu(input: Tensor, alpha: float = 1.0, inplace: bool = False) -> Tensor:
    """max(x, 0) + min(0, alpha * (e**(x / alpha) - 1)).

    Raises:
        RuntimeError: `alpha` is 0.
    """
    if alpha == 0:
        raise ArgumentError("celu: alpha cannot be 0")
    return _activation("celu", ops.ELU(alpha, 1.0, 1 / alpha), input, inplace)


def gelu(input: Tensor, approximate: str = "none") -> Tensor:
    """x * Phi(x); `approximate` is "none" or "tanh".

    Raises:
        RuntimeError: another approximation.
    """
    if approximate not in ("none", "tanh"):
        raise ArgumentError(f"gelu: expected approximate 'none' or 'tanh', came {approximate!r}")
    return _activation("gelu", ops.GELU(approximate), input, False)


def silu(input: Tensor, inplace: bool = False) -> Tensor:
    """x * sigmoid(x)."""
    return _activation("silu", ops.SiLU(), input, inplace)


def mish(input: Tensor, inplace: bool = False) -> Tensor:
    """x * tanh(softplus(x))."""
    need_floating("mish", input)
    x = input.clone() if inplace else input  # the parts remember x, which is overwritten
    y = x * tanh(softplus(x))
    return assign(input, y, "mish_") if inplace else y


def softplus(input: Tensor, beta: float = 1.0, threshold: float = 20.0) -> Tensor:
    """log(1 + e**(beta * x)) / beta."""
    return _activation("softplus", ops.Softplus(beta, threshold), input, False)


def logsigmoid(input: Tensor) -> Tensor:
    """log(sigmoid(x))."""
    return _activation("logsigmoid", ops.LogSigmoid(), input, False)


def softsign(input: Tensor) -> Tensor:
    """x / (1 + |x|)."""
    return input / (1 + input.abs())


def hardsigmoid(input: Tensor, inplace: bool = False) -> Tensor:
    """min(max(x + 3, 0), 6) / 6."""
    need_floating("hardsigmoid", input)
    y = hardtanh(input + 3, 0.0, 6.0) / 6
    return assign(input, y, "hardsigmoid_") if inplace else y


def hardswish(input: Tensor, inplace: bool = False) -> Tensor:
    """x * hardsigmoid(x)."""
    need_floating("hardswish", input)
    x = input.clone() if inplace else input
    y = x * hardsigmoid(x)
    return assign(input, y, "hardswish_") if inplace else y


def hardshrink(input: Tensor, lambd: float = 0.5) -> Tensor:
    """x outside of [-lambd, lambd], else 0."""
    return _activation("hardshrink", shrink.Hardshrink(lambd), input, False)


def softshrink(input: Tensor, lambd: float = 0.5) -> Tensor:
    """x moved towards 0 by `lambd`, and 0 within.

    Raises:
        RuntimeError: `lambd` is negative.
    """
    if lambd < 0:
        raise ArgumentError(f"softshrink: expected lambd >= 0, came {lambd}")
    return _activation("softshrink", shrink.Softshrink(lambd), input, False)


def tanhshrink(input: Tensor) -> Tensor:
    """x - tanh(x)."""
    return input - tanh(input)


def threshold(input: Tensor, threshold: float, value: float, inplace: bool = False) -> Tensor:
    """x where it is above `threshold`, else `value`."""
    y: Tensor = apply(shrink.Threshold(threshold, value), input)
    return assign(input, y, "threshold_") if inplace else y


def glu(input: Tensor, dim: int = -1) -> Tensor:
    """a * sigmoid(b), where a and b are the halves of the input along `dim` (Dauphin et al. 2017).

    Raises:
        RuntimeError: the dimension is odd, or the input a scalar.
        IndexError: no such dimension.
    """
    need_floating("glu", input)
    if input.ndim == 0:
        raise ShapeError("glu: expected at least one dimension to halve, came ()")
    axis = axis_of(dim, input.ndim, "glu")
    size = input._array.shape[axis]
    if size % 2:
        raise ShapeError(f"glu: dimension {axis} of input {tuple(input.shape)} is odd and cannot "
                         "be halved")  # fmt: skip
    a, b = split(input, size // 2, axis) if size else (input, input)
    return a * sigmoid(b)


def _implicit_dim(name: str, ndim: int) -> int:
    """PyTorch's rule for a dimension that was not given."""
    warnings.warn(
        f"{name}: an implicit choice of dim is deprecated; give dim explicitly",
        UserWarning,
        stacklevel=3,
    )
    return 0 if ndim in (0, 1, 3) else 1


def softmax(
    input: Tensor, dim: int | None = None, _stacklevel: int = 3, dtype: Any = None
) -> Tensor:
    """exp(x) / sum(exp(x)) along `dim`.

    Args:
        dim: None picks 0 for 0, 1 or 3 dimensions, else 1, with a warning, as PyTorch does.
        dtype: cast the input to this first.
    """
    if dim is None:
        dim = _implicit_dim("softmax", input.ndim)
    if dtype is None:
        need_floating("softmax", input)
    return reductions.softmax(input, dim, dtype)


def log_softmax(
    input: Tensor, dim: int | None = None, _stacklevel: int = 3, dtype: Any = None
) -> Tensor:
    """log(softmax(x)) along `dim`; arguments as `softmax`."""
    if dim is None:
        dim = _implicit_dim("log_softmax", input.ndim)
    if dtype is None:
        need_floating("log_softmax", input)
    return reductions.log_softmax(input, dim, dtype)


def softmin(
    input: Tensor, dim: int | None = None, _stacklevel: int = 3, dtype: Any = None
) -> Tensor:
    """softmax of -x along `dim`; arguments as `softmax`."""
    if dim is None:
        dim = _implicit_dim("softmin", input.ndim)
    return softmax(-input, dim, dtype=dtype)


def gumbel_softmax(
    logits: Tensor, tau: float = 1, hard: bool = False, eps: float = 1e-10, dim: int = -1
) -> Tensor:
    """A sample of a relaxed one-hot vector: softmax((logits + Gumbel noise) / tau).

    Args:
        tau: temperature; small values come close to one-hot.
        hard: give a one-hot vector, with the gradient of the relaxed one.
        eps: without effect, as in PyTorch.

    Source: Jang et al. 2017, "Categorical Reparameterization with Gumbel-Softmax".
    """
    need_floating("gumbel_softmax", logits)
    x = logits._array
    if on_device(x):
        noise = -np.log(-np.log(np.maximum(uniform_beside(x, x.shape), 1e-12)))
    else:
        noise = np.asarray(random.default_generator().numpy.gumbel(size=x.shape))
    soft = softmax((logits + Tensor(noise.astype(x.dtype))) / tau, dim)
    if not hard:
        return soft
    axis = axis_of(dim, logits.ndim, "gumbel_softmax")
    value = soft.detach()._array
    one_hot = np.zeros_like(value)
    np.put_along_axis(one_hot, value.argmax(axis, keepdims=True), 1, axis)
    return Tensor(one_hot - value) + soft


relu_, elu_, selu_, celu_ = (_in_place(f) for f in (relu, elu, selu, celu))
leaky_relu_, hardtanh_ = _in_place(leaky_relu), _in_place(hardtanh)
rrelu_, threshold_ = _in_place(rrelu), _in_place(threshold)
