"""Connectionist temporal classification: the likelihood of a label sequence over all alignments.

Source: Graves et al. 2006, "Connectionist Temporal Classification", sections 4.1 and 4.2.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ..backend import Array
from ..backend.arrays import on
from .base import Op
from .elementwise import Grads


class CTC(Op):
    """Negative log-likelihood of each sample: log-probabilities (T, N, C) -> (N,).

    Its gradient is that of the logits behind the log-probabilities, as PyTorch has it: it is exact
    after a log-softmax.

    Args:
        targets: labels (N, S), padded with anything.
        input_lengths, target_lengths: steps and labels of each sample, (N,).
        blank: the class that stands for no label.
        zero_infinity: 0 instead of infinity where no alignment exists.
    """

    def __init__(
        self,
        targets: Array,
        input_lengths: Array,
        target_lengths: Array,
        blank: int,
        zero_infinity: bool,
    ) -> None:
        samples, longest = targets.shape
        states = np.full((samples, 2 * longest + 1), blank, np.int64)
        states[:, 1::2] = np.where(np.arange(longest) < target_lengths[:, None], targets, blank)
        self.states = states
        # A step may leave out the blank between two labels that differ.
        skip = np.zeros(states.shape, bool)
        skip[:, 2:] = (states[:, 2:] != blank) & (states[:, 2:] != states[:, :-2])
        self.skip = skip
        self.last_step, self.last_state = input_lengths - 1, 2 * target_lengths
        self.zero_infinity = zero_infinity

    def _move(self, log_p: Array) -> None:
        """Move what is known of the targets to where `log_p` lies."""
        self.states, self.skip = on(self.states, log_p), on(self.skip, log_p)
        self.last_step, self.last_state = on(self.last_step, log_p), on(self.last_state, log_p)

    def forward(self, log_p: Array) -> Array:
        self._move(log_p)
        emitted = np.take_along_axis(log_p, self._spread(log_p), axis=2)  # (T, N, 2S+1)
        alpha = np.full_like(log_p, -np.inf, log_p.dtype, shape=emitted.shape, order="C")
        if len(alpha):
            alpha[0, :, :2] = emitted[0, :, :2]
        for t in range(1, len(alpha)):
            alpha[t] = _step(alpha[t - 1], self.skip) + emitted[t]
        loss = -self._at_end(alpha)
        if self.needs[0]:
            self.saved = (log_p, emitted, alpha, loss)
        return np.where(np.isinf(loss), 0, loss) if self.zero_infinity else loss

    def _spread(self, log_p: Array) -> Array:
        return np.broadcast_to(self.states, (len(log_p), *self.states.shape))

    def _at_end(self, alpha: Array) -> Array:
        """log of the probability that each sample ends in its last label or the blank after it."""
        rows = np.arange(alpha.shape[1], like=alpha)
        if not len(alpha):
            return np.where(self.last_state == 0, 0, -np.inf).astype(alpha.dtype)
        final = alpha[self.last_step, rows]
        blank = final[rows, self.last_state]
        label = np.where(
            self.last_state > 0, final[rows, np.maximum(self.last_state - 1, 0)], -np.inf
        )
        ended = np.logaddexp(blank, label)
        empty = np.where(self.last_state == 0, 0, -np.inf)  # no steps at all
        return np.where(self.last_step < 0, empty, ended).astype(alpha.dtype)

    def backward(self, grad: Array) -> Grads:
        log_p, emitted, alpha, loss = self.saved
        posterior = np.exp(alpha + self._beta(emitted) - emitted + loss[:, None])
        # Where a state cannot be reached, inf - inf is no number but stands for nothing.
        impossible = np.isinf(emitted) & np.isfinite(loss)[:, None]
        posterior = np.where(impossible, 0, posterior)
        grad_x = np.exp(log_p)
        steps = np.arange(len(log_p), like=log_p)[:, None]
        rows = np.arange(log_p.shape[1], like=log_p)
        index: Any = (steps[..., None], rows[..., None], self._spread(log_p))
        np.add.at(grad_x, index, -posterior)  # which CuPy has for floats
        grad_x *= grad[:, None]
        grad_x[:, np.isinf(loss)] = 0 if self.zero_infinity else np.nan
        grad_x[np.broadcast_to(steps > self.last_step, grad_x.shape[:2])] = 0
        return (grad_x,)

    def _beta(self, emitted: Array) -> Array:
        """log-probability of the rest of the labels from each state on, that state included."""
        beta = np.full_like(emitted, -np.inf, emitted.dtype, shape=emitted.shape, order="C")
        here = np.full_like(emitted, -np.inf, emitted.dtype, shape=emitted.shape[1:], order="C")
        place = np.arange(emitted.shape[2], like=emitted)
        final = (place == self.last_state[:, None]) | (place == self.last_state[:, None] - 1)
        skip = self.skip[:, ::-1]
        leave = np.zeros_like(skip)  # the same rule, seen from the state that is left
        leave[:, 2:] = skip[:, :-2]
        for t in reversed(range(len(emitted))):
            here = _step(here[:, ::-1], leave)[:, ::-1]
            starts = (self.last_step == t)[:, None] & final
            here = np.where(starts, 0, here) + emitted[t]
            here = np.where((t <= self.last_step)[:, None], here, -np.inf)
            beta[t] = here
        return beta


def _step(before: Array, skip: Array) -> Array:
    """log of the sum over staying, moving on, and moving two on where `skip` allows it."""
    total = before.copy()
    total[:, 1:] = np.logaddexp(before[:, 1:], before[:, :-1])
    two = np.where(skip[:, 2:], before[:, :-2], -np.inf)
    total[:, 2:] = np.logaddexp(total[:, 2:], two)
    return total
