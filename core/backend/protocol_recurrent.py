"""Part of the backend protocol: kernels of recurrent layers, attention and their companions."""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

import numpy as np

Array = np.ndarray[Any, Any]
Dims = tuple[int, ...]


class RecurrentWeights(NamedTuple):
    """Parameters of one recurrent layer in one direction, gates stacked as PyTorch stacks them.

    Attributes:
        ih, hh: (G * H, I) and (G * H, P) with G gates: i, f, g, o (LSTM), r, z, n (GRU).
        bias_ih, bias_hh: (G * H) or None.
        hr: (P, H), the projection of an LSTM's output, or None; then P is H.
    """

    ih: Array
    hh: Array
    bias_ih: Array | None
    bias_hh: Array | None
    hr: Array | None = None


class RecurrentGrads(NamedTuple):
    """Gradients of `recurrent_forward`: of x, of the initial states, of the weights in order."""

    x: Array | None
    h0: Array
    c0: Array | None
    ih: Array
    hh: Array
    bias_ih: Array | None
    bias_hh: Array | None
    hr: Array | None


class RecurrentBackend(Protocol):
    """Kernels of recurrent layers."""

    def recurrent_forward(
        self,
        cell: str,
        x: Array,
        h0: Array,
        c0: Array | None,
        weights: RecurrentWeights,
        batch_sizes: Dims,
    ) -> tuple[Array, Array, Array | None, Any]:
        """One layer in one direction; see Note [Packed rows] in `reference/rnn.py`.

        Args:
            cell: "lstm", "gru", "rnn_tanh" or "rnn_relu".
            x: (rows, I), time step after time step.
            h0: (N, P); c0: (N, H) for an LSTM, else None.

        Returns:
            (y (rows, P), last h (N, P), last c, what `recurrent_backward` needs).
        """
        ...

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
        """Gradients of `recurrent_forward`; that of x only `with_x`."""
        ...


class AttentionBackend(Protocol):
    """Kernels of transformers; `...` are any leading axes, the same for all arrays."""

    def attention_forward(
        self,
        q: Array,
        k: Array,
        v: Array,
        bias: Array | None,
        scale: float,
        keep: Array | None,
        out: Array,
    ) -> tuple[Array, Array]:
        """softmax(scale * q @ k.T + bias) * keep @ v.

        Args:
            q, k, v: (..., L, E), (..., S, E), (..., S, V), in any layout.
            bias: broadcasts to (..., L, S); -inf where a query must not attend. A query that
                may attend to nothing gives zeros.
            keep: factors of dropout (..., L, S), C-contiguous, or None.
            out: (..., L, V) in any layout, which is filled.

        Returns:
            (out, the softmax (..., L, S) before dropout).
        """
        ...

    def attention_backward(
        self,
        grad: Array,
        q: Array,
        k: Array,
        v: Array,
        probabilities: Array,
        scale: float,
        keep: Array | None,
        out: tuple[Array, Array, Array],
    ) -> Array:
        """Fill `out` with the gradients of q, k and v; returns that of the bias (..., L, S)."""
        ...
