"""Specifications of test inputs: what kind of numbers, in which shape."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np


@dataclass(frozen=True)
class Spec:
    """One input of an op.

    Attributes:
        draw: (rng, shape) -> float64, integer or bool array.
        shape: its shape.
        batched: the first dimension may have any size, 0 included.
        constant: no gradient is wanted.
    """

    draw: Callable[[np.random.Generator, tuple[int, ...]], np.ndarray]
    shape: tuple[int, ...]
    batched: bool = True
    constant: bool = False

    def make(self, rng: np.random.Generator, batch: int | None = None) -> np.ndarray:
        shape = self.shape
        if batch is not None and self.batched and shape:
            shape = (batch, *shape[1:])
        return self.draw(rng, shape)

    def resized(self, shape: tuple[int, ...]) -> Spec:
        return replace(self, shape=shape)


def normal(*shape, **options) -> Spec:
    """Normal numbers, none closer to 0 than 0.05: relu and abs have a kink there."""

    def draw(rng, s):
        x = rng.standard_normal(s)
        return np.where(np.abs(x) < 0.05, np.copysign(0.05, x) + x, x)

    return Spec(draw, shape, **options)


def uniform(low, high, *shape, **options) -> Spec:
    return Spec(lambda rng, s: rng.uniform(low, high, s), shape, **options)


def positive(*shape, **options) -> Spec:
    return uniform(0.3, 3.0, *shape, **options)


def apart(*shape, **options) -> Spec:
    """Numbers that differ by at least 0.1, in random order: no ties, no kinks within a step."""

    def draw(rng, s):
        n = int(np.prod(s))
        return (rng.permutation(n).reshape(s) - n / 2 + 0.3) * 0.1

    return Spec(draw, shape, **options)


def integers(high, *shape, **options) -> Spec:
    return Spec(lambda rng, s: rng.integers(0, high, s), shape, **{"constant": True, **options})


def booleans(*shape, **options) -> Spec:
    return Spec(lambda rng, s: rng.random(s) < 0.5, shape, **{"constant": True, **options})


def fixed(params, *shape, **options) -> Spec:
    """The same shape for every batch size (a weight)."""
    return normal(params, *shape, batched=False, **options)
