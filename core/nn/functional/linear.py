"""Linear maps."""

from __future__ import annotations

from ...autograd.mode import mode
from ...errors import DtypeError, ShapeError
from ...ops.linear import Linear
from ...tensors import Tensor
from ...tensors.autocasting import keeps, lowered
from ...tensors.graph import defer


def linear(input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """input @ weight.T + bias: (..., K), weight (N, K) or (K), bias (N) -> (..., N).

    Raises:
        ShapeError: shapes that do not fit, named with both shapes.
        DtypeError: different dtypes.
    """
    if mode.autocast is not None:
        return lowered(linear, input, weight, bias)
    x, w = input._array, weight._array
    if x.dtype != w.dtype or (bias is not None and bias._array.dtype != x.dtype):
        raise DtypeError(
            f"linear: input is {input.dtype}, weight {weight.dtype}"
            + (f", bias {bias.dtype}" if bias is not None else "")
            + "; expected one dtype"
        )
    if not x.ndim or not w.ndim or x.shape[-1] != w.shape[-1]:
        raise ShapeError(
            f"linear: input {x.shape} has {x.shape[-1] if x.ndim else 0} features, weight "
            f"{w.shape} expects {w.shape[-1] if w.ndim else 0}"
        )
    if w.ndim == 1:
        y = input @ weight
        return y if bias is None else y + bias
    if bias is not None and bias._array.shape not in ((w.shape[0],), ()):
        raise ShapeError(
            f"linear: expected bias of shape ({w.shape[0]},) for weight {w.shape}, came "
            f"{bias._array.shape}"
        )
    if x.ndim == 1:
        return linear(input.unsqueeze(0), weight, bias).squeeze(0)
    del x, w  # references that would pass for the user's: see graph.exposed
    return defer(Linear(), input, weight, bias)


@keeps
def bilinear(input1: Tensor, input2: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x1 A_o x2 for each output o: (..., K1), (..., K2), weight (O, K1, K2), bias (O)."""
    left = (input1.unsqueeze(-2).unsqueeze(-2) @ weight).squeeze(-2)  # (..., O, K2)
    y = (left * input2.unsqueeze(-2)).sum(-1)
    return y if bias is None else y + bias
