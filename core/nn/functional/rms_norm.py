"""Root-mean-square normalisation."""

from __future__ import annotations

from collections.abc import Sequence

from ...dtypes import finfo
from ...errors import ShapeError
from ...ops.rms_norm import RMSNorm
from ...tensors import Tensor
from ...tensors.graph import apply


def rms_norm(
    input: Tensor,
    normalized_shape: Sequence[int],
    weight: Tensor | None = None,
    eps: float | None = None,
) -> Tensor:
    """input / sqrt(mean(input**2) + eps) * weight over the last dimensions.

    Args:
        normalized_shape: the sizes of the dimensions to normalise over.
        eps: by default the machine epsilon of the input's dtype.

    Raises:
        ShapeError: the input does not end in `normalized_shape`, or the weight differs.

    Source: Zhang & Sennrich 2019, "Root mean square layer normalization".

    >>> import allgrad as ag
    >>> rms_norm(ag.tensor([3.0, 4.0]), (2,))
    tensor([0.8485, 1.1314])
    """
    shape = tuple(normalized_shape)
    found = tuple(input.shape)
    if not shape or found[-len(shape) :] != shape:
        raise ShapeError(f"rms_norm: expected an input that ends in {shape}, came {found}")
    if weight is not None and tuple(weight.shape) != shape:
        raise ShapeError(
            f"rms_norm: expected a weight of shape {shape}, came {tuple(weight.shape)}"
        )
    if eps is None:
        eps = finfo(input.dtype).eps
    return apply(RMSNorm(len(shape), eps), input, weight)
