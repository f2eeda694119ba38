"""Recurrent layers: one op per layer and direction, over all time steps."""

from __future__ import annotations

from typing import Any

import numpy as np

from .. import backend
from ..backend import Array, Dims
from ..backend.arrays import as_array, contiguous
from ..backend.protocol_recurrent import RecurrentWeights
from .base import Op
from .elementwise import Grads


class Recurrent(Op):
    """A recurrent layer in one direction: (y, last h), for an LSTM (y, last h, last c).

    Inputs: x, h0 (N, P) and c0 (N, H) or None for zeros, then the weights ih, hh and, or None,
    bias_ih, bias_hh, hr. See Note [Packed rows] in `backend/reference/rnn.py`.

    Args:
        cell: "lstm", "gru", "rnn_tanh" or "rnn_relu".
        reverse: go from the last step to the first.
        batch_sizes: of packed sequences, whose x is (rows, I); None for x (T, N, I).
    """

    fresh_grads = True

    def __init__(self, cell: str, reverse: bool = False, batch_sizes: Dims | None = None) -> None:
        self.cell, self.reverse, self.batch_sizes = cell, reverse, batch_sizes
        self.outputs = 3 if cell == "lstm" else 2

    def forward(self, x: Array, h0: Array | None, c0: Array | None, *weights: Any) -> Any:
        if self.batch_sizes is None:
            self.steps = (x.shape[1],) * x.shape[0]
        else:
            self.steps = self.batch_sizes
        parameters, n = RecurrentWeights(*weights), max(self.steps, default=0)
        if h0 is None:
            h0 = np.zeros((n, parameters.hh.shape[1]), x.dtype, like=x)
        if c0 is None and self.cell == "lstm":
            c0 = np.zeros((n, parameters.hh.shape[0] // 4), x.dtype, like=x)
        kernels = backend.of(x)
        y, h, c, kept = kernels.recurrent_forward(
            self.cell, self._rows(x), h0, c0, parameters, self.steps
        )
        y = self._shaped(y, x.shape)
        if any(self.needs):
            # x and y are guarded, as `kept` shares them; the states are for second derivatives.
            self.saved = (x, y, h0, c0, *weights, kept)
        return (y, h) if c is None else (y, h, c)

    def backward(self, grad: Any) -> Grads:
        x, _, _, _, *weights, kept = self.saved
        parameters = RecurrentWeights(*weights)
        grad_y, grad_h, *grad_c = grad
        shape = (
            *x.shape[:-1],
            (parameters.hh if parameters.hr is None else parameters.hr.T).shape[1],
        )
        rows = self._rows(np.zeros(shape, x.dtype, like=x) if grad_y is None else grad_y)
        found = backend.of(x).recurrent_backward(
            self.cell,
            rows,
            grad_h,
            grad_c[0] if grad_c else None,
            parameters,
            self.steps,
            kept,
            self.needs[0],
        )
        grad_x = None if found.x is None else self._shaped(found.x, x.shape)
        return (grad_x, *found[1:])

    def _rows(self, x: Array) -> Array:
        """x as a matrix in the order in which its rows are computed."""
        if self.batch_sizes is None:
            return contiguous(x[::-1] if self.reverse else x).reshape(-1, x.shape[-1])
        return x[mirrored(self.steps)] if self.reverse else contiguous(x)

    def _shaped(self, rows: Array, shape: Dims) -> Array:
        """The inverse of `_rows`; `shape` up to its last number."""
        if self.batch_sizes is None:
            y = rows.reshape(*shape[:-1], rows.shape[-1])
            return contiguous(y[::-1]) if self.reverse else y
        return rows[mirrored(self.steps)] if self.reverse else rows


def mirrored(batch_sizes: Dims) -> Array:
    """The row that takes each row's place when every sequence is reversed within its length."""
    sizes = as_array(batch_sizes)
    starts = np.cumsum(sizes) - sizes
    lengths = (sizes[:, None] > np.arange(sizes[0])).sum(axis=0)
    parts = [starts[lengths[:n] - 1 - t] + np.arange(n) for t, n in enumerate(batch_sizes)]
    return np.concatenate(parts)
