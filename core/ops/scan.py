"""Running products and logarithms of sums along an axis; running sums are in `reduce.py`."""

from __future__ import annotations

import numpy as np

from ..backend import Array
from ..backend.arrays import on_device
from .base import Op
from .elementwise import Grads, conj
from .reduce import own_integer


def accumulated(function: np.ufunc, x: Array, axis: int) -> Array:
    """``function.accumulate(x, axis)`` of an associative function, on devices too.

    CuPy accumulates sums and products alone. There, as many steps as the length has binary digits
    combine each element with the one 1, 2, 4, ... places before it.
    """
    if not on_device(x) or function in (np.add, np.multiply):
        return function.accumulate(x, axis=axis)
    y = np.moveaxis(x.copy(), axis, 0)
    step = 1
    while step < len(y):
        y[step:] = function(y[step:], y[:-step])
        step *= 2
    return np.moveaxis(y, 0, axis)


def _backwards(function: np.ufunc, x: Array, axis: int) -> Array:
    """Accumulate from the end."""
    return np.flip(accumulated(function, np.flip(x, axis), axis), axis)


class CumProd(Op):
    """Running product along an axis; its gradient is exact also where elements are zero."""

    def __init__(self, axis: int) -> None:
        self.axis = axis

    def forward(self, x: Array) -> Array:
        y = np.cumprod(x, axis=self.axis, dtype=own_integer(x))
        if self.needs[0]:
            self.saved = (x, y)
        return y

    def backward(self, grad: Array) -> Grads:
        x, y = self.saved
        if not x.size:
            return (np.zeros_like(x),)
        if x.all():  # waits for a GPU, as PyTorch's does: the way below is many times longer
            return (_backwards(np.add, grad * conj(y), self.axis) / conj(x),)
        # Product of the elements before, times the sum s_k = grad_k + x_(k+1) s_(k+1).
        x, y, grad = (conj(np.moveaxis(a, self.axis, 0)) for a in (x, y, conj(grad)))
        result = np.empty_like(grad)
        later = np.zeros_like(grad[0])
        for k in range(len(x) - 1, -1, -1):
            later = grad[k] + later
            result[k] = later * y[k - 1] if k else later
            later = x[k] * later
        return (np.moveaxis(result, 0, self.axis),)


class LogCumSumExp(Op):
    """log(cumsum(exp(x))) along an axis, without overflow."""

    def __init__(self, axis: int) -> None:
        self.axis = axis

    def forward(self, x: Array) -> Array:
        y = accumulated(np.logaddexp, x, self.axis)
        if self.needs[0]:
            self.saved = (x, y)
        return y

    def backward(self, grad: Array) -> Grads:
        # The sum of grad_j e**(x_k - y_j) over j >= k; positive and negative parts by logarithms.
        x, y = self.saved
        total = np.zeros_like(grad)
        for sign in (1, -1):
            part = np.log(np.maximum(sign * grad, 0)) - y
            total = total + sign * np.exp(_backwards(np.logaddexp, part, self.axis) + x)
        return (total,)
