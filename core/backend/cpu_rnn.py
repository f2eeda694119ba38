"""Recurrent layers on the CPU: products by oneDNN, the arithmetic of the gates by NumPy.

What depends on no earlier step is done for all steps at once: the product with the input, and the
gradients of input and weights. What is left for each step is a product with the hidden state
and about ten functions of NumPy on memory that is in the first cache. The weights of that product
are packed once per sequence, and it adds to the input's share in the same pass: 105 GFLOP/s for
20x256 @ 256x1024 on Cascade Lake, 68 without packing. Memory is (gate, row, feature), so that NumPy
meets whole blocks: columns of a wider matrix take it four times as long.

Note [Gates by tanh]
sigmoid(x) = tanh(x / 2) / 2 + 1/2. So one tanh serves all gates between two multiplications with
1/2 or, for a gate that is a tanh itself, 1, and an addition of 1/2 or 0.

See Note [Packed rows] in `reference/rnn.py` for the layout of the input.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from ..errors import Unsupported
from .cpu_base import F32, fast, require_elements, require_float32
from .cpu_linear import CpuLinear
from .cpu_rnn_products import GateGradients, GateProducts, GateSum
from .protocol_recurrent import Array, Dims, RecurrentGrads, RecurrentWeights
from .reference.rnn import spans

_FEW_STEPS = 3  # up to here, preparing the weights costs more than it gains
_HALF, _ONE = np.float32(0.5), np.float32(1)
_FACTORS = np.array([0.5, 0.5, 1, 0.5], F32)[:, None, None]  # of the LSTM's gates i, f, g, o
_SHIFTS = _ONE - _FACTORS


class _Kept(NamedTuple):
    """What the fast kernels keep of a forward pass; states begin with the initial one."""

    x: Array
    gates: Array  # (gates, rows, H)
    states: Array  # (N + rows, H): h0, then the outputs
    cells: Array | None  # (N + rows, H): c0, then the cell states
    extra: Array | None  # LSTM: tanh(cell state); GRU: share of h in n, before the reset gate


class CpuRecurrent(CpuLinear):
    """Kernels `recurrent_*` of the backend protocol."""

    @fast
    def recurrent_forward(
        self,
        cell: str,
        x: Array,
        h0: Array,
        c0: Array | None,
        weights: RecurrentWeights,
        batch_sizes: Dims,
    ) -> tuple[Array, Array, Array | None, Any]:
        require_float32(x, h0, c0, *weights)
        require_elements(x, h0)
        if weights.hr is not None:
            raise Unsupported("projection")
        if len(batch_sizes) <= _FEW_STEPS:
            return super().recurrent_forward(cell, x, h0, c0, weights, batch_sizes)
        own = _Gates(cell, weights)
        if c0 is not None:
            kept = self._lstm_forward(x, h0, c0, own, batch_sizes)
        elif cell == "gru":
            kept = self._gru_forward(x, h0, own, batch_sizes)
        else:
            kept = self._rnn_forward(x, h0, own, batch_sizes)
        n = len(h0)
        c = None if kept.cells is None else _last(kept.cells, n, batch_sizes)
        return kept.states[n:], _last(kept.states, n, batch_sizes), c, kept

    @fast
    def recurrent_backward(
        self,
        cell: str,
        grad_y: Array,
        grad_h: Array | None,
        grad_c: Array | None,
        weights: RecurrentWeights,
        batch_sizes: Dims,
        saved: Any,
        with_x: bool = True,
    ) -> RecurrentGrads:
        if not isinstance(saved, _Kept):
            if weights.hr is not None or grad_y.dtype != F32 or not grad_y.size:
                raise Unsupported("the forward pass fell back")
            return super().recurrent_backward(
                cell, grad_y, grad_h, grad_c, weights, batch_sizes, saved, with_x
            )
        require_float32(grad_y, grad_h, grad_c)
        n, hidden = batch_sizes[0], weights.hh.shape[1]
        h, c = (
            np.zeros((n, hidden), F32) if grad is None else np.array(grad, order="C")
            for grad in (grad_h, grad_c)
        )
        rows = _Rows(np.ascontiguousarray(grad_y), h, list(_forwards(n, batch_sizes))[::-1])
        own = _Gates(cell, weights)
        before = _before(saved.states, n, batch_sizes)
        if cell == "lstm":
            to_x = to_h = self._lstm_backward(rows, c, own, saved)
        elif cell == "gru":
            to_x, to_h = self._gru_backward(rows, own, saved)
        else:
            to_x = to_h = self._rnn_backward(cell, rows, own, saved)
        grad_x = None
        if with_x:
            grad_x = np.empty(saved.x.shape, F32)
            GateSum(self, own.ih, len(grad_x), to_x[0].size)(to_x, grad_x)
        bias = None if weights.bias_ih is None else self._summed(to_x)
        bias_h = bias
        if bias is not None:
            bias_h = bias.copy() if to_h is to_x else self._summed(to_h)
        return RecurrentGrads(
            grad_x,
            h,
            c if cell == "lstm" else None,
            GateGradients(self, saved.x[None], to_x)(to_x),
            GateGradients(self, before[None], to_h)(to_h),
            bias,
            bias_h,
            None,
        )

    def _summed(self, to_gates: Array) -> Array:
        """Gradient of a bias, (gates * H)."""
        return np.matmul(self._ones(to_gates.shape[1]), to_gates).reshape(-1)

    def _from_input(self, x: Array, own: _Gates, bias: Array | None) -> Array:
        """The input's share of the gates, for all steps: (gates, rows, H)."""
        gates, hidden, _ = own.ih.shape
        z = np.empty((gates, len(x), hidden), F32)
        w = own.ih.transpose(0, 2, 1)
        GateProducts(self, w, len(x), z[0].size, add=False, bias=bias)(x, z)
        return z

    # -- LSTM --------------------------------------------------------------------------------
    def _lstm_forward(
        self, x: Array, h0: Array, c0: Array, own: _Gates, batch_sizes: Dims
    ) -> _Kept:
        n, hidden = h0.shape
        gates = self._from_input(x, own, own.joined_bias())
        step = GateProducts(self, own.hh.transpose(0, 2, 1), n, gates[0].size)
        states, cells = _with_initial(h0, len(x)), _with_initial(c0, len(x))
        tanh_c, product = np.empty((len(x), hidden), F32), np.empty((n, hidden), F32)
        for start, count, before in _forwards(n, batch_sizes):
            end, z = start + count, gates[:, start : start + count]
            step(states[before : before + count], z)
            z *= _FACTORS
            np.tanh(z, out=z)
            z *= _FACTORS
            z += _SHIFTS
            c, t = cells[n + start : n + end], tanh_c[start:end]
            np.multiply(z[1], cells[before : before + count], out=c)
            c += np.multiply(z[0], z[2], out=product[:count])
            np.tanh(c, out=t)
            np.multiply(z[3], t, out=states[n + start : n + end])
        return _Kept(x, gates, states, cells, tanh_c)

    def _lstm_backward(self, rows: _Rows, c: Array, own: _Gates, kept: _Kept) -> Array:
        """Gradients before the gates; leaves those of the initial states in `rows.h` and `c`."""
        assert kept.cells is not None
        assert kept.extra is not None
        to_gates = np.empty(kept.gates.shape, F32)
        step = GateSum(self, own.hh, len(c), to_gates[0].size)
        room = np.empty(c.shape, F32)
        for start, end, count, before in rows.steps():
            gates, d, t = kept.gates[:, start:end], to_gates[:, start:end], kept.extra[start:end]
            i, f, g, o = gates
            grad_h, grad_c, r = rows.h[:count], c[:count], room[:count]
            grad_h += rows.grad_y[start:end]
            np.multiply(t, t, out=r)  # the way through tanh(c)
            np.subtract(_ONE, r, out=r)
            r *= o
            r *= grad_h
            grad_c += r
            np.multiply(gates, gates, out=d)
            np.subtract(gates[:2], d[:2], out=d[:2])  # slopes of the sigmoids and of the tanh
            np.subtract(_ONE, d[2], out=d[2])
            np.subtract(o, d[3], out=d[3])
            d[0] *= g
            d[1] *= kept.cells[before : before + count]
            d[2] *= i
            d[:3] *= grad_c
            d[3] *= t
            d[3] *= grad_h
            grad_c *= f
            step(d, grad_h)
        return to_gates

    # -- GRU ---------------------------------------------------------------------------------
    def _gru_forward(self, x: Array, h0: Array, own: _Gates, batch_sizes: Dims) -> _Kept:
        n, hidden = h0.shape
        bias, from_h = own.joined_bias(), np.zeros((1, len(x), hidden), F32)
        if bias is not None and own.bias_ih is not None and own.bias_hh is not None:
            bias[2] = own.bias_ih[2]
            from_h += own.bias_hh[2]
        gates = self._from_input(x, own, bias)
        turned = own.hh.transpose(0, 2, 1)
        to_sigmoids = GateProducts(self, turned[:2], n, gates[0].size)
        to_new = GateProducts(self, turned[2:], n, gates[0].size)
        states, product = _with_initial(h0, len(x)), np.empty((n, hidden), F32)
        for start, count, before in _forwards(n, batch_sizes):
            end, h = start + count, states[before : before + count]
            both, new, hn = gates[:2, start:end], gates[2, start:end], from_h[:, start:end]
            to_sigmoids(h, both)
            to_new(h, hn)
            both *= _HALF
            np.tanh(both, out=both)
            both *= _HALF
            both += _HALF
            new += np.multiply(both[0], hn[0], out=product[:count])
            np.tanh(new, out=new)
            y = np.subtract(h, new, out=states[n + start : n + end])
            y *= both[1]
            y += new
        return _Kept(x, gates, states, None, from_h[0])

    def _gru_backward(self, rows: _Rows, own: _Gates, kept: _Kept) -> tuple[Array, Array]:
        """Gradients before the gates, r, z, n: towards x, and towards h."""
        assert kept.extra is not None
        joint = np.empty((4, *kept.gates.shape[1:]), F32)  # n towards x, r, z, n towards h
        step = GateSum(self, own.hh, len(rows.h), joint[0].size, add=True)
        room = np.empty(rows.h.shape, F32)
        for start, end, count, before in rows.steps():
            gates, d = kept.gates[:, start:end], joint[:, start:end]
            grad_h, r = rows.h[:count], room[:count]
            reset, update, new = gates
            grad_h += rows.grad_y[start:end]
            to_new = np.multiply(new, new, out=d[0])
            np.subtract(_ONE, to_new, out=to_new)
            to_new *= np.subtract(_ONE, update, out=r)
            to_new *= grad_h
            slopes = np.multiply(gates[:2], gates[:2], out=d[1:3])
            np.subtract(gates[:2], slopes, out=slopes)
            d[1] *= kept.extra[start:end]
            d[1] *= to_new
            d[2] *= np.subtract(kept.states[before : before + count], new, out=r)
            d[2] *= grad_h
            np.multiply(to_new, reset, out=d[3])
            grad_h *= update
            step(d[1:], grad_h)
        to_h = joint[1:]
        return np.concatenate([joint[1:3], joint[:1]]), to_h

    # -- plain -------------------------------------------------------------------------------
    def _rnn_forward(self, x: Array, h0: Array, own: _Gates, batch_sizes: Dims) -> _Kept:
        n = len(h0)
        states = _with_initial(h0, len(x))
        states[n:] = self._from_input(x, own, own.joined_bias())[0]
        tanh = own.cell == "rnn_tanh"
        step = GateProducts(self, own.hh.transpose(0, 2, 1), n, states.size)
        for start, count, before in _forwards(n, batch_sizes):
            z = states[n + start : n + start + count]
            step(states[before : before + count], z[None])
            if tanh:
                np.tanh(z, out=z)
            else:
                np.maximum(z, 0, out=z)
        return _Kept(x, states[None, n:], states, None, None)

    def _rnn_backward(self, cell: str, rows: _Rows, own: _Gates, kept: _Kept) -> Array:
        y = kept.gates
        slopes = y > 0 if cell == "rnn_relu" else _ONE - y * y
        to_gates = np.empty(y.shape, F32)
        step = GateSum(self, own.hh, len(rows.h), to_gates[0].size)
        for start, end, count, _ in rows.steps():
            grad_h, d = rows.h[:count], to_gates[:, start:end]
            grad_h += rows.grad_y[start:end]
            np.multiply(grad_h, slopes[:, start:end], out=d)
            step(d, grad_h)
        return to_gates


