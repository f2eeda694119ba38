"""Activation layers; the functions are in `nn.functional`."""

from __future__ import annotations

from typing import Any

from ...errors import ArgumentError
from ...tensors import Tensor
from .. import functional as F  # noqa: N812 - PyTorch's spelling
from .. import init
from .linear import new_parameter
from .module import Module


class _Activation(Module):
    """A layer without parameters: `settings` names its arguments, with their defaults."""

    function: Any = None
    settings: tuple[tuple[str, Any], ...] = ()

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__()
        known = [name for name, _ in self.settings]
        values = dict(self.settings)
        if len(args) > len(known):
            raise TypeError(f"{type(self).__name__}: expected at most {len(known)} arguments")
        values.update(zip(known, args, strict=False))
        for name, value in kwargs.items():
            if name not in values:
                raise TypeError(
                    f"{type(self).__name__}: unknown argument {name!r}; known: {', '.join(known)}"
                )
            values[name] = value
        for name, value in values.items():
            setattr(self, name, value)
        self._names = tuple(known)

    def forward(self, input: Tensor) -> Tensor:
        return type(self).function(input, *[self.__dict__[name] for name in self._names])

    def extra_repr(self) -> str:
        return ", ".join(
            f"{name}={getattr(self, name)}"
            for name in self._names
            if name != "inplace" or self.inplace
        )


class ReLU(_Activation):
    """max(x, 0)."""

    function = staticmethod(F.relu)
    settings = (("inplace", False),)


class ReLU6(_Activation):
    """min(max(x, 0), 6)."""

    function = staticmethod(F.relu6)
    settings = (("inplace", False),)


class Hardtanh(_Activation):
    """x limited to [min_val, max_val]."""

    function = staticmethod(F.hardtanh)
    settings = (("min_val", -1.0), ("max_val", 1.0), ("inplace", False))

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if self.max_val <= self.min_val:
            raise AssertionError(
                f"Hardtanh: max_val {self.max_val} must be larger than min_val {self.min_val}"
            )


class LeakyReLU(_Activation):
    """x where positive, else negative_slope * x."""

    function = staticmethod(F.leaky_relu)
    settings = (("negative_slope", 0.01), ("inplace", False))


class ELU(_Activation):
    """x where positive, else alpha * (e**x - 1)."""

    function = staticmethod(F.elu)
    settings = (("alpha", 1.0), ("inplace", False))


class SELU(_Activation):
    """Self-normalising ELU."""

    function = staticmethod(F.selu)
    settings = (("inplace", False),)


class CELU(_Activation):
    """Continuously differentiable ELU."""

    function = staticmethod(F.celu)
    settings = (("alpha", 1.0), ("inplace", False))


class GELU(_Activation):
    """x * Phi(x)."""

    function = staticmethod(F.gelu)
    settings = (("approximate", "none"),)

    def extra_repr(self) -> str:
        return f"approximate={self.approximate!r}"


class SiLU(_Activation):
    """x * sigmoid(x)."""

    function = staticmethod(F.silu)
    settings = (("inplace", False),)


class Mish(_Activation):
    """x * tanh(softplus(x))."""

    function = staticmethod(F.mish)
    settings = (("inplace", False),)


class Softplus(_Activation):
    """log(1 + e**(beta * x)) / beta."""

    function = staticmethod(F.softplus)
    settings = (("beta", 1.0), ("threshold", 20.0))


class Sigmoid(_Activation):
    """1 / (1 + e**-x)."""

    function = staticmethod(F.sigmoid)


class Tanh(_Activation):
    """Hyperbolic tangent."""

    function = staticmethod(F.tanh)


class LogSigmoid(_Activation):
    """log(sigmoid(x))."""

    function = staticmethod(F.logsigmoid)


class Softsign(_Activation):
    """x / (1 + |x|)."""

    function = staticmethod(F.softsign)


