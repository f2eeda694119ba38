"""Second-order rules of pooling: which elements a window took is constant."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np

from ...ops import pool
from ...ops.maps import gradient_map
from ..graph import apply
from . import Rule
from .node import Node
from .shapes import moved


def _max_pool(node: Node, grad: Any) -> tuple[Any]:
    op = node.op
    positions = taken(op, grad._array.shape, grad._array.dtype)

    def taken_from(x: Any) -> Any:
        flat = x.reshape(*x.shape[:2], -1)
        return np.take_along_axis(flat, positions, 2).reshape(grad._array.shape)

    return (apply(gradient_map(op, 0, taken_from), grad),)


def taken(op: Any, y_shape: tuple[int, ...], dtype: Any) -> Any:
    """(N, C, outputs): the position in its flattened plane of the element each window took.

    What a kernel notes of it is its own affair, so its backward is asked: windows that do not
    overlap are given the numbers 1, 2, ... as gradients, and these come back at the positions.
    """
    kernel, stride, _, dilation = op.geometry
    spatial = y_shape[2:]
    count = int(np.prod(spatial))
    numbers = np.arange(1, count + 1).reshape(spatial)
    apart = [-(-(d * (k - 1) + 1) // s) for k, s, d in zip(kernel, stride, dilation, strict=True)]
    positions = np.zeros((*y_shape[:2], count), np.int64)
    for phase in itertools.product(*map(range, apart)):
        key = tuple(slice(p, None, a) for p, a in zip(phase, apart, strict=True))
        probe = np.zeros(y_shape, dtype)
        probe[(..., *key)] = numbers[key]
        (found,) = op.backward(probe)
        n, c, place = np.nonzero(found.reshape(*y_shape[:2], -1))
        which = found.reshape(*y_shape[:2], -1)[n, c, place].astype(np.int64)
        positions[n, c, which - 1] = place
    return positions


def _adaptive(node: Node, grad: Any) -> tuple[Any]:
    op = node.op
    if not op.maximum:
        return moved(node, grad)
    x, y = node.saved

    def taken_from(t: Any) -> Any:
        result = np.empty(grad._array.shape, t.dtype)
        axes = tuple(range(2, x.ndim))
        for where, window in pool.windows(x.shape[2:], op.output_size):
            top = y[where].reshape(*x.shape[:2], *(1,) * len(axes))
            result[where] = (t[window] * pool._first(x[window], top)).sum(axis=axes)
        return result

    return (apply(gradient_map(op, 0, taken_from), grad),)


RULES: dict[type[Any], Rule] = {
    pool.MaxPool: _max_pool,
    pool.AvgPool: moved,
    pool.AdaptivePool: _adaptive,
}
