"""A line search for the strong Wolfe conditions: bracket a good step, then narrow the bracket."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

_ENOUGH_DECREASE = 1e-4
_ENOUGH_FLATTER = 0.9
_MOST_TRIALS = 25


class Point(NamedTuple):
    """A step length on the line: loss, gradient, and the slope along the line."""

    t: float
    loss: float
    grad: np.ndarray
    slope: float


def strong_wolfe(
    evaluate: Callable[[float], Point], start: Point, t: float, longest: float, tolerance: float
) -> tuple[Point, int]:
    """A point that falls enough and is flat enough, or the best one found.

    Args:
        evaluate: the point at a step length.
        start: the point at 0; its slope is negative.
        t: first step length to try.
        longest: largest element of the direction, for the tolerance.
        tolerance: a bracket whose ends differ by less, in any element, is narrow enough.

    Returns:
        The point, and how many were evaluated.

    Source: Nocedal and Wright 2006, "Numerical optimization", algorithms 3.5 and 3.6, with cubic
    interpolation (equation 3.59) as in Schmidt's minFunc and PyTorch.
    """
    bracket, trials, done = _bracket(evaluate, start, t)
    if done:
        return bracket[0], trials + 1
    return _narrow(evaluate, start, bracket, trials, longest, tolerance)


def _bracket(
    evaluate: Callable[[float], Point], start: Point, t: float
) -> tuple[list[Point], int, bool]:
    """Two points with a good one between them, or a good one alone; and the trials made."""
    before, here = start, evaluate(t)
    for trials in range(_MOST_TRIALS):
        if _too_high(here, start) or (trials > 1 and here.loss >= before.loss):
            return [before, here], trials, False
        if abs(here.slope) <= -_ENOUGH_FLATTER * start.slope:
            return [here], trials, True
        if here.slope >= 0:
            return [before, here], trials, False
        bounds = here.t + 0.01 * (here.t - before.t), here.t * 10
        before, here = here, evaluate(_cubic_minimum(before, here, bounds))
    return [start, here], _MOST_TRIALS, False


def _narrow(
    evaluate: Callable[[float], Point],
    start: Point,
    bracket: list[Point],
    trials: int,
    longest: float,
    tolerance: float,
) -> tuple[Point, int]:
    evaluations = trials + 1
    low, high = _sorted(*bracket)
    stuck = False
    while trials < _MOST_TRIALS and abs(high.t - low.t) * longest >= tolerance:
        t, stuck = _inner(low, high, stuck)
        here = evaluate(t)
        evaluations += 1
        trials += 1
        if _too_high(here, start) or here.loss >= low.loss:
            low, high = _sorted(low, here)
            continue
        if abs(here.slope) <= -_ENOUGH_FLATTER * start.slope:
            return here, evaluations
        if here.slope * (high.t - low.t) >= 0:
            high = low
        low = here
    return low, evaluations


def _inner(low: Point, high: Point, stuck: bool) -> tuple[float, bool]:
    """A step length inside the bracket that is not, twice in a row, close to one of its ends."""
    t = _cubic_minimum(low, high)
    least, most = sorted((low.t, high.t))
    margin = 0.1 * (most - least)
    if min(most - t, t - least) >= margin:
        return t, False
    if not (stuck or t >= most or t <= least):
        return t, True
    return (most - margin if abs(t - most) < abs(t - least) else least + margin), False


def _too_high(here: Point, start: Point) -> bool:
    return here.loss > start.loss + _ENOUGH_DECREASE * here.t * start.slope


def _sorted(a: Point, b: Point) -> tuple[Point, Point]:
    return (a, b) if a.loss <= b.loss else (b, a)


def _cubic_minimum(a: Point, b: Point, bounds: tuple[float, float] | None = None) -> float:
    """Where the cubic through both losses and slopes is lowest, limited to `bounds`."""
    if a.t > b.t:
        a, b = b, a
    least, most = bounds or (a.t, b.t)
    with np.errstate(all="ignore"):
        d1 = a.slope + b.slope - 3 * (a.loss - b.loss) / (a.t - b.t)
        square = d1 * d1 - a.slope * b.slope
        if not square >= 0:
            return (least + most) / 2
        d2 = math.sqrt(square)
        t = b.t - (b.t - a.t) * ((b.slope + d2 - d1) / (b.slope - a.slope + 2 * d2))
    return min(max(t, least), most)