class _Gates:
    """Weights as (gates, H, inputs) and biases as (gates, H)."""

    def __init__(self, cell: str, weights: RecurrentWeights) -> None:
        self.cell, self.hidden = cell, weights.hh.shape[1]
        self.ih, self.hh = self._split(weights.ih), self._split(weights.hh)
        self.bias_ih = None if weights.bias_ih is None else self._split(weights.bias_ih)
        self.bias_hh = None if weights.bias_hh is None else self._split(weights.bias_hh)

    def _split(self, array: Array) -> Array:
        return np.ascontiguousarray(array).reshape(-1, self.hidden, *array.shape[1:])

    def joined_bias(self) -> Array | None:
        """The sum of both biases, (gates, H)."""
        if self.bias_ih is None or self.bias_hh is None:
            return None
        total: Array = self.bias_ih + self.bias_hh
        return total


class _Rows(NamedTuple):
    """The gradient of the output, that of the state (changed step by step), and the steps."""

    grad_y: Array
    h: Array
    backwards: list[tuple[int, int, int]]

    def steps(self) -> Iterator[tuple[int, int, int, int]]:
        """(first row, end, rows, first row of the states before), from the last step on."""
        for start, count, before in self.backwards:
            yield start, start + count, count, before


def _with_initial(first: Array, rows: int) -> Array:
    """Memory for `rows` states behind the initial ones."""
    states = np.empty((len(first) + rows, first.shape[1]), F32)
    states[: len(first)] = first
    return states


def _forwards(n: int, batch_sizes: Dims) -> Iterator[tuple[int, int, int]]:
    """(first row, rows, first row of the states before, among those with the initial ones)."""
    before = 0
    for start, count in spans(batch_sizes):
        yield start, count, before
        before = n + start


def _before(states: Array, n: int, batch_sizes: Dims) -> Array:
    """The state before every row."""
    if batch_sizes[-1] == n:  # equal lengths: those of the step before
        return states[:-n]
    parts = [np.arange(b, b + count) for _, count, b in _forwards(n, batch_sizes)]
    taken: Array = states[np.concatenate(parts)]
    return taken


def _last(states: Array, n: int, batch_sizes: Dims) -> Array:
    """The state that every sequence ends with."""
    if batch_sizes[-1] == n:
        return states[-n:].copy()
    last = np.empty((n, states.shape[1]), F32)
    for start, count in spans(batch_sizes):
        last[:count] = states[n + start : n + start + count]
    return last