class Hardsigmoid(_Activation):
    """min(max(x + 3, 0), 6) / 6."""

    function = staticmethod(F.hardsigmoid)
    settings = (("inplace", False),)

    def extra_repr(self) -> str:
        return ""  # PyTorch's does not show `inplace` either


class Hardswish(_Activation):
    """x * hardsigmoid(x)."""

    function = staticmethod(F.hardswish)
    settings = (("inplace", False),)

    def extra_repr(self) -> str:
        return ""


class Hardshrink(_Activation):
    """x outside of [-lambd, lambd], else 0."""

    function = staticmethod(F.hardshrink)
    settings = (("lambd", 0.5),)

    def extra_repr(self) -> str:
        return str(self.lambd)


class Softshrink(_Activation):
    """x moved towards 0 by lambd, and 0 within."""

    function = staticmethod(F.softshrink)
    settings = (("lambd", 0.5),)

    def extra_repr(self) -> str:
        return str(self.lambd)


class Tanhshrink(_Activation):
    """x - tanh(x)."""

    function = staticmethod(F.tanhshrink)


class Threshold(Module):
    """x where it is above `threshold`, else `value`."""

    def __init__(self, threshold: float, value: float, inplace: bool = False) -> None:
        super().__init__()
        self.threshold, self.value, self.inplace = threshold, value, inplace

    def forward(self, input: Tensor) -> Tensor:
        return F.threshold(input, self.threshold, self.value, self.inplace)

    def extra_repr(self) -> str:
        inplace = ", inplace=True" if self.inplace else ""
        return f"threshold={self.threshold}, value={self.value}{inplace}"


class RReLU(_Activation):
    """x where positive, else a * x with a random in [lower, upper]; their middle in evaluation."""

    settings = (("lower", 1.0 / 8), ("upper", 1.0 / 3), ("inplace", False))

    def forward(self, input: Tensor) -> Tensor:
        return F.rrelu(input, self.lower, self.upper, self.training, self.inplace)


class GLU(_Activation):
    """a * sigmoid(b) of the halves a and b of the input along `dim`."""

    function = staticmethod(F.glu)
    settings = (("dim", -1),)


class _AlongDim(Module):
    function: Any = None

    def __init__(self, dim: int | None = None) -> None:
        super().__init__()
        self.dim = dim

    def forward(self, input: Tensor) -> Tensor:
        return type(self).function(input, self.dim)

    def extra_repr(self) -> str:
        return f"dim={self.dim}"


class Softmax(_AlongDim):
    """exp(x) / sum(exp(x)) along `dim`."""

    function = staticmethod(F.softmax)


class LogSoftmax(_AlongDim):
    """log(softmax(x)) along `dim`."""

    function = staticmethod(F.log_softmax)


class Softmax2d(Module):
    """softmax over the channels of (N, C, H, W) or (C, H, W)."""

    def forward(self, input: Tensor) -> Tensor:
        if input.ndim not in (3, 4):
            raise ArgumentError(f"Softmax2d: expected 3 or 4 dimensions, came {tuple(input.shape)}")
        return F.softmax(input, -3)


class Softmin(_AlongDim):
    """softmax(-x) along `dim`."""

    function = staticmethod(F.softmin)


class PReLU(Module):
    """x where positive, else weight * x with a learnt weight.

    Args:
        num_parameters: 1, or the number of channels.
        init: start value.
    """

    def __init__(
        self, num_parameters: int = 1, init: float = 0.25, device: Any = None, dtype: Any = None
    ) -> None:
        super().__init__()
        self.num_parameters, self.init = num_parameters, init
        self.weight = new_parameter(num_parameters, dtype=dtype)
        self.reset_parameters()
        self._place(device)

    def reset_parameters(self) -> None:
        """Set the weight to its start value again."""
        init.constant_(self.weight, self.init)

    def forward(self, input: Tensor) -> Tensor:
        return F.prelu(input, self.weight)

    def extra_repr(self) -> str:
        return f"num_parameters={self.num_parameters}"
