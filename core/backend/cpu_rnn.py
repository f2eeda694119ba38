"""Recurrent layers on the CPU: products by oneDNN, the arithmetic of the gates by NumPy.

What depends on no earlier step is done for all steps at once: the product with the input, and the
gradients of input and weights. What is left for each step is a product with the hidden state
and about ten functions of NumPy on memory that is in the first cache. The weights of that product
are packed once per sequence, and it adds to the input's share and takes the tanh in the same pass:
105 GFLOP/s for 20x256 @ 256x1024 on Cascade Lake, 68 without packing.

Note [Gates by tanh]
sigmoid(x) = tanh(x / 2) / 2 + 1/2. So the weights and biases of sigmoid gates are halved (exactly,
in binary) when they are prepared, one tanh serves all gates, and a multiplication and an addition
make sigmoids of some of them.

See Note [Packed rows] in `reference/rnn.py` for the layout of the input.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from ..errors import Unsupported
from .cpu_base import F32, fast, require_elements, require_float32
from .cpu_elementwise import CpuElementwise
from .cpu_linear import CpuLinear
from .onednn_plan import ARG_DST, ARG_SRC, ARG_WEIGHTS, QUERY_WEIGHTS, Plan, aligned_empty
from .protocol_recurrent import Array, Dims, RecurrentGrads, RecurrentWeights
from .reference.rnn import spans

_TANH = 0x21
_FEW_STEPS = 3  # up to here, preparing the weights costs more than it gains
_HALF, _ONE = np.float32(0.5), np.float32(1)


class _Kept(NamedTuple):
    """What the fast kernels keep of a forward pass; states begin with the initial one."""

    x: Array
    gates: Array
    states: Array  # (N + rows, P): h0, then the outputs
    cells: Array | None  # (N + rows, H): c0, then the cell states
    extra: Array | None  # LSTM: tanh(cell state); GRU: share of h in n, before the reset gate


class CpuRecurrent(CpuLinear, CpuElementwise):
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
        weights = RecurrentWeights(*[w if w is None else np.ascontiguousarray(w) for w in weights])
        if cell == "lstm" and c0 is not None:
            kept = self._lstm_forward(x, h0, c0, weights, batch_sizes)
        elif cell == "gru":
            kept = self._gru_forward(x, h0, weights, batch_sizes)
        else:
            kept = self._rnn_forward(cell, x, h0, weights, batch_sizes)
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
        weights = RecurrentWeights(*[w if w is None else np.ascontiguousarray(w) for w in weights])
        n, hidden = batch_sizes[0], weights.hh.shape[1]
        h, c = (
            np.zeros((n, hidden), F32) if grad is None else np.array(grad, order="C")
            for grad in (grad_h, grad_c)
        )
        grad_y = np.ascontiguousarray(grad_y)
        steps = list(_backwards(n, batch_sizes))
        if cell == "lstm":
            to_x = to_h = self._lstm_backward(grad_y, h, c, weights, steps, saved)
        elif cell == "gru":
            to_x, to_h = self._gru_backward(grad_y, h, weights, steps, saved)
        else:
            to_x = to_h = self._rnn_backward(cell, grad_y, h, weights, steps, saved)
        grad_hh = self.matmul(to_h.T, _before(saved.states, n, batch_sizes))
        if cell == "gru":  # the gates came in the order n, r, z
            grad_hh = np.concatenate([grad_hh[hidden:], grad_hh[:hidden]])
        bias_ih, bias_hh = self._bias_gradients(cell, to_x, to_h, weights)
        return RecurrentGrads(
            self.matmul(to_x, weights.ih) if with_x else None,
            h,
            c if cell == "lstm" else None,
            self.matmul(to_x.T, saved.x),
            grad_hh,
            bias_ih,
            bias_hh,
            None,
        )

    # -- LSTM --------------------------------------------------------------------------------
    def _lstm_forward(
        self, x: Array, h0: Array, c0: Array, weights: RecurrentWeights, batch_sizes: Dims
    ) -> _Kept:
        n, hidden = h0.shape
        halves = np.full(4 * hidden, _HALF, F32)
        halves[2 * hidden : 3 * hidden] = 1
        shift = _ONE - halves  # 1/2 for the sigmoids, 0 for the tanh
        bias = _joined(weights, halves)
        gates = self.linear_forward(x, weights.ih * halves[:, None], bias)
        step = _Step(self, (weights.hh * halves[:, None]).T, n, 4 * hidden, tanh=True)
        states, cells = _with_initial(h0, len(x)), _with_initial(c0, len(x))
        tanh_c, product = np.empty((len(x), hidden), F32), np.empty((n, hidden), F32)
        for start, count, before in _forwards(n, batch_sizes):
            z, end = gates[start : start + count], start + count
            step(states[before : before + count], z)
            z *= halves
            z += shift
            c, t = cells[n + start : n + end], tanh_c[start:end]
            np.multiply(z[:, hidden : 2 * hidden], cells[before : before + count], out=c)
            c += np.multiply(z[:, :hidden], z[:, 2 * hidden : 3 * hidden], out=product[:count])
            np.tanh(c, out=t)
            np.multiply(z[:, 3 * hidden :], t, out=states[n + start : n + end])
        return _Kept(x, gates, states, cells, tanh_c)

    def _lstm_backward(
        self,
        grad_y: Array,
        h: Array,
        c: Array,
        weights: RecurrentWeights,
        steps: list[tuple[int, int, int]],
        kept: _Kept,
    ) -> Array:
        """Gradients before the gates; leaves those of the initial states in `h` and `c`."""
        n, hidden = h.shape
        cells, tanh_c = kept.cells, kept.extra
        assert cells is not None
        assert tanh_c is not None
        slopes = np.empty((len(grad_y), 4, hidden), F32)  # becomes the gradient, in place
        step = _Step(self, weights.hh, n, hidden, source=4 * hidden, add=False)
        room = np.empty((n, hidden), F32)
        for start, count, before in steps:
            end = start + count
            gates, d = kept.gates[start:end].reshape(count, 4, hidden), slopes[start:end]
            i, g, o, t = gates[:, 0], gates[:, 2], gates[:, 3], tanh_c[start:end]
            grad_h, grad_c, r = h[:count], c[:count], room[:count]
            grad_h += grad_y[start:end]
            np.multiply(t, t, out=r)  # the way through tanh(c)
            np.subtract(_ONE, r, out=r)
            r *= o
            r *= grad_h
            grad_c += r
            np.multiply(gates, gates, out=d)
            np.subtract(gates[:, :2], d[:, :2], out=d[:, :2])
            np.subtract(_ONE, d[:, 2], out=d[:, 2])
            np.subtract(o, d[:, 3], out=d[:, 3])
            d[:, 0] *= g
            d[:, 1] *= cells[before : before + count]
            d[:, 2] *= i
            d[:, 3] *= t
            d[:, :3] *= grad_c[:, None]
            d[:, 3] *= grad_h
            grad_c *= gates[:, 1]
            step(d.reshape(count, -1), grad_h)
        return slopes.reshape(len(grad_y), -1)

    # -- GRU ---------------------------------------------------------------------------------
    def _gru_forward(
        self, x: Array, h0: Array, weights: RecurrentWeights, batch_sizes: Dims
    ) -> _Kept:
        n, hidden = h0.shape
        two = 2 * hidden
        halves = np.ones(3 * hidden, F32)
        halves[:two] = _HALF
        bias, from_h = _joined(weights, halves), np.zeros((len(x), hidden), F32)
        if weights.bias_hh is not None and bias is not None and weights.bias_ih is not None:
            bias[two:] = weights.bias_ih[two:]
            from_h += weights.bias_hh[two:]
        gates = self.linear_forward(x, weights.ih * halves[:, None], bias)
        sigmoids = _Step(self, (weights.hh[:two] * _HALF).T, n, 3 * hidden, tanh=True)
        share = _Step(self, weights.hh[two:].T, n, hidden)
        states, product = _with_initial(h0, len(x)), np.empty((n, hidden), F32)
        for start, count, before in _forwards(n, batch_sizes):
            z, end, h = gates[start : start + count], start + count, states[before : before + count]
            both, new, hn = z[:, :two], z[:, two:], from_h[start:end]
            sigmoids(h, both)
            share(h, hn)
            both *= _HALF
            both += _HALF
            new += np.multiply(z[:, :hidden], hn, out=product[:count])
            np.tanh(new, out=new)
            y = np.subtract(h, new, out=states[n + start : n + end])
            y *= z[:, hidden:two]
            y += new
        return _Kept(x, gates, states, None, from_h)

    def _gru_backward(
        self,
        grad_y: Array,
        h: Array,
        weights: RecurrentWeights,
        steps: list[tuple[int, int, int]],
        kept: _Kept,
    ) -> tuple[Array, Array]:
        """Gradients before the gates: (r, z, n) towards x, (n, r, z) towards h."""
        n, hidden = h.shape
        two, from_h = 2 * hidden, kept.extra
        assert from_h is not None
        joint = np.empty((len(grad_y), 4 * hidden), F32)  # n towards h, r, z, n towards x
        back = np.concatenate([weights.hh[two:], weights.hh[:two]])
        step = _Step(self, back, n, hidden, source=4 * hidden)
        room = np.empty((n, hidden), F32)
        for start, count, before in steps:
            end = start + count
            gates, d, grad_h, r = kept.gates[start:end], joint[start:end], h[:count], room[:count]
            sigmoids, z, new = gates[:, :two], gates[:, hidden:two], gates[:, two:]
            grad_h += grad_y[start:end]
            to_new = np.multiply(new, new, out=d[:, 3 * hidden :])
            np.subtract(_ONE, to_new, out=to_new)
            to_new *= np.subtract(_ONE, z, out=r)
            to_new *= grad_h
            slope = np.multiply(sigmoids, sigmoids, out=d[:, hidden : 3 * hidden])
            np.subtract(sigmoids, slope, out=slope)
            slope[:, :hidden] *= from_h[start:end]
            slope[:, :hidden] *= to_new
            slope[:, hidden:] *= np.subtract(kept.states[before : before + count], new, out=r)
            slope[:, hidden:] *= grad_h
            np.multiply(to_new, gates[:, :hidden], out=d[:, :hidden])
            grad_h *= z
            step(d[:, : 3 * hidden], grad_h)
        return joint[:, hidden:], joint[:, : 3 * hidden]

    # -- plain -------------------------------------------------------------------------------
    def _rnn_forward(
        self, cell: str, x: Array, h0: Array, weights: RecurrentWeights, batch_sizes: Dims
    ) -> _Kept:
        n, hidden = h0.shape
        states = _with_initial(h0, len(x))
        bias = _joined(weights, np.ones(hidden, F32))
        states[n:] = self.linear_forward(x, weights.ih, bias)
        step = _Step(self, weights.hh.T, n, hidden, tanh=cell == "rnn_tanh")
        for start, count, before in _forwards(n, batch_sizes):
            z = states[n + start : n + start + count]
            step(states[before : before + count], z)
            if cell == "rnn_relu":  # not oneDNN's ReLU, which turns NaN into 0
                np.maximum(z, 0, out=z)
        return _Kept(x, states[n:], states, None, None)

    def _rnn_backward(
        self,
        cell: str,
        grad_y: Array,
        h: Array,
        weights: RecurrentWeights,
        steps: list[tuple[int, int, int]],
        kept: _Kept,
    ) -> Array:
        y = kept.gates
        slopes = y > 0 if cell == "rnn_relu" else _ONE - y * y
        to_gates = np.empty(y.shape, F32)
        step = _Step(self, weights.hh, len(h), h.shape[1], source=h.shape[1], add=False)
        for start, count, _ in steps:
            grad_h = h[:count]
            grad_h += grad_y[start : start + count]
            d = to_gates[start : start + count]
            np.multiply(grad_h, slopes[start : start + count], out=d)
            step(d, grad_h)
        return to_gates

    def _bias_gradients(
        self, cell: str, to_x: Array, to_h: Array, weights: RecurrentWeights
    ) -> tuple[Array | None, Array | None]:
        if weights.bias_ih is None:
            return None, None
        ih = self.sum_to_channels(np.ascontiguousarray(to_x))
        if cell != "gru":
            return ih, ih.copy()
        hidden = weights.hh.shape[1]
        hh = ih.copy()
        hh[2 * hidden :] = self.sum_to_channels(np.ascontiguousarray(to_h[:, :hidden]))
        return ih, hh


class _Step:
    """z += h @ w, or z = h @ w, with the weights packed; z = tanh(z) in the same pass if wanted.

    Args:
        w: (K, N).
        rows: of h and z, in most calls.
        target, source: elements from one row of z, of h, to the next.
    """

    def __init__(
        self,
        kernels: CpuRecurrent,
        w: Array,
        rows: int,
        target: int,
        *,
        source: int | None = None,
        tanh: bool = False,
        add: bool = True,
    ) -> None:
        self.w, self.rows, self.tanh, self.add = w, rows, tanh, add
        source = w.shape[0] if source is None else source
        key = ("recurrent_step", rows, w.shape, w.strides, target, source, tanh, add)
        plan = kernels.plans.get(key)
        if plan is None:
            plan = kernels.plans.add(key, self._build(kernels.new_plan(), target, source))
        self.plan: Plan = plan
        packing, nbytes = plan.meta
        self.packed = aligned_empty(nbytes)
        packing.run(w, self.packed)

    def _build(self, plan: Plan, target: int, source: int) -> Plan:
        inputs, outputs = self.w.shape
        z = plan.strided((self.rows, outputs), (target, 1))
        h = plan.strided((self.rows, inputs), (source, 1))
        post_ops: list[tuple[Any, ...]] = [("sum", 1.0)] if self.add else []
        if self.tanh:
            post_ops.append(("eltwise", _TANH))
        kind = plan.describe(
            "matmul", h, plan.any((inputs, outputs)), None, z, plan.attributes(*post_ops)
        )
        packed = plan.query(kind, QUERY_WEIGHTS)
        arguments = {ARG_SRC: plan.external(h), ARG_WEIGHTS: plan.external(packed)}
        plan.call(kind, {**arguments, ARG_DST: plan.external(z)})
        packing = Plan(plan.engine, plan.scratch)
        steps = [s // self.w.itemsize for s in self.w.strides]
        given = packing.strided(self.w.shape, steps)
        packing.reorder(given, packing.external(given), packed, packing.external(packed))
        plan.meta = packing.seal(), plan.nbytes(packed)
        return plan

    def __call__(self, h: Array, z: Array) -> None:
        if len(h) == self.rows:
            self.plan.run(h, self.packed, z)
            return
        if self.add:
            z += h @ self.w
        else:
            np.matmul(h, self.w, out=z)
        if self.tanh:
            np.tanh(z, out=z)


def _with_initial(first: Array, rows: int) -> Array:
    """Memory for `rows` states behind the initial ones."""
    states = np.empty((len(first) + rows, first.shape[1]), F32)
    states[: len(first)] = first
    return states


def _joined(weights: RecurrentWeights, scale: Array) -> Array | None:
    """The sum of both biases, scaled."""
    if weights.bias_ih is None or weights.bias_hh is None:
        return None
    total: Array = (weights.bias_ih + weights.bias_hh) * scale
    return total


def _forwards(n: int, batch_sizes: Dims) -> Iterator[tuple[int, int, int]]:
    """(first row, rows, first row of the states before, among those with the initial ones)."""
    before = 0
    for start, count in spans(batch_sizes):
        yield start, count, before
        before = n + start


def _backwards(n: int, batch_sizes: Dims) -> Iterator[tuple[int, int, int]]:
    return reversed(list(_forwards(n, batch_sizes)))


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
