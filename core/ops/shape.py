"""Ops that change shape or order: views of memory, joins, padding."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

from ..backend import Array
from ..backend.arrays import writable_as
from .base import Op
from .elementwise import Grads


class Reshape(Op):
    """The same elements in another shape (a view where memory allows)."""

    takes_half = True

    def __init__(self, shape: tuple[int, ...]) -> None:
        self.to = shape

    def forward(self, x: Array) -> Array:
        self.input_shape = x.shape
        return x.reshape(self.to)

    def backward(self, grad: Array) -> Grads:
        return (grad.reshape(self.input_shape),)


class Permute(Op):
    """Axes in another order, as a view."""

    takes_half = True

    def __init__(self, axes: tuple[int, ...]) -> None:
        self.axes = axes

    def forward(self, x: Array) -> Array:
        return x.transpose(self.axes)

    def backward(self, grad: Array) -> Grads:
        inverse = [0] * len(self.axes)
        for to, source in enumerate(self.axes):
            inverse[source] = to
        return (grad.transpose(inverse),)


class Expand(Op):
    """Repeat dimensions of size 1 without copying; the engine sums the gradient back."""

    takes_half = True

    def __init__(self, shape: tuple[int, ...]) -> None:
        self.to = shape

    def forward(self, x: Array) -> Array:
        return writable_as(np.broadcast_to(x, self.to), x)

    def backward(self, grad: Array) -> Grads:
        return (grad,)


class Slice(Op):
    """Basic indexing (integers, slices, None, ...): a view."""

    takes_half = True

    def __init__(self, key: Any) -> None:
        self.key = key

    def forward(self, x: Array) -> Array:
        self.input_shape = x.shape
        return x[(*self.key, ...)]  # with "..." NumPy gives 0-d views, not scalars

    def backward(self, grad: Array) -> Grads:
        full = np.zeros(self.input_shape, grad.dtype, like=grad)
        full[self.key] = grad
        return (full,)


class Diagonal(Op):
    """The diagonal of two axes, as a view."""

    takes_half = True

    def __init__(self, offset: int, axis1: int, axis2: int) -> None:
        self.offset, self.axis1, self.axis2 = offset, axis1, axis2

    def forward(self, x: Array) -> Array:
        self.input_shape = x.shape
        return writable_as(np.diagonal(x, self.offset, self.axis1, self.axis2), x)

    def backward(self, grad: Array) -> Grads:
        full = np.zeros(self.input_shape, grad.dtype, like=grad)
        diagonal = np.diagonal(full, self.offset, self.axis1, self.axis2)
        writable_as(diagonal, full)[...] = grad
        return (full,)


class DiagEmbed(Op):
    """The last axis written to a diagonal of two new axes, zeros elsewhere."""

    def __init__(self, offset: int, axis1: int, axis2: int) -> None:
        self.offset, self.axis1, self.axis2 = offset, axis1, axis2

    def forward(self, x: Array) -> Array:
        n = x.shape[-1] + abs(self.offset)
        shape = list(x.shape[:-1])
        for axis in sorted((self.axis1, self.axis2)):
            shape.insert(axis, n)
        full = np.zeros(shape, x.dtype, like=x)
        diagonal = np.diagonal(full, self.offset, self.axis1, self.axis2)
        writable_as(diagonal, full)[...] = x
        return full

    def backward(self, grad: Array) -> Grads:
        return (np.diagonal(grad, self.offset, self.axis1, self.axis2),)


class Cat(Op):
    """Tensors joined along an axis."""

    takes_half = True

    def __init__(self, axis: int) -> None:
        self.axis = axis

    def forward(self, *arrays: Array) -> Array:
        self.sizes = [a.shape[self.axis] for a in arrays]
        return np.concatenate(arrays, axis=self.axis)

    def backward(self, grad: Array) -> Grads:
        ends = np.cumsum(self.sizes)[:-1].tolist()
        return tuple(np.split(grad, ends, axis=self.axis))


class Stack(Op):
    """Tensors of one shape joined along a new axis."""

    takes_half = True

    def __init__(self, axis: int) -> None:
        self.axis = axis

    def forward(self, *arrays: Array) -> Array:
        return np.stack(arrays, axis=self.axis)

    def backward(self, grad: Array) -> Grads:
        return tuple(np.moveaxis(grad, self.axis, 0))


class Flip(Op):
    """Reversed order along axes."""

    takes_half = True

    def __init__(self, axes: tuple[int, ...]) -> None:
        self.axes = axes

    def forward(self, x: Array) -> Array:
        return np.flip(x, self.axes).copy()

    def backward(self, grad: Array) -> Grads:
        return (np.flip(grad, self.axes),)


class Roll(Op):
    """Elements shifted cyclically along axes (None: over the flattened tensor)."""

    takes_half = True

    def __init__(self, shifts: tuple[int, ...], axes: tuple[int, ...] | None) -> None:
        self.shifts, self.axes = shifts, axes

    def forward(self, x: Array) -> Array:
        return np.roll(x, self.shifts if self.axes else self.shifts[0], self.axes)

    def backward(self, grad: Array) -> Grads:
        back = tuple(-s for s in self.shifts)
        return (np.roll(grad, back if self.axes else back[0], self.axes),)


class Repeat(Op):
    """The whole tensor repeated along each axis (NumPy's tile)."""

    def __init__(self, counts: tuple[int, ...]) -> None:
        self.counts = counts

    def forward(self, x: Array) -> Array:
        self.input_shape = x.shape
        return np.tile(x, self.counts)

    def backward(self, grad: Array) -> Grads:
        shape = (1,) * (len(self.counts) - len(self.input_shape)) + self.input_shape
        split = [n for pair in zip(self.counts, shape, strict=True) for n in pair]
        return (grad.reshape(split).sum(axis=tuple(range(0, len(split), 2))),)


class Pad(Op):
    """Margins around the last axes: constant, reflect, replicate or circular.

    Args:
        margins: (before, after) of every axis; negative ones crop.
    """

    modes: ClassVar[dict[str, Any]] = {
        "constant": "constant",
        "reflect": "reflect",
        "replicate": "edge",
        "circular": "wrap",
    }

    def __init__(self, margins: Sequence[tuple[int, int]], mode: str, value: float) -> None:
        self.margins, self.mode, self.value = margins, mode, value

    def _crop(self) -> tuple[slice, ...]:
        return tuple(slice(max(-b, 0), -max(-a, 0) or None) for b, a in self.margins)

    def forward(self, x: Array) -> Array:
        self.input_shape = x.shape
        widths = [(max(b, 0), max(a, 0)) for b, a in self.margins]
        x = x[self._crop()]
        if self.mode == "constant":
            sizes = zip(x.shape, widths, strict=True)
            y = np.full_like(
                x, self.value, x.dtype, shape=[b + n + a for n, (b, a) in sizes], order="C"
            )
            inner = zip(x.shape, widths, strict=True)
            y[tuple(slice(b, b + n) for n, (b, _) in inner)] = x
            return y
        return np.pad(x, widths, mode=self.modes[self.mode])

    def backward(self, grad: Array) -> Grads:
        for axis, (before, after) in enumerate(self.margins):
            grad = self._fold(grad, axis, max(before, 0), max(after, 0))
        if any(b < 0 or a < 0 for b, a in self.margins):
            full = np.zeros(self.input_shape, grad.dtype, like=grad)
            full[self._crop()] = grad
            return (full,)
        return (grad,)

    def _fold(self, grad: Array, axis: int, before: int, after: int) -> Array:
        """Add the gradient of the margins of one axis to the elements they came from."""
        if not before and not after:
            return grad
        grad = np.moveaxis(grad, axis, 0)
        n = grad.shape[0] - before - after
        inner = grad[before : before + n].copy()
        if self.mode != "constant":
            source = np.pad(np.arange(n), (before, after), mode=self.modes[self.mode])
            margin = [*range(before), *range(before + n, before + n + after)]
            for at in margin:  # views: a GPU would have to be sent a list of places
                inner[int(source[at])] += grad[at]
        return np.moveaxis(inner, 0, axis)


class Triangle(Op):
    """The lower or upper triangle of the last two axes, zeros elsewhere."""

    def __init__(self, function: Any, diagonal: int) -> None:
        self.function, self.diagonal = function, diagonal

    def forward(self, x: Array) -> Array:
        return self.function(x, self.diagonal)

    def backward(self, grad: Array) -> Grads:
        return (self.function(grad, self.diagonal),)
