"""Recurrent layers step by step in plain array code: the oracle and the fallback.

Note [Packed rows]
A batch of sequences comes as one matrix, time step after time step: the rows of step t are the
`batch_sizes[t]` sequences that are at least t + 1 long, the longest first. So sequences of equal
length are simply (T * N, I), and a shorter sequence just stops appearing. The state has a row for
every sequence; the first `batch_sizes[t]` of them take part in step t, the others keep what they
have, which is what they end with.

Sources: Hochreiter & Schmidhuber 1997 (LSTM), Sak et al. 2014 (its projection), Cho et al. 2014
(GRU, in the variant whose reset gate acts after the product, as in the PyTorch manual).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from ..protocol_recurrent import Array, Dims, RecurrentGrads, RecurrentWeights

GATES = {"lstm": 4, "gru": 3, "rnn_tanh": 1, "rnn_relu": 1}


class Steps(NamedTuple):
    """What the reference keeps of a forward pass: one row per row of the input."""

    inputs: Array
    parts: Any  # per cell, see the step functions
    h_before: Array
    c_before: Array | None
    unprojected: Array | None


def spans(batch_sizes: Dims) -> Iterator[tuple[int, int]]:
    """(first row, number of rows) of every step."""
    start = 0
    for count in batch_sizes:
        yield start, count
        start += count


class RecurrentKernels:
    """Kernels `recurrent_*` of the backend protocol on the array module `xp`."""

    xp: Any

    def recurrent_forward(
        self,
        cell: str,
        x: Array,
        h0: Array,
        c0: Array | None,
        weights: RecurrentWeights,
        batch_sizes: Dims,
    ) -> tuple[Array, Array, Array | None, Any]:
        xp, (w_ih, w_hh, b_ih, b_hh, w_hr) = self.xp, weights
        rows, hidden = x.shape[0], w_hh.shape[0] // GATES[cell]
        from_x = xp.matmul(x, w_ih.T)
        if b_ih is not None:
            from_x += b_ih
        h, c = h0.copy(), None if c0 is None else c0.copy()
        y = xp.empty((rows, h0.shape[1]), x.dtype)
        h_before = xp.empty((rows, h0.shape[1]), x.dtype)
        c_before = None if c0 is None else xp.empty((rows, hidden), x.dtype)
        unprojected = None if w_hr is None else xp.empty((rows, hidden), x.dtype)
        parts = xp.empty((GATES[cell] + 1, rows, hidden), x.dtype)
        for start, count in spans(batch_sizes):
            at = slice(start, start + count)
            h_before[at] = h[:count]
            from_h = xp.matmul(h[:count], w_hh.T)
            if b_hh is not None:
                from_h += b_hh
            if c is not None and c_before is not None:
                c_before[at] = c[:count]
                out, c[:count] = _lstm_step(xp, from_x[at] + from_h, c[:count], parts[:, at])
            elif cell == "gru":
                out = _gru_step(xp, from_x[at], from_h, h[:count], parts[:, at])
            else:
                out = _rnn_step(xp, cell, from_x[at] + from_h, parts[:, at])
            if w_hr is not None and unprojected is not None:
                unprojected[at] = out
                out = xp.matmul(out, w_hr.T)
            h[:count] = y[at] = out
        return y, h, c, Steps(x, parts, h_before, c_before, unprojected)

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
        xp, (w_ih, w_hh, b_ih, b_hh, w_hr) = self.xp, weights
        steps: Steps = saved
        rows, hidden = steps.inputs.shape[0], w_hh.shape[0] // GATES[cell]
        n, size = max(batch_sizes, default=0), steps.h_before.shape[1]
        h = xp.zeros((n, size), grad_y.dtype) if grad_h is None else grad_h.copy()
        c = xp.zeros((n, hidden), grad_y.dtype) if grad_c is None else grad_c.copy()
        to_x = xp.empty((rows, w_ih.shape[0]), grad_y.dtype)
        to_h = to_x if cell != "gru" else xp.empty_like(to_x)
        out = xp.empty((rows, size), grad_y.dtype)  # gradient of the output, all paths together
        for start, count in reversed(list(spans(batch_sizes))):
            at = slice(start, start + count)
            grad = out[at] = h[:count] + grad_y[at]
            if w_hr is not None:
                grad = xp.matmul(grad, w_hr)
            direct: Any = 0
            if steps.c_before is not None:
                c[:count] = _lstm_step_back(
                    xp, grad, c[:count], steps.parts[:, at], steps.c_before[at], to_x[at]
                )
            elif cell == "gru":
                before = steps.h_before[at]
                direct = _gru_step_back(xp, grad, steps.parts[:, at], before, to_x[at], to_h[at])
            else:
                to_x[at] = _rnn_step_back(cell, grad, steps.parts[:, at])
            h[:count] = xp.matmul(to_h[at], w_hh) + direct
        grad_w_hr = None if w_hr is None else xp.matmul(out.T, steps.unprojected)
        return RecurrentGrads(
            xp.matmul(to_x, w_ih) if with_x else None,
            h,
            c if steps.c_before is not None else None,
            xp.matmul(to_x.T, steps.inputs),
            xp.matmul(to_h.T, steps.h_before),
            None if b_ih is None else to_x.sum(axis=0),
            None if b_hh is None else to_h.sum(axis=0),
            grad_w_hr,
        )


def _sigmoid(xp: Any, x: Array) -> Array:
    """1 / (1 + e**-x) by tanh, which cannot overflow."""
    y: Array = xp.tanh(0.5 * x) * 0.5 + 0.5
    return y


def _lstm_step(xp: Any, z: Array, c: Array, parts: Array) -> tuple[Array, Array]:
    """(h, c) after one step; `parts` keeps the gates i, f, g, o and tanh(c)."""
    i, f, g, o = xp.split(z, 4, axis=1)
    i, f, g, o = _sigmoid(xp, i), _sigmoid(xp, f), xp.tanh(g), _sigmoid(xp, o)
    c = f * c + i * g
    parts[0], parts[1], parts[2], parts[3], parts[4] = i, f, g, o, xp.tanh(c)
    return o * parts[4], c


def _lstm_step_back(
    xp: Any, grad_h: Array, grad_c: Array, parts: Array, c_before: Array, to_gates: Array
) -> Array:
    """Gradient of the cell state before the step; fills `to_gates`, those before the gates."""
    i, f, g, o, t = parts
    grad_c = grad_c + grad_h * o * (1 - t * t)
    xp.concatenate(
        [
            grad_c * g * i * (1 - i),
            grad_c * c_before * f * (1 - f),
            grad_c * i * (1 - g * g),
            grad_h * t * o * (1 - o),
        ],
        axis=1,
        out=to_gates,
    )
    return grad_c * f


def _gru_step(xp: Any, from_x: Array, from_h: Array, h: Array, parts: Array) -> Array:
    """h after one step; `parts` keeps the gates r, z, n and the part of h in n."""
    (xr, xz, xn), (hr, hz, hn) = xp.split(from_x, 3, axis=1), xp.split(from_h, 3, axis=1)
    r, z = _sigmoid(xp, xr + hr), _sigmoid(xp, xz + hz)
    n = xp.tanh(xn + r * hn)
    parts[0], parts[1], parts[2], parts[3] = r, z, n, hn
    return n + z * (h - n)


def _gru_step_back(
    xp: Any, grad: Array, parts: Array, h_before: Array, to_x: Array, to_h: Array
) -> Array:
    """Gradient of h before the step past the gates; fills those before the gates."""
    r, z, n, hn = parts
    to_n = grad * (1 - z) * (1 - n * n)
    to_r = to_n * hn * r * (1 - r)
    to_z = grad * (h_before - n) * z * (1 - z)
    xp.concatenate([to_r, to_z, to_n], axis=1, out=to_x)
    xp.concatenate([to_r, to_z, to_n * r], axis=1, out=to_h)
    return grad * z


def _rnn_step(xp: Any, cell: str, z: Array, parts: Array) -> Array:
    """h after one step; `parts` keeps it."""
    parts[0] = xp.tanh(z) if cell == "rnn_tanh" else xp.maximum(z, 0)
    return parts[0]


def _rnn_step_back(cell: str, grad: Array, parts: Array) -> Array:
    y = parts[0]
    return grad * (1 - y * y) if cell == "rnn_tanh" else grad * (y > 0)
