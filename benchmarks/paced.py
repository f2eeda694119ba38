"""A network whose ops take given times without a core: they sleep.

Hosts that are emulated on one machine share its cores, so ranks that compute would slow each other
down, which ranks on machines of their own do not. Ranks of this network leave the cores to the
communication, whose time is what is asked for. Sleep that came out too long is taken off the next
one, so the sum of times is right however late a busy machine wakes the rank.
"""

from __future__ import annotations

import threading
import time
from typing import Any

import allgrad as ag
from allgrad import nn
from allgrad.autograd import Function


class _Debt(threading.local):
    """Seconds that this thread has slept too long."""

    seconds = 0.0


_debt = _Debt()
_MOST_DEBT_S = 5e-3  # a rank that was held up for longer has lost that time


def spend(seconds: float) -> None:
    """Let so much time pass, less what has passed too much before."""
    begin = time.perf_counter()
    left = seconds - _debt.seconds
    if left > 0:
        time.sleep(left)
    _debt.seconds = min(_MOST_DEBT_S, _debt.seconds + time.perf_counter() - begin - seconds)


class _Paced(Function):
    @staticmethod
    def forward(ctx: Any, x: Any, weight: Any, forward_s: float, backward_s: float) -> Any:
        ctx.backward_s = backward_s
        ctx.like = weight
        spend(forward_s)
        return x * 1.0

    @staticmethod
    def backward(ctx: Any, grad: Any) -> Any:
        spend(ctx.backward_s)
        like = ctx.like
        of_weight = None if like is None else ag.full_like(like, float(grad.sum()))
        return grad, of_weight, None, None


class PacedLayer(nn.Module):
    """So many parameters, or none; their gradient is ready when backward has taken its time."""

    def __init__(self, parameters: int, forward_s: float, backward_s: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(ag.zeros(parameters)) if parameters else None
        self._forward_s, self._backward_s = forward_s, backward_s

    def forward(self, x: Any) -> Any:
        """`x` itself."""
        return _Paced.apply(x, self.weight, self._forward_s, self._backward_s)


def paced_network(
    megabytes: float, forward_s: float, backward_s: float, layers: int = 20
) -> nn.Sequential:
    """A network of that many MB of parameters and those times.

    As in a ResNet, layers take equal times, later ones have more parameters, and other ops lie
    between them.
    """
    sizes = [1.2**i for i in range(layers)]
    elements = [int(size / sum(sizes) * megabytes * 1e6 / 4) for size in sizes]
    forward, backward = forward_s / layers / 2, backward_s / layers / 2
    return nn.Sequential(
        *(
            module
            for count in elements
            for module in (PacedLayer(count, forward, backward), PacedLayer(0, forward, backward))
        )
    )
