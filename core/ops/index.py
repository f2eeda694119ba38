"""Indexing with arrays: gather, scatter, masks, and assignment."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..backend import Array
from .base import Op
from .elementwise import Grads


class Take(Op):
    """Advanced indexing ``x[key]`` with integer or boolean arrays in `key`: a copy."""

    def __init__(self, key: Any) -> None:
        self.key = key

    def forward(self, x: Array) -> Array:
        self.input_shape = x.shape
        return np.asarray(x[self.key])

    def backward(self, grad: Array) -> Grads:
        full = np.zeros(self.input_shape, grad.dtype)
        masks = all(not isinstance(k, np.ndarray) or k.dtype == bool for k in self.key)
        if masks:  # no element is hit twice
            full[self.key] = grad
        else:
            np.add.at(full, self.key, grad)
        return (full,)


class Assign(Op):
    """x with ``x[key]`` replaced by value: (x, value) -> new array."""

    def __init__(self, key: Any) -> None:
        self.key = key

    def forward(self, x: Array, value: Any) -> Array:
        y = np.array(x, order="C")
        y[self.key] = value
        self.value_shape = np.shape(value)
        return y

    def backward(self, grad: Array) -> Grads:
        grad_value = None
        if self.needs[1]:
            grad_value = np.asarray(grad[self.key])
            # Assignment broadcasts like NumPy, dropping leading ones of the value.
            extra = len(self.value_shape) - grad_value.ndim
            if extra > 0:
                grad_value = grad_value.reshape((1,) * extra + grad_value.shape)
        grad_x = None
        if self.needs[0]:
            grad_x = np.array(grad, order="C")
            grad_x[self.key] = 0
        return grad_x, grad_value


class Gather(Op):
    """``y[i][j] = x[index[i][j]][j]`` along an axis; index may be smaller than x."""

    def __init__(self, axis: int) -> None:
        self.axis = axis

    def forward(self, x: Array, index: Array) -> Array:
        self.input_shape = x.shape
        if self.needs[0]:
            self.saved = (index,)
        return x[along(index, self.axis)]

    def backward(self, grad: Array) -> Grads:
        (index,) = self.saved
        full = np.zeros(self.input_shape, grad.dtype)
        np.add.at(full, along(index, self.axis), grad)
        return full, None


class Scatter(Op):
    """x with src written (or added) to ``[index]`` along an axis: (x, index, src)."""

    def __init__(self, axis: int, add: bool) -> None:
        self.axis, self.add = axis, add

    def forward(self, x: Array, index: Array, src: Any) -> Array:
        if any(self.needs):
            self.saved = (index,)
        self.src_shape = np.shape(src)
        y = np.array(x, order="C")
        where = along(index, self.axis)
        if isinstance(src, np.ndarray):
            src = src[tuple(slice(0, n) for n in index.shape)]
        if self.add:
            np.add.at(y, where, src)
        else:
            y[where] = src
        return y

    def backward(self, grad: Array) -> Grads:
        (index,) = self.saved
        where = along(index, self.axis)
        grad_x = grad_src = None
        if self.needs[0]:
            grad_x = grad
            if not self.add:
                grad_x = np.array(grad, order="C")
                grad_x[where] = 0
        if self.needs[2]:
            grad_src = np.zeros(self.src_shape, grad.dtype)
            grad_src[tuple(slice(0, n) for n in index.shape)] = grad[where]
        return grad_x, None, grad_src


def along(index: Array, axis: int) -> tuple[Any, ...]:
    """The key that reads or writes at `index` along `axis` and at the same place elsewhere."""
    key: list[Any] = list(np.ogrid[tuple(slice(0, n) for n in index.shape)])
    key[axis] = index
    return tuple(key)
