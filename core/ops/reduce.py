"""Reductions: sums, means, extremes, variance, cumulative sums."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..backend import Array
from ..backend.arrays import as_array, on_device
from ..dtypes import FLOATING
from .base import Op
from .elementwise import Grads, conj

Axes = tuple[int, ...] | None


def expanded(grad: Array, shape: tuple[int, ...], axes: Axes, keepdim: bool) -> Array:
    """View of a reduced gradient in the shape before the reduction."""
    if axes is None and not on_device(grad):  # as broadcast_to, in a tenth of its time
        return np.ndarray(shape, grad.dtype, np.ascontiguousarray(grad), 0, (0,) * len(shape))
    if not keepdim and axes is not None:
        grad = np.expand_dims(grad, axes)
    return np.broadcast_to(grad, shape)


def own_integer(x: Array) -> Any:
    """The dtype in which integers are summed, their own; NumPy would take int64."""
    return x.dtype if x.dtype.kind in "iu" else None


class Sum(Op):
    """Sum over axes (None: all)."""

    def __init__(self, axes: Axes, keepdim: bool) -> None:
        self.axes, self.keepdim = axes, keepdim

    def forward(self, x: Array) -> Array:
        self.input_shape = x.shape
        return x.sum(axis=self.axes, keepdims=self.keepdim, dtype=own_integer(x))

    def backward(self, grad: Array) -> Grads:
        return (expanded(grad, self.input_shape, self.axes, self.keepdim),)


class Mean(Sum):
    """Mean over axes (None: all)."""

    def forward(self, x: Array) -> Array:
        self.input_shape = x.shape
        y = as_array(x.sum(axis=self.axes, keepdims=self.keepdim))
        self.count = x.size // max(y.size, 1)
        return np.true_divide(y, self.count, dtype=x.dtype)

    def backward(self, grad: Array) -> Grads:
        return (expanded(grad / self.count, self.input_shape, self.axes, self.keepdim),)


class Prod(Op):
    """Product over one axis (None: all); exact also where elements are zero."""

    def __init__(self, axis: int | None, keepdim: bool) -> None:
        self.axis, self.keepdim = axis, keepdim

    def forward(self, x: Array) -> Array:
        if self.needs[0]:
            self.saved = (x,)
        return x.prod(axis=self.axis, keepdims=self.keepdim, dtype=own_integer(x))

    def backward(self, grad: Array) -> Grads:
        (x,) = self.saved
        if not x.size:
            return (np.zeros_like(x),)
        flat = x.reshape(-1) if self.axis is None else np.moveaxis(x, self.axis, -1)
        if self.axis is None:
            grad = grad.reshape(())
        elif self.keepdim:
            grad = np.squeeze(grad, self.axis)
        # Product of the others = (product of those before) * (product of those after).
        one = np.ones_like(flat, flat.dtype, shape=(*flat.shape[:-1], 1), order="C")
        before = np.cumprod(np.concatenate([one, flat[..., :-1]], axis=-1), axis=-1)
        after = np.cumprod(np.concatenate([one, flat[..., :0:-1]], axis=-1), axis=-1)[..., ::-1]
        result = grad[..., None] * conj(before * after)
        if self.axis is None:
            return (result.reshape(x.shape),)
        return (np.moveaxis(result, -1, self.axis),)


class Extreme(Op):
    """Maximum or minimum over axes; the gradient is shared evenly among equal extremes."""

    def __init__(self, function: Any, axes: Axes, keepdim: bool) -> None:
        self.function, self.axes, self.keepdim = function, axes, keepdim

    def forward(self, x: Array) -> Array:
        y = as_array(self.function(x, axis=self.axes, keepdims=self.keepdim))
        if self.needs[0]:
            self.saved = (x, y)
        return y

    def backward(self, grad: Array) -> Grads:
        x, y = self.saved
        top = expanded(y, x.shape, self.axes, self.keepdim)
        hit = (x == top) | (np.isnan(x) & np.isnan(top)) if x.dtype.kind in FLOATING else x == top
        count = hit.sum(axis=self.axes, keepdims=self.keepdim)
        share = (grad / count).astype(grad.dtype, copy=False)
        return (hit * expanded(share, x.shape, self.axes, self.keepdim),)


class Pick(Op):
    """The elements at `indices` along an axis (of max, min, sort, ...): (x, indices) -> values."""

    def __init__(self, axis: int) -> None:
        self.axis = axis

    def forward(self, x: Array, indices: Array) -> Array:
        self.input_shape = x.shape
        if self.needs[0]:
            self.saved = (indices,)
        return np.take_along_axis(x, indices, axis=self.axis)

    def backward(self, grad: Array) -> Grads:
        (indices,) = self.saved
        full = np.zeros(self.input_shape, grad.dtype, like=grad)
        np.put_along_axis(full, indices, grad, axis=self.axis)
        return full, None


def _squared(x: Array) -> Array:
    """|x|**2."""
    return (x * np.conjugate(x)).real if x.dtype.kind == "c" else x * x


class Var(Op):
    """Variance over axes, divided by count - correction."""

    def __init__(self, axes: Axes, correction: float, keepdim: bool) -> None:
        self.axes, self.correction, self.keepdim = axes, correction, keepdim

    def forward(self, x: Array) -> Array:
        centred = x - x.mean(axis=self.axes, keepdims=True)
        if self.needs[0]:
            self.saved = (centred,)
        y = as_array(_squared(centred).sum(axis=self.axes, keepdims=self.keepdim))
        self.count = max(x.size // max(y.size, 1) - self.correction, 0)
        return (y / y.dtype.type(self.count)).astype(y.dtype, copy=False)

    def backward(self, grad: Array) -> Grads:
        (centred,) = self.saved
        scale = (grad * 2 / grad.dtype.type(self.count)).astype(grad.dtype, copy=False)
        return (centred * expanded(scale, centred.shape, self.axes, self.keepdim),)


class Std(Var):
    """Square root of the variance; its gradient where it is 0 is 0, as in PyTorch."""

    def forward(self, x: Array) -> Array:
        y = np.sqrt(super().forward(x))
        if self.needs[0]:
            self.saved = (*self.saved, y)
        return y

    def backward(self, grad: Array) -> Grads:
        centred, y = self.saved
        scale = np.where(y == 0, 0, grad / (y * y.dtype.type(self.count)))
        return (centred * expanded(scale, centred.shape, self.axes, self.keepdim),)


class Norm(Op):
    """(sum |x|**p)**(1/p) over axes, p > 0; its gradient where it is 0 is 0, as in PyTorch."""

    def __init__(self, p: float, axes: Axes, keepdim: bool) -> None:
        self.p, self.axes, self.keepdim = p, axes, keepdim

    def forward(self, x: Array) -> Array:
        if self.p == 2:
            y = np.sqrt(_squared(x).sum(axis=self.axes, keepdims=self.keepdim))
        else:
            powers = np.abs(x) ** self.p
            y = powers.sum(axis=self.axes, keepdims=self.keepdim) ** (1 / self.p)
        y = as_array(y)
        if self.needs[0]:
            self.saved = (x, y)
        return y

    def backward(self, grad: Array) -> Grads:
        x, y = self.saved
        scale = np.where(y == 0, 0, grad / y ** (self.p - 1)).astype(grad.dtype, copy=False)
        slope = x if self.p == 2 else np.where(x == 0, 0, np.sign(x) * np.abs(x) ** (self.p - 1))
        return (slope * expanded(scale, x.shape, self.axes, self.keepdim),)


class LogSumExp(Op):
    """log(sum(exp(x))) over axes, shifted so that it cannot overflow."""

    def __init__(self, axes: Axes, keepdim: bool) -> None:
        self.axes, self.keepdim = axes, keepdim

    def forward(self, x: Array) -> Array:
        top = x.real.max(axis=self.axes, keepdims=True)
        top = np.where(np.isfinite(top), top, 0)
        y = np.log(np.exp(x - top).sum(axis=self.axes, keepdims=True)) + top
        if not self.keepdim:
            y = np.squeeze(y, self.axes) if self.axes is not None else y.reshape(())
        if self.needs[0]:
            self.saved = (x, y)
        return y

    def backward(self, grad: Array) -> Grads:
        x, y = self.saved
        wide = expanded(y, x.shape, self.axes, self.keepdim)
        return (conj(np.exp(x - wide)) * expanded(grad, x.shape, self.axes, self.keepdim),)


class CumSum(Op):
    """Running sum along an axis."""

    def __init__(self, axis: int) -> None:
        self.axis = axis

    def forward(self, x: Array) -> Array:
        return np.cumsum(x, axis=self.axis, dtype=own_integer(x))

    def backward(self, grad: Array) -> Grads:
        return (np.flip(np.cumsum(np.flip(grad, self.axis), axis=self.axis), self.axis),)
