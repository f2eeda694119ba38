"""All parameters as one vector, and back. Imports tensors."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from ...errors import ShapeError
from ...tensors import Tensor
from ...tensors.graph import compute_all
from ...tensors.joining import cat


def parameters_to_vector(parameters: Iterable[Tensor]) -> Tensor:
    """All elements of `parameters`, one parameter after the other; gradients flow through it.

    Args:
        parameters: at least one tensor.

    Returns:
        Shape (total number of elements,).

    Raises:
        ValueError: `parameters` is empty.
    """
    pieces = [p.reshape(-1) for p in parameters]
    if not pieces:
        raise ValueError(
            "parameters_to_vector: expected at least one tensor, came none. A generator can be "
            "used only once: call model.parameters() again"
        )
    vector: Tensor = cat(pieces)
    return vector


def vector_to_parameters(vec: Tensor, parameters: Iterable[Tensor]) -> None:
    """Copy `vec` into `parameters`, piece by piece.

    Unlike PyTorch the parameters keep their own memory, and the length must fit exactly.

    Args:
        vec: shape (total number of elements,).
        parameters: the tensors to overwrite.

    Raises:
        TypeError: `vec` is not a tensor.
        ShapeError: `vec` has more or fewer elements than `parameters`.
    """
    if not isinstance(vec, Tensor):
        raise TypeError(f"expected a Tensor as vec, but got: {type(vec).__name__}")
    targets = list(parameters)
    total = sum(p.numel() for p in targets)
    if vec.numel() != total or vec.ndim != 1:
        raise ShapeError(
            f"vector_to_parameters: expected shape ({total},) for {len(targets)} parameters, "
            f"came {tuple(vec.shape)}"
        )
    compute_all()
    values = vec._array
    begin = 0
    for p in targets:
        piece = values[begin : begin + p.numel()]
        np.copyto(p._array, piece.reshape(p._array.shape))
        p._bump_version()
        begin += p.numel()
