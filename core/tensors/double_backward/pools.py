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
    positions = taken(op, grad._array)

    def taken_from(x: Any) -> Any:
        flat = x.reshape(*x.shape[:2], -1)
        return np.take_along_axis(flat, positions, 2).reshape(grad._array.shape)

    return (apply(gradient_map(op, 0, taken_from), grad),)


def taken(op: Any, like: Any) -> Any:
    """(N, C, outputs): the position in its flattened plane of the element each window took.

    What a kernel notes of it is its own affair, so its backward is asked: windows that do not
    overlap are given their numbers as gradients, and these come back at the positions. Half types
    hold small integers only, so a number goes digit by digit.
    """
    kernel, stride, _, dilation = op.geometry
    y_shape, dtype = like.shape, like.dtype
    spatial = y_shape[2:]
    count = int(np.prod(spatial))
    base = 128 if np.dtype(dtype).itemsize == 2 else 1 << 22
    apart = [-(-(d * (k - 1) + 1) // s) for k, s, d in zip(kernel, stride, dilation, strict=True)]
    positions = np.zeros((*y_shape[:2], count + 1), np.int64, like=like)
    planes = np.ix_(*(np.arange(n, like=like) for n in y_shape[:2]))
    for phase in itertools.product(*map(range, apart)):
        key = tuple(slice(p, None, a) for p, a in zip(phase, apart, strict=True))
        numbers = np.arange(count, like=like).reshape(spatial)[key]
        which: Any = 0
        hit: Any = False
        unit = 1
        while unit == 1 or unit < count:
            probe = np.zeros_like(like)
            probe[(slice(None), slice(None), *key)] = numbers // unit % base + 1
            found = op.backward(probe)[0].reshape(*y_shape[:2], -1)
            hit = found != 0
            which = which + (found.astype(np.int64) - 1) * unit
            unit *= base
        place = np.arange(found.shape[2], like=like)
        # Elements that no window took go to one more place, which is left out.
        positions[(*(p[..., None] for p in planes), np.where(hit, which, count))] = place
    return positions[..., :count]


def _adaptive(node: Node, grad: Any) -> tuple[Any]:
    op = node.op
    if not op.maximum:
        return moved(node, grad)
    x, y = node.saved

    def taken_from(t: Any) -> Any:
        result = np.empty(grad._array.shape, t.dtype, like=t)
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
