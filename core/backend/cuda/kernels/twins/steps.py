"""Twins of the files `grads.cu` and `optim*.cu`, which read tables of addresses.

In place of device addresses a table has addresses of host arrays (see `tables.py`).
"""

from __future__ import annotations

import ctypes
import math
from typing import Any

import numpy as np

from ....protocol import Array
from .arrays import named

_ROW, _CHUNK, _NUMBERS, _ADAPTS = 10, 8192, 16, 256
_LARS, _LAMB = 4, 5


def _at(address: int, size: int, dtype: Any) -> Array:
    """The array of `size` elements at an address."""
    found = np.dtype(dtype)
    memory = (ctypes.c_char * (int(size) * found.itemsize)).from_address(int(address))
    return np.frombuffer(memory, found)


def _element(kind: int) -> Any:
    if kind == 4:
        return np.float32
    if kind == 2:
        return np.float16
    import ml_dtypes

    return ml_dtypes.bfloat16


class _Row:
    """One row of a table."""

    def __init__(self, table: Array, number: int) -> None:
        words = [int(w) for w in table[number * _ROW : (number + 1) * _ROW]]
        self.size, self.first, self.kind = words[7], words[8], words[9]
        dtype = _element(self.kind & 15)
        self.param, self.grad, *states = (
            _at(w, self.size if w else 0, dtype) if w else np.empty(0, dtype) for w in words[:5]
        )
        self.states = [s if w else None for s, w in zip(states, words[2:5], strict=True)]
        copy = words[5]
        self.copy = _at(copy, self.size, _element(self.kind >> 4 & 15)) if copy else None
        self.count = words[6]
        self.adapts = bool(self.kind & _ADAPTS)

    def chunks(self) -> list[slice]:
        """What the chunks are, in order."""
        return [slice(i, i + _CHUNK) for i in range(0, self.size, _CHUNK)]

    def store(self, param: Array, *states: Array | None) -> None:
        """Round the new values into their places."""
        self.param[:] = param
        for place, value in zip(self.states, states, strict=False):
            if place is not None:
                place[:] = value
        if self.copy is not None:
            self.copy[:] = param


def _rows(table: Array, tensors: int) -> list[_Row]:
    return [_Row(table, i) for i in range(int(tensors))]


def _wide(x: Array | None) -> Any:
    return None if x is None else np.asarray(x, np.float32)


# -- gradients -----------------------------------------------------------------------------------
def grads_unscale(table: Array, tensors: int, scale: Array, found: Array, writes: int) -> None:
    for row in _rows(table, tensors):
        if not np.isfinite(_wide(row.grad)).all():
            found[0] = 1
        if writes:
            row.grad[:] = _wide(row.grad) * scale[1]


def grads_squares(table: Array, tensors: int, partial: Array) -> None:
    for row in _rows(table, tensors):
        for i, part in enumerate(row.chunks()):
            partial[row.first + i] = (row.grad[part].astype(np.float64) ** 2).sum()


def grads_clip(table: Array, tensors: int, coefficient: Array) -> None:
    for row in _rows(table, tensors):
        if not coefficient[0] >= 1:
            row.grad[:] = _wide(row.grad) * coefficient[0]


def grads_norm(partial: Array, n: int, most: float, out: Array) -> None:
    norm = math.sqrt(partial[:n].sum())
    factor = float(most) / (norm + 1e-6)
    out[:2] = norm, np.minimum(1, factor)  # NaN stays


def scale_update(
    scale: Array,
    tracker: Array,
    found: Array,
    n: int,
    growth: float,
    backoff: float,
    interval: int,
) -> None:
    any_found = bool(found[:n].any())
    found[:n] = 0
    if any_found:
        scale[0] *= np.float32(backoff)
        tracker[0] = 0
    else:
        tracker[0] += 1
        if tracker[0] == interval:
            grown = scale[0] * np.float32(growth)
            scale[0] = grown if np.isfinite(grown) else scale[0]
            tracker[0] = 0
    scale[1] = np.float32(1) / scale[0]


# -- before the step -----------------------------------------------------------------------------
def optim_hyper(
    hyper: Array,
    h0: float, h1: float, h2: float, h3: float, h4: float,
    h5: float, h6: float, h7: float, h8: float, h9: float,
) -> None:  # fmt: skip
    hyper[:] = h0, h1, h2, h3, h4, h5, h6, h7, h8, h9


