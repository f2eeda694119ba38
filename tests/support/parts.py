"""A model of three parts, of which ranks use those they are told; and its gradients."""

from __future__ import annotations

from typing import Any

import numpy as np

import allgrad as ag
from allgrad import nn


def x_of(rank: int, count: int = 4) -> Any:
    rng = np.random.default_rng(rank)
    return ag.tensor(rng.standard_normal((count, 6)).astype(np.float32))


def whole(size: int, count: int = 4) -> Any:
    return ag.cat([x_of(rank, count) for rank in range(size)])


def grads(model: Any) -> list[Any]:
    return [None if p.grad is None else p.grad._array.copy() for p in model.parameters()]


def assert_same(got: list[Any], expected: list[Any]) -> None:
    for a, b in zip(got, expected, strict=True):
        assert (a is None) == (b is None)
        if a is not None:
            np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


class Parts(nn.Module):
    """Three layers, of which forward uses those it is told."""

    def __init__(self) -> None:
        super().__init__()
        ag.manual_seed(0)
        self.a, self.b, self.c = (nn.Linear(6, 6) for _ in range(3))

    def forward(self, x: Any, parts: str = "abc") -> Any:
        for name in parts:
            x = getattr(self, name)(x)
        return x.square().mean()


def alone(parts: str, size: int, prepare: Any = None) -> list[Any]:
    model = Parts()
    if prepare is not None:
        prepare(model)
    model(whole(size), parts).backward()
    return grads(model)
