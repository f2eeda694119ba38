"""Indexing with arrays: gather, scatter, masks, and assignment."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

from ..backend import Array, ufuncs
from ..backend.arrays import as_array, by_host, is_array, owned
from .base import Op
from .elementwise import Grads


class Take(Op):
    """Advanced indexing ``x[key]`` with integer or boolean arrays in `key`: a copy."""

    def __init__(self, key: Any) -> None:
        self.key = key

    def forward(self, x: Array) -> Array:
        self.input_shape = x.shape
        return as_array(x[self.key])

    def backward(self, grad: Array) -> Grads:
        full = np.zeros(self.input_shape, grad.dtype, like=grad)
        masks = all(not is_array(k) or k.dtype == bool for k in self.key)
        if masks:  # no element is hit twice
            full[self.key] = grad
        else:
            ufuncs.at(np.add, full, self.key, grad)
        return (full,)


class Assign(Op):
    """x with ``x[key]`` replaced by value (or value added to it): (x, value) -> new array."""

    def __init__(self, key: Any, add: bool = False) -> None:
        self.key, self.add = key, add

    def forward(self, x: Array, value: Any) -> Array:
        y = owned(x)
        self.write(y, value)
        return y

    def write(self, y: Array, value: Any) -> None:
        """Change `y` in place."""
        self.value_shape = np.shape(value)
        if self.add:
            ufuncs.at(np.add, y, self.key, value)
        else:
            y[self.key] = value

    def backward(self, grad: Array) -> Grads:
        grad_value = None
        if self.needs[1]:
            grad_value = as_array(grad[self.key])
            # Assignment broadcasts like NumPy, dropping leading ones of the value.
            extra = len(self.value_shape) - grad_value.ndim
            if extra > 0:
                grad_value = grad_value.reshape((1,) * extra + grad_value.shape)
        grad_x = None
        if self.needs[0]:
            grad_x = grad
            if not self.add:
                grad_x = owned(grad)
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
        full = np.zeros(self.input_shape, grad.dtype, like=grad)
        ufuncs.at(np.add, full, along(index, self.axis), grad)
        return full, None


class Scatter(Op):
    """x with src written (or added) to ``[index]`` along an axis: (x, index, src)."""

    def __init__(self, axis: int, add: bool) -> None:
        self.axis, self.add = axis, add

    def forward(self, x: Array, index: Array, src: Any) -> Array:
        if any(self.needs):
            self.saved = (index,)
        y = owned(x)
        self.write(y, index, src)
        return y

    def write(self, y: Array, index: Array, src: Any) -> None:
        """Change `y` in place."""
        self.src_shape = np.shape(src)
        where = along(index, self.axis)
        if self.add:
            ufuncs.at(np.add, y, where, beside(src, index))
        else:
            y[where] = beside(src, index)

    def backward(self, grad: Array) -> Grads:
        (index,) = self.saved
        where = along(index, self.axis)
        grad_x = grad_src = None
        if self.needs[0]:
            grad_x = grad
            if not self.add:
                grad_x = owned(grad)
                grad_x[where] = 0
        if self.needs[2]:
            grad_src = np.zeros(self.src_shape, grad.dtype, like=grad)
            grad_src[corner(index)] = grad[where]
        return grad_x, None, grad_src


class ScatterReduce(Op):
    """x reduced with src at ``[index]`` along an axis: (x, index, src).

    Args:
        kind: "sum", "prod", "mean", "amax" or "amin".
        include_self: whether the elements of x that are hit take part.
    """

    start: ClassVar[dict[str, float]] = {
        "sum": 0, "mean": 0, "prod": 1, "amax": -np.inf, "amin": np.inf,
    }  # fmt: skip
    ufuncs: ClassVar[dict[str, Any]] = {
        "sum": np.add, "mean": np.add, "amax": np.maximum, "amin": np.minimum,
    }  # fmt: skip

    def __init__(self, axis: int, kind: str, include_self: bool) -> None:
        self.axis, self.kind, self.include_self = axis, kind, include_self

    def forward(self, x: Array, index: Array, src: Any) -> Array:
        y = owned(x)
        self.write(y, index, src)
        self.src_shape = np.shape(src)
        if any(self.needs):
            self.saved = (x, index, src, y)
        return y

    def write(self, y: Array, index: Array, src: Any) -> None:
        """Change `y` in place."""
        where = along(index, self.axis)
        if not self.include_self:
            y[where] = self._start(y.dtype)
        if self.kind == "prod":
            _multiply_at(y, where, beside(src, index))
        else:
            ufuncs.at(self.ufuncs[self.kind], y, where, beside(src, index))
        if self.kind == "mean":
            count = np.maximum(self._count(y, where), 1)
            (np.divide if y.dtype.kind in "fc" else np.floor_divide)(
                y, count.astype(y.dtype), out=y
            )

    def _start(self, dtype: np.dtype) -> Any:
        value = self.start[self.kind]
        if np.isinf(value) and dtype.kind in "iu":
            info = np.iinfo(dtype)
            return info.min if value < 0 else info.max
        return value

    def _count(self, x: Array, where: Any) -> Array:
        """How many elements take part in each result, in the shape of `x`."""
        count = np.ones_like(x, np.int64, order="C")
        if not self.include_self:
            count[where] = 0
        ufuncs.at(np.add, count, where, 1)
        return count

    def backward(self, grad: Array) -> Grads:
        x, index, src, y = self.saved
        where = along(index, self.axis)
        part = beside(src, index)
        if self.kind == "prod":
            to_x, to_src = self._product(grad, x, part, where)
        elif self.kind in ("amax", "amin"):
            chosen, self_chosen = part == y[where], x == y
            if not self.include_self:
                self_chosen[where] = False
            ties = self_chosen.astype(grad.dtype)
            ufuncs.at(np.add, ties, where, chosen)
            share = grad / np.maximum(ties, 1)
            to_x, to_src = np.where(self_chosen, share, 0), np.where(chosen, share[where], 0)
        else:
            to_x = grad
            if self.kind == "mean":
                to_x = grad / np.maximum(self._count(x, where), 1).astype(grad.real.dtype)
            to_src = to_x[where]
        grad_x = grad_src = None
        if self.needs[0]:
            grad_x = owned(to_x)
            if not self.include_self:
                grad_x[where] = 0
        if self.needs[2]:
            grad_src = np.zeros(self.src_shape, grad.dtype, like=grad)
            grad_src[corner(index)] = to_src
        return grad_x, None, grad_src

    def _product(self, grad: Array, x: Array, part: Array, where: Any) -> tuple[Array, Array]:
        """Gradients of a product: that of all other factors, which may hold zeros."""
        if not is_array(part):
            part = np.full_like(x, part, shape=())
        ones, zeros = np.where(x == 0, 1, x), (x == 0).astype(np.int64)
        if not self.include_self:
            ones[where], zeros[where] = 1, 0
        _multiply_at(ones, where, np.where(part == 0, 1, part))
        ufuncs.at(np.add, zeros, where, part == 0)

        def others(factor: Array, rest: Array, holes: Array) -> Array:
            alone = holes - (factor == 0) == 0  # no other factor is zero
            return np.where(alone, rest / np.where(factor == 0, 1, factor), 0)

        to_x = grad * others(x, ones, zeros)
        return to_x, grad[where] * others(part, ones[where], zeros[where])


def _multiply_at(y: Array, where: tuple[Any, ...], factors: Any) -> None:
    """Multiply the elements of `y` that `where` names, each as often as it is named."""

    def multiplied(y: Array, factors: Any, *where: Array) -> Array:
        result = y.copy()
        np.multiply.at(result, where, factors)
        return result

    y[...] = by_host("scatter_reduce", multiplied, y, factors, *where)


def corner(index: Array) -> tuple[slice, ...]:
    """The key of the part of src that `index` speaks of: src may be larger."""
    return tuple(slice(0, n) for n in index.shape)


def beside(src: Any, index: Array) -> Any:
    """The part of src that belongs to `index`; numbers stay numbers."""
    return src[corner(index)] if is_array(src) else src


def along(index: Array, axis: int) -> tuple[Any, ...]:
    """The key that reads or writes at `index` along `axis` and at the same place elsewhere."""
    key = [
        np.arange(n, like=index).reshape((-1,) + (1,) * (index.ndim - 1 - d))
        for d, n in enumerate(index.shape)
    ]
    key[axis] = index
    return tuple(key)
