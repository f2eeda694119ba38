"""Dropout layers; active in training only."""

from __future__ import annotations

from typing import Any

from ...errors import OptionError
from ...tensors import Tensor
from .. import functional as F  # noqa: N812 - PyTorch's spelling
from .module import Module


class _Dropout(Module):
    _function: Any = None

    def __init__(self, p: float = 0.5, inplace: bool = False) -> None:
        super().__init__()
        if not 0 <= p <= 1:
            raise OptionError(
                f"{type(self).__name__}: expected a probability within 0..1, came {p}"
            )
        self.p, self.inplace = p, inplace

    def forward(self, input: Tensor) -> Tensor:
        return type(self)._function(input, self.p, self.training, self.inplace)

    def extra_repr(self) -> str:
        return f"p={self.p}, inplace={self.inplace}"


class Dropout(_Dropout):
    """Zero elements with probability p, scale the rest by 1 / (1 - p)."""

    _function = staticmethod(F.dropout)


class Dropout1d(_Dropout):
    """Zero whole channels of (N, C, L) with probability p."""

    _function = staticmethod(F.dropout1d)


class Dropout2d(_Dropout):
    """Zero whole channels of (N, C, H, W) with probability p."""

    _function = staticmethod(F.dropout2d)


class Dropout3d(_Dropout):
    """Zero whole channels of (N, C, D, H, W) with probability p."""

    _function = staticmethod(F.dropout3d)


class AlphaDropout(_Dropout):
    """Dropout for SELU networks."""

    _function = staticmethod(F.alpha_dropout)


class FeatureAlphaDropout(_Dropout):
    """`AlphaDropout` of whole channels."""

    _function = staticmethod(F.feature_alpha_dropout)