def optim_prepare(
    table: Array,
    tensors: int,
    kind: int,
    hyper: Array,
    sign: float,
    found: Array | None,
    scale: Array | None,
    numbers: Array,
) -> None:
    for i, row in enumerate(_rows(table, tensors)):
        out = numbers[i * _NUMBERS : (i + 1) * _NUMBERS]
        out[0] = found is None or found[0] == 0
        out[1] = sign if scale is None else sign * scale[1]
        if out[0]:
            _PREPARE[int(kind)](out, [float(h) for h in hyper], row)


def _count(row: _Row, given: float) -> float:
    if not row.count:
        return given
    count = _at(row.count, 1, np.float32)
    count += 1
    return float(count[0])


def _prepare_sgd(out: Array, h: list[float], row: _Row) -> None:
    first = bool(row.count) and _count(row, 0) == 1
    out[2:6] = h[0], h[1], 1 if first else 1 - h[2], h[3]


def _prepare_adam(out: Array, h: list[float], row: _Row) -> None:
    lr, beta1, beta2, eps, decay, decoupled = h[:6]
    t = _count(row, h[6])
    out[2:9] = (
        lr / (1 - beta1**t), math.sqrt(1 - beta2**t), beta1, 1 - beta1, beta2, 1 - beta2, eps,
    )  # fmt: skip
    out[9:11] = (1 - lr * decay, 0) if decoupled else (1, decay)


def _prepare_lamb(out: Array, h: list[float], row: _Row) -> None:
    lr, beta1, beta2, eps, decay = h[:5]
    t = _count(row, h[6])
    out[2:9] = lr, math.sqrt(1 - beta2**t), beta1, 1 - beta1, beta2, 1 - beta2, eps
    out[9:13] = 1 - beta1**t, decay if row.adapts else 0, h[7], h[8]


def _prepare_rmsprop(out: Array, h: list[float], row: _Row) -> None:
    _count(row, 0)
    out[2:8] = h[0], h[1], 1 - h[1], h[2], h[3], h[4]


def _prepare_adagrad(out: Array, h: list[float], row: _Row) -> None:
    out[2:5] = h[0] / (1 + (_count(row, h[6]) - 1) * h[1]), h[2], h[3]


def _prepare_lars(out: Array, h: list[float], row: _Row) -> None:
    _count(row, 0)
    out[2:7] = h[0], h[1], h[2] if row.adapts else 0, h[3], h[4]


def _prepare_average(out: Array, h: list[float], row: _Row) -> None:
    n = float(_at(row.count, 1, np.int64)[0]) if row.count else h[6]
    equal = h[0] < 0
    if n == 0:
        out[2:5] = 0, 1, 0
    else:
        out[2:5] = (1, 1 / (n + 1), 1) if equal else (h[0], 1 - h[0], 0)


_PREPARE = (
    _prepare_sgd, _prepare_adam, _prepare_rmsprop, _prepare_adagrad, _prepare_lars, _prepare_lamb,
    _prepare_average,
)  # fmt: skip


# -- the steps -----------------------------------------------------------------------------------
def _stepped(table: Array, tensors: int, numbers: Array) -> list[tuple[_Row, Array, Any, Any]]:
    """The rows that are not skipped: (row, numbers, parameter, gradient to descend along)."""
    found = []
    for i, row in enumerate(_rows(table, tensors)):
        n = numbers[i * _NUMBERS : (i + 1) * _NUMBERS]
        if n[0]:
            found.append((row, n, _wide(row.param), _wide(row.grad) * n[1]))
    return found


def sgd_step(table: Array, tensors: int, numbers: Array, nesterov: int) -> None:
    for row, n, p, g in _stepped(table, tensors, numbers):
        update, m = g + n[5] * p if n[5] else g, _wide(row.states[0])
        if m is not None:
            m = n[3] * m + n[4] * update
            update = update + n[3] * m if nesterov else m
        row.store(p - n[2] * update, m)


def adam_step(table: Array, tensors: int, numbers: Array) -> None:
    for row, n, p, g in _stepped(table, tensors, numbers):
        m, v, top = map(_wide, row.states)
        p = p * n[9]
        g = g + n[10] * p if n[10] else g
        m, v = n[4] * m + n[5] * g, n[6] * v + n[7] * (g * g)
        top = None if top is None else np.maximum(top, v)
        second = v if top is None else top
        row.store(p - n[2] * m / (np.sqrt(second) / n[3] + n[8]), m, v, top)


