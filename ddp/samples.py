"""How many samples a rank has seen, and what it counts in the mean.

Stage of the flow: `distributed` counts in forward, `reducer` weighs at the beginning of backward.
May import: `allgrad`. See Note [Shares] in `reduction`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from allgrad import Tensor
from allgrad.ddp.communicators.base import Array
from allgrad.nn.utils.rnn import PackedSequence

UNKNOWN = -1.0  # in a header


class SampleCount:
    """The samples that a rank has seen since its last synchronised backward.

    Attributes:
        given: counts instead of what forward has seen, if not None.
    """

    __slots__ = ("_in_eval", "_in_training", "given")

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Start anew."""
        self.given: float | None = None
        self._in_training: int | None = None
        self._in_eval: int | None = None

    def add(self, arguments: Any, dim: int, training: bool) -> None:
        """A forward with gradients has begun."""
        count = count_samples(arguments, dim)
        if count is None:
            return
        if training:
            self._in_training = count + (self._in_training or 0)
        else:
            self._in_eval = count + (self._in_eval or 0)

    @property
    def total(self) -> float:
        """Those in training mode; if there were none, those in eval mode; or `UNKNOWN`."""
        for count in (self.given, self._in_training, self._in_eval):
            if count is not None:
                return count
        return UNKNOWN


def count_samples(value: Any, dim: int = 0) -> int | None:
    """Samples in the arguments of one forward: the size of the first tensor in dimension `dim`.

    Args:
        value: a tensor, or tuples, lists and dicts of them, searched in order; of a
            `PackedSequence` the sequences are counted.
        dim: where samples lie; negative from the end.

    Returns:
        None if there is no tensor of enough dimensions.

    Example:
        >>> import allgrad as ag
        >>> count_samples(({"scale": 2.0, "image": ag.zeros(5, 3, 8, 8)}, ag.zeros(7)))
        5
    """
    if isinstance(value, Tensor):
        shape = value.shape
        return int(shape[dim]) if -len(shape) <= dim < len(shape) else None
    if isinstance(value, PackedSequence):
        return int(value.batch_sizes._array[0])
    if isinstance(value, dict):
        value = value.values()
    elif not isinstance(value, tuple | list):
        return None
    for item in value:
        count = count_samples(item, dim)
        if count is not None:
            return count
    return None


def shares_of(
    samples: Sequence[float], stepping: Sequence[int], weighted: bool, initial_size: bool | None
) -> list[float] | None:
    """What each rank counts in the mean over the ranks.

    Args:
        samples: per rank, since its last synchronised backward; 0: an empty batch; or `UNKNOWN`.
        stepping: the ranks that make this step; the others count nothing.
        weighted: by samples, if all that step know theirs, and any has some; otherwise all count
            the same.
        initial_size: None, or where some rank is absent, whether to divide by the number of all
            ranks (True) or of those that step (False), without regard to samples.

    Returns:
        A share per rank, or None if all ranks count the same.

    Example:
        >>> shares_of([5, 3], [0, 1], True, None)
        [0.625, 0.375]
        >>> shares_of([5, 0], [0], True, True)
        [0.5, 0.0]
    """
    size = len(samples)
    absent = len(stepping) < size
    counts = [0.0] * size
    mine = [samples[rank] for rank in stepping]
    by_samples = weighted and min(mine) >= 0 and max(mine) > 0
    if absent and initial_size is not None:
        by_samples = False
    for rank in stepping:
        counts[rank] = samples[rank] if by_samples else 1.0
    total = float(size) if absent and initial_size else sum(counts)
    shares = [count / total for count in counts]
    return None if len(set(shares)) == 1 and not absent else shares


def scale(array: Array, factor: float) -> None:
    """Multiply in place; half precision with the factor in single precision. 0 makes zeros of NaN.

    The mean over an empty batch is NaN, and so are its gradients.
    """
    if factor == 0:
        array.fill(0)
    elif array.dtype.itemsize == 2:
        np.multiply(array, np.float32(factor), out=array, casting="unsafe")
    else:
        np.multiply(array, array.dtype.type(factor), out=array)
