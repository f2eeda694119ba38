"""Initialisation of parameters, in place. Source of the formulas: PyTorch manual, torch.nn.init."""

from __future__ import annotations

import math
import warnings
from typing import Any

import numpy as np

from ..autograd import no_grad
from ..errors import ArgumentError, OptionError
from ..ops.activation import erf
from ..tensors import Tensor

_GAINS = {
    "linear": 1.0,
    "conv1d": 1.0,
    "conv2d": 1.0,
    "conv3d": 1.0,
    "conv_transpose1d": 1.0,
    "conv_transpose2d": 1.0,
    "conv_transpose3d": 1.0,
    "sigmoid": 1.0,
    "tanh": 5.0 / 3,
    "relu": math.sqrt(2.0),
    "selu": 3.0 / 4,
}


def calculate_gain(nonlinearity: str, param: float | None = None) -> float:
    """The recommended gain for a nonlinearity.

    Args:
        param: negative slope of "leaky_relu" (0.01 unless given).

    >>> round(calculate_gain("relu"), 4)
    1.4142
    """
    if nonlinearity == "leaky_relu":
        slope = 0.01 if param is None else param
        if isinstance(slope, bool) or not isinstance(slope, int | float):
            raise OptionError(
                f"calculate_gain: expected a number as negative slope, came {param!r}"
            )
        return math.sqrt(2.0 / (1 + slope**2))
    if nonlinearity not in _GAINS:
        raise OptionError.unknown("nonlinearity", nonlinearity, (*_GAINS, "leaky_relu"))
    return _GAINS[nonlinearity]


def _fans(tensor: Tensor) -> tuple[int, int]:
    """(fan in, fan out) of a weight (out, in, *kernel)."""
    if tensor.ndim < 2:
        raise ArgumentError(
            f"init: fan in and fan out need at least 2 dimensions, came {tuple(tensor.shape)}"
        )
    field = math.prod(tensor.shape[2:])
    return tensor.shape[1] * field, tensor.shape[0] * field


def _fan(tensor: Tensor, mode: str) -> int:
    if mode not in ("fan_in", "fan_out"):
        raise OptionError.unknown("mode", mode, ("fan_in", "fan_out"))
    return _fans(tensor)[mode == "fan_out"]


def _nothing_to_fill(tensor: Tensor) -> Tensor:
    warnings.warn("Initializing zero-element tensors is a no-op", UserWarning, stacklevel=3)
    return tensor


def uniform_(tensor: Tensor, a: float = 0.0, b: float = 1.0, generator: Any = None) -> Tensor:
    """Uniform numbers in [a, b)."""
    with no_grad():
        return tensor.uniform_(a, b, generator=generator)


def normal_(tensor: Tensor, mean: float = 0.0, std: float = 1.0, generator: Any = None) -> Tensor:
    """Normally distributed numbers."""
    with no_grad():
        return tensor.normal_(mean, std, generator=generator)


def trunc_normal_(
    tensor: Tensor,
    mean: float = 0.0,
    std: float = 1.0,
    a: float = -2.0,
    b: float = 2.0,
    generator: Any = None,
) -> Tensor:
    """Numbers of a normal distribution that is cut off outside of [a, b]."""
    if mean < a - 2 * std or mean > b + 2 * std:
        warnings.warn(
            f"trunc_normal_: mean {mean} is more than 2 std from [{a}, {b}]; the distribution of "
            "values may be incorrect",
            UserWarning,
            stacklevel=2,
        )
    with no_grad():
        tensor.normal_(mean, std, generator=generator)
        values = tensor._array
        for _ in range(16):  # draw again while outside: a few rounds, as a rule
            outside = (values < a) | (values > b)
            if not outside.any():
                return tensor
            again = Tensor(np.empty(int(outside.sum()), values.dtype, like=values))
            values[outside] = again.normal_(mean, std, generator=generator)._array
            tensor._bump_version()
        outside = (values < a) | (values > b)
        missing = np.empty(int(outside.sum()), np.float64, like=values)
        draws = Tensor(missing).uniform_(generator=generator)
        values[outside] = _inverse_normal(draws._array, mean, std, a, b)
        tensor._bump_version()
    return tensor


def _inverse_normal(share: np.ndarray, mean: float, std: float, a: float, b: float) -> np.ndarray:
    """Where the normal distribution within [a, b] has reached `share`, by bisection."""

    def reached(x: np.ndarray) -> np.ndarray:
        return erf((x - mean) / (std * math.sqrt(2.0)))

    low, high = np.full_like(share, float(a)), np.full_like(share, float(b))
    start, end = reached(low), reached(high)
    target = start + share * (end - start)
    for _ in range(60):
        middle = 0.5 * (low + high)
        below = reached(middle) < target
        low, high = np.where(below, middle, low), np.where(below, high, middle)
    return np.clip(0.5 * (low + high), a, b)


