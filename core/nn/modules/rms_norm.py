"""Root-mean-square normalisation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ...tensors import Tensor
from .. import init
from ..functional.rms_norm import rms_norm
from .linear import new_parameter
from .module import Module


class RMSNorm(Module):
    """x / sqrt(mean(x**2) + eps) * weight over the last dimensions, of sizes `normalized_shape`.

    Args:
        eps: by default the machine epsilon of the input's dtype.
        elementwise_affine: whether there is a weight.
    """

    def __init__(
        self,
        normalized_shape: int | Sequence[int],
        eps: float | None = None,
        elementwise_affine: bool = True,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        sizes = (normalized_shape,) if isinstance(normalized_shape, int) else normalized_shape
        self.normalized_shape, self.eps = tuple(sizes), eps
        self.elementwise_affine = elementwise_affine
        self.register_parameter(
            "weight",
            new_parameter(*self.normalized_shape, dtype=dtype) if elementwise_affine else None,
        )
        self.reset_parameters()
        self._place(device)

    def reset_parameters(self) -> None:
        """Weight 1."""
        if self.weight is not None:
            init.ones_(self.weight)

    def forward(self, input: Tensor) -> Tensor:
        return rms_norm(input, self.normalized_shape, self.weight, self.eps)

    def extra_repr(self) -> str:
        return (
            f"{self.normalized_shape}, eps={self.eps}, elementwise_affine={self.elementwise_affine}"
        )
