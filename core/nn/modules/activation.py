"""Activation layers; the functions are in `nn.functional`."""

from __future__ import annotations

from typing import Any

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
            for name, usual in self.settings
            if getattr(self, name) != usual
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


class Hardswish(_Activation):
    """x * hardsigmoid(x)."""

    function = staticmethod(F.hardswish)
    settings = (("inplace", False),)


class _AlongDim(Module):
    function: Any = None

    def __init__(self, dim: int | None = None) -> None:
        super().__init__()
        self.dim = dim

    def forward(self, input: Tensor) -> Tensor:
        dim = self.dim
        if dim is None:  # PyTorch's rule for an unset dimension
            dim = 0 if input.ndim in (0, 1, 3) else 1
        return type(self).function(input, dim)

    def extra_repr(self) -> str:
        return f"dim={self.dim}"


class Softmax(_AlongDim):
    """exp(x) / sum(exp(x)) along `dim`."""

    function = staticmethod(F.softmax)


class LogSoftmax(_AlongDim):
    """log(softmax(x)) along `dim`."""

    function = staticmethod(F.log_softmax)


class Softmin(_AlongDim):
    """softmax(-x) along `dim`."""

    function = staticmethod(F.softmin)


class PReLU(Module):
    """x where positive, else weight * x with a learnt weight.

    Args:
        num_parameters: 1, or the number of channels.
        init: start value.
    """

    def __init__(self, num_parameters: int = 1, init: float = 0.25) -> None:
        super().__init__()
        self.num_parameters = num_parameters
        self.weight = new_parameter(num_parameters)
        _fill(self.weight, init)

    def forward(self, input: Tensor) -> Tensor:
        return F.prelu(input, self.weight)

    def extra_repr(self) -> str:
        return f"num_parameters={self.num_parameters}"


def _fill(weight: Tensor, value: float) -> None:
    init.constant_(weight, value)