def constant_(tensor: Tensor, val: float) -> Tensor:
    """`val` everywhere."""
    with no_grad():
        return tensor.fill_(val)


def ones_(tensor: Tensor) -> Tensor:
    """1 everywhere."""
    return constant_(tensor, 1.0)


def zeros_(tensor: Tensor) -> Tensor:
    """0 everywhere."""
    return constant_(tensor, 0.0)


def eye_(tensor: Tensor) -> Tensor:
    """The identity matrix."""
    if tensor.ndim != 2:
        raise ArgumentError(f"eye_: expected a matrix, came {tuple(tensor.shape)}")
    with no_grad():
        return tensor.copy_(Tensor(np.eye(*tensor.shape, dtype=tensor._array.dtype)))


def dirac_(tensor: Tensor, groups: int = 1) -> Tensor:
    """A convolution weight that passes its input channels through."""
    if tensor.ndim not in (3, 4, 5) or tensor.shape[0] % groups:
        raise ArgumentError(
            f"dirac_: expected a weight of 3 to 5 dimensions whose outputs divide by {groups}, "
            f"came {tuple(tensor.shape)}"
        )
    weight = np.zeros(tensor.shape, tensor._array.dtype)
    outputs = tensor.shape[0] // groups
    centre = tuple(k // 2 for k in tensor.shape[2:])
    for g in range(groups):
        for d in range(min(outputs, tensor.shape[1])):
            weight[(g * outputs + d, d, *centre)] = 1
    with no_grad():
        return tensor.copy_(Tensor(weight))


def xavier_uniform_(tensor: Tensor, gain: float = 1.0, generator: Any = None) -> Tensor:
    """Uniform with variance gain**2 * 2 / (fan in + fan out) (Glorot & Bengio 2010)."""
    bound = gain * math.sqrt(6.0 / sum(_fans(tensor)))
    return uniform_(tensor, -bound, bound, generator)


def xavier_normal_(tensor: Tensor, gain: float = 1.0, generator: Any = None) -> Tensor:
    """Normal with variance gain**2 * 2 / (fan in + fan out) (Glorot & Bengio 2010)."""
    return normal_(tensor, 0.0, gain * math.sqrt(2.0 / sum(_fans(tensor))), generator)


def kaiming_uniform_(
    tensor: Tensor,
    a: float = 0,
    mode: str = "fan_in",
    nonlinearity: str = "leaky_relu",
    generator: Any = None,
) -> Tensor:
    """Uniform with variance gain**2 / fan (He et al. 2015)."""
    if 0 in tensor._array.shape:
        return _nothing_to_fill(tensor)
    bound = calculate_gain(nonlinearity, a) * math.sqrt(3.0 / _fan(tensor, mode))
    return uniform_(tensor, -bound, bound, generator)


def kaiming_normal_(
    tensor: Tensor,
    a: float = 0,
    mode: str = "fan_in",
    nonlinearity: str = "leaky_relu",
    generator: Any = None,
) -> Tensor:
    """Normal with variance gain**2 / fan (He et al. 2015)."""
    if 0 in tensor._array.shape:
        return _nothing_to_fill(tensor)
    std = calculate_gain(nonlinearity, a) / math.sqrt(_fan(tensor, mode))
    return normal_(tensor, 0.0, std, generator)


def orthogonal_(tensor: Tensor, gain: float = 1, generator: Any = None) -> Tensor:
    """A (semi-)orthogonal matrix (Saxe et al. 2013); dimensions after the first are joined."""
    if tensor.ndim < 2:
        raise ArgumentError(f"orthogonal_: expected at least 2 dimensions, came {tensor.ndim}")
    if not tensor.numel():
        return tensor
    rows, columns = tensor.shape[0], tensor.numel() // tensor.shape[0]
    shape, array = (max(rows, columns), min(rows, columns)), tensor._array
    flat = Tensor(np.empty(shape, array.dtype, like=array))
    flat.normal_(0, 1, generator=generator)
    q, r = np.linalg.qr(flat._array)
    q *= np.sign(np.diag(r))
    q = q.T if rows < columns else q
    with no_grad():
        return tensor.copy_(Tensor((gain * q).reshape(tensor.shape)))


def sparse_(tensor: Tensor, sparsity: float, std: float = 0.01, generator: Any = None) -> Tensor:
    """Normal, with a share `sparsity` of each column set to 0 (Martens 2010)."""
    if tensor.ndim != 2:
        raise ArgumentError(f"sparse_: expected a matrix, came {tuple(tensor.shape)}")
    rows = tensor.shape[0]
    count = math.ceil(sparsity * rows)
    with no_grad():
        tensor.normal_(0, std, generator=generator)
        keys = Tensor(np.empty(tensor.shape, np.float64, like=tensor._array))
        keys.uniform_(generator=generator)
        chosen = np.argsort(keys._array, axis=0)[:count]
        np.put_along_axis(tensor._array, chosen, 0, axis=0)
        tensor._bump_version()
    return tensor
