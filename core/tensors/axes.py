"""The dimensions of a tensor in another order: views."""

from __future__ import annotations

from typing import Any

from ..errors import ShapeError
from ..ops import shape as ops
from .graph import TensorBase, view
from .reductions import axis_of
from .shaping import sizes_of

__all__ = [
    "adjoint",
    "moveaxis",
    "movedim",
    "permute",
    "swapaxes",
    "swapdims",
    "t",
    "transpose",
]


def permute(input: Any, *dims: Any) -> Any:
    """Dimensions in another order, as a view."""
    axes = tuple(axis_of(d, input.ndim, "permute") for d in sizes_of(dims))
    if sorted(axes) != list(range(input.ndim)):
        raise ShapeError(
            f"permute: expected each of {input.ndim} dimensions once, came {sizes_of(dims)}"
        )
    return view(ops.Permute(axes), input)


def transpose(input: Any, dim0: int, dim1: int) -> Any:
    """Two dimensions exchanged, as a view."""
    axes = list(range(input.ndim))
    a, b = axis_of(dim0, input.ndim, "transpose"), axis_of(dim1, input.ndim, "transpose")
    if input.ndim:
        axes[a], axes[b] = axes[b], axes[a]
    return view(ops.Permute(tuple(axes)), input)


def movedim(input: Any, source: Any, destination: Any) -> Any:
    """Dimensions moved to other places, the rest in order, as a view.

    Raises:
        RuntimeError: a dimension twice, or not as many places as dimensions.
    """
    places = []
    for name, dims in (("source", source), ("destination", destination)):
        given = (dims,) if isinstance(dims, int) else tuple(dims)
        axes = [axis_of(d, input.ndim, "movedim") for d in given]
        if len(set(axes)) != len(axes):
            raise ShapeError(f"movedim: a dimension appears twice in {name} {given}")
        places.append(axes)
    sources, targets = places
    if len(sources) != len(targets):
        raise ShapeError(f"movedim: {len(sources)} dimensions for {len(targets)} places")
    order = [i for i in range(input.ndim) if i not in sources]
    for target, axis in sorted(zip(targets, sources, strict=True)):
        order.insert(target, axis)
    return permute(input, order)


moveaxis = movedim
swapdims = transpose


def swapaxes(input: Any, axis0: int, axis1: int) -> Any:
    """`transpose`, with NumPy's name."""
    return transpose(input, axis0, axis1)


def adjoint(input: Any) -> Any:
    """The last two dimensions exchanged, complex elements conjugated.

    Raises:
        RuntimeError: fewer than two dimensions.
    """
    _need_matrix("adjoint", input)
    y = transpose(input, -1, -2)
    return y.conj() if y.is_complex() else y


def _need_matrix(name: str, input: Any) -> None:
    if input.ndim < 2:
        raise ShapeError(f"{name}: expected at least two dimensions, came {tuple(input.shape)}")


def t(input: Any) -> Any:
    """Transpose of a matrix (vectors and scalars stay)."""
    if input.ndim > 2:
        raise ShapeError(f"t: expected at most 2 dimensions, came {tuple(input.shape)}")
    return input if input.ndim < 2 else transpose(input, 0, 1)


class AxesMethods(TensorBase):
    """Methods of Tensor that view its dimensions in another order."""

    permute, transpose, swapaxes, swapdims = permute, transpose, swapaxes, transpose
    movedim, moveaxis, t, adjoint = movedim, movedim, t, adjoint

    @property
    def T(self) -> Any:  # noqa: N802 - PyTorch's spelling
        """All dimensions in reverse order."""
        return permute(self, tuple(range(self._array.ndim))[::-1])

    @property
    def mT(self) -> Any:  # noqa: N802 - PyTorch's spelling
        """The last two dimensions exchanged."""
        _need_matrix("mT", self)
        return transpose(self, -1, -2)

    @property
    def H(self) -> Any:  # noqa: N802 - PyTorch's spelling
        """The conjugate transpose of a matrix."""
        if self._array.ndim not in (0, 2):
            raise ShapeError(f"H: expected a matrix, came {self._array.shape}; use mH for stacks")
        return adjoint(self) if self._array.ndim else self

    @property
    def mH(self) -> Any:  # noqa: N802 - PyTorch's spelling
        """The last two dimensions exchanged, complex elements conjugated."""
        return adjoint(self)