def rmsprop_step(table: Array, tensors: int, numbers: Array) -> None:
    for row, n, p, g in _stepped(table, tensors, numbers):
        square, m, mean = map(_wide, row.states)
        g = g + n[6] * p if n[6] else g
        square = spread = n[3] * square + n[4] * (g * g)
        if mean is not None:
            mean = n[3] * mean + n[4] * g
            spread = square - mean * mean
        update = g / (np.sqrt(spread) + n[5])
        if m is not None:
            update = m = n[7] * m + update
        row.store(p - n[2] * update, square, m, mean)


def adagrad_step(table: Array, tensors: int, numbers: Array) -> None:
    for row, n, p, g in _stepped(table, tensors, numbers):
        g = g + n[4] * p if n[4] else g
        total = _wide(row.states[0]) + g * g
        row.store(p - n[2] * (g / (np.sqrt(total) + n[3])), total)


def lars_norms(table: Array, tensors: int, numbers: Array, partial: Array) -> None:
    for i, row in enumerate(_rows(table, tensors)):
        p, g = _wide(row.param), _wide(row.grad) * numbers[i * _NUMBERS + 1]
        for c, part in enumerate(row.chunks(), row.first):
            partial[2 * c] = (p[part].astype(np.float64) ** 2).sum()
            partial[2 * c + 1] = (g[part].astype(np.float64) ** 2).sum()


def _lamb_update(p: Array, m: Array, v: Array, n: Array) -> Array:
    update = m / n[9] / (np.sqrt(v) / n[3] + n[8])
    return update + n[10] * p if n[10] else update


def lamb_norms(table: Array, tensors: int, numbers: Array, partial: Array) -> None:
    for row, n, p, g in _stepped(table, tensors, numbers):
        m, v = row.states[:2]
        assert m is not None
        assert v is not None
        m[:] = n[4] * _wide(m) + n[5] * g
        v[:] = n[6] * _wide(v) + n[7] * (g * g)
        update = _lamb_update(p, _wide(m), _wide(v), n)
        for c, part in enumerate(row.chunks(), row.first):
            partial[2 * c] = (p[part].astype(np.float64) ** 2).sum()
            partial[2 * c + 1] = (update[part].astype(np.float64) ** 2).sum()


def optim_ratio(table: Array, tensors: int, kind: int, partial: Array, numbers: Array) -> None:
    for i, row in enumerate(_rows(table, tensors)):
        n = numbers[i * _NUMBERS : (i + 1) * _NUMBERS]
        if not n[0] or not row.adapts:
            continue
        mine = partial[2 * row.first : 2 * (row.first + len(row.chunks()))]
        size, other = math.sqrt(mine[::2].sum()), math.sqrt(mine[1::2].sum())
        if kind == _LAMB:
            size = min(max(size, float(n[11])), float(n[12]))
        if not (size > 0 and other > 0):
            continue
        n[2] *= n[5] * size / (other + n[4] * size + n[6]) if kind == _LARS else size / other


def lars_step(table: Array, tensors: int, numbers: Array, nesterov: int) -> None:
    for row, n, p, g in _stepped(table, tensors, numbers):
        update = n[2] * (g + n[4] * p if n[4] else g)
        m = n[3] * _wide(row.states[0]) + update
        row.store(p - (update + n[3] * m if nesterov else m), m)


def lamb_step(table: Array, tensors: int, numbers: Array) -> None:
    for row, n, p, _ in _stepped(table, tensors, numbers):
        m, v = _wide(row.states[0]), _wide(row.states[1])
        row.store(p - n[2] * _lamb_update(p, m, v, n), m, v)


def average_step(table: Array, tensors: int, numbers: Array) -> None:
    for row, n, p, _ in _stepped(table, tensors, numbers):
        g = _wide(row.grad)
        if n[4]:
            row.store(p + (g - p) * n[3])
        else:
            row.store(n[2] * p + n[3] * g if n[2] else n[3] * g)


TWINS = named(
    grads_unscale, grads_squares, grads_clip, grads_norm, scale_update, optim_hyper, optim_prepare,
    sgd_step, adam_step, rmsprop_step, adagrad_step, lars_norms, lamb_norms, optim_ratio, lars_step,
    lamb_step, average_step,
)  # fmt: skip
