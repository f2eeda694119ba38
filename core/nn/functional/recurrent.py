"""Stacks of recurrent layers, on tensors. The layers themselves are one op each: `ops/rnn.py`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ...autograd.mode import mode
from ...dtypes import is_half
from ...ops.rnn import Recurrent
from ...tensors import Tensor
from ...tensors.autocasting import lowers, widens
from ...tensors.graph import apply
from ...tensors.joining import cat, stack
from .dropout import dropout as drop

Weights = Sequence[Tensor | None]  # ih, hh, bias_ih, bias_hh, hr


def _policy(input: Tensor, fused: bool) -> Any:
    """What autocast does: PyTorch's fused GRU and cells give float32 for float32 input."""
    return widens if fused and not is_half(input._array.dtype) else lowers


def recurrent(
    cell: str,
    input: Tensor,
    initial: tuple[Tensor, ...] | None,
    layers: Sequence[Sequence[Weights]],
    dropout: float = 0.0,
    training: bool = False,
    batch_sizes: tuple[int, ...] | None = None,
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Run recurrent layers one after the other.

    Args:
        cell: "lstm", "gru", "rnn_tanh" or "rnn_relu".
        input: (T, N, I), or packed (rows, I) with `batch_sizes`.
        initial: states (layers * directions, N, P), for an LSTM also the cells; None for zeros.
        layers: the weights of each layer, per direction (the second goes backwards).
        dropout: probability of zeroing elements between layers, in training.

    Returns:
        The output (T, N, directions * P), and the last states stacked like the initial ones.
    """
    if mode.autocast is not None:
        policy = _policy(input, fused="gru" in cell)
        return policy(recurrent)(cell, input, initial, layers, dropout, training, batch_sizes)
    finals: list[tuple[Tensor, ...]] = []
    for depth, directions in enumerate(layers):
        if depth and dropout and training:
            input = drop(input, dropout, True)
        outputs = []
        for direction, weights in enumerate(directions):
            place = len(finals)
            state: list[Any] = [None, None]
            for i, tensor in enumerate(initial or ()):
                state[i] = tensor[place]
            op = Recurrent(cell, reverse=direction == 1, batch_sizes=batch_sizes)
            y, *last = apply(op, input, *state, *weights)
            outputs.append(y)
            finals.append(tuple(last))
        input = outputs[0] if len(outputs) == 1 else cat(outputs, -1)
    return input, tuple(stack(states) for states in zip(*finals, strict=True))


def recurrent_step(
    cell: str, input: Tensor, state: tuple[Tensor, ...] | None, weights: Weights
) -> tuple[Tensor, ...]:
    """One step of a cell: input (N, I), state h (and, for an LSTM, c) (N, H) -> the new state."""
    if mode.autocast is not None:
        policy = _policy(input, fused=cell in ("lstm", "gru"))
        return policy(recurrent_step)(cell, input, state, weights)
    before: list[Any] = [None, None]
    for i, tensor in enumerate(state or ()):
        before[i] = tensor
    _, *after = apply(Recurrent(cell), input.unsqueeze(0), *before, *weights)
    return tuple(after)
