"""Memory layouts of activations: logical (N, C, *spatial), channels-last in memory.

Stage: arithmetic on shapes and strides for the backends; imports NumPy only.
"""

from __future__ import annotations

import numpy as np

Ints = tuple[int, ...]


def channels_last_strides(shape: Ints, itemsize: int = 1) -> Ints:
    """Strides of a dense channels-last array of logical `shape` (N, C, *spatial).

    Returns:
        Strides in units of `itemsize` bytes (default: in elements).

    >>> channels_last_strides((2, 3, 4, 5))
    (60, 1, 15, 3)
    """
    strides = [0] * len(shape)
    step = itemsize
    for axis in (1, *range(len(shape) - 1, 1, -1), 0):
        strides[axis] = step
        step *= max(shape[axis], 1)
    return tuple(strides)


def same_memory_order(shape: Ints, strides: Ints, other: Ints) -> bool:
    """Whether two strides address the same memory; strides of axes of size 1 do not matter."""
    return all(n == 1 or a == b for n, a, b in zip(shape, strides, other, strict=True))


def is_channels_last(array: np.ndarray) -> bool:
    """Whether `array` (N, C, *spatial) lies densely channels-last in memory."""
    wanted = channels_last_strides(array.shape, array.itemsize)
    return same_memory_order(array.shape, array.strides, wanted)


def empty_channels_last(shape: Ints, dtype: np.dtype) -> np.ndarray:
    """An uninitialised channels-last array of logical `shape` (N, C, *spatial)."""
    return np.ndarray(shape, dtype, None, 0, channels_last_strides(shape, dtype.itemsize))


def copy_channels_last(array: np.ndarray) -> np.ndarray:
    """A dense channels-last copy of `array` (N, C, *spatial)."""
    copy = empty_channels_last(array.shape, array.dtype)
    copy[...] = array
    return copy


def memory_order(shape: Ints, strides: Ints, itemsize: int) -> Ints | None:
    """Axes from the slowest to the fastest in the memory of a dense array; those of size 1 first.

    Returns:
        None for an array with gaps, overlaps or reversed axes.

    >>> memory_order((2, 3, 4), (12, 1, 3), 1)
    (0, 2, 1)
    """
    ones = tuple(axis for axis, n in enumerate(shape) if n == 1)
    rest = sorted((a for a, n in enumerate(shape) if n != 1), key=lambda a: -strides[a])
    step = itemsize
    for axis in reversed(rest):
        if strides[axis] != step:
            return None
        step *= shape[axis]
    return (*ones, *rest)


def is_plain(shape: Ints, strides: Ints, itemsize: int) -> bool:
    """Whether every element has its own address at a positive multiple of `itemsize`.

    Broadcast (zero stride), reversed (negative) and overlapping views are not plain.
    """
    reach = itemsize
    for step, n in sorted((s, n) for s, n in zip(strides, shape, strict=True) if n > 1):
        if step < reach or step % itemsize:
            return False
        reach = step * n
    return True


def element_strides(shape: Ints, strides: Ints, itemsize: int) -> Ints:
    """Strides in elements, where axes of size 1 get a stride that cannot confuse a library."""
    largest = max((s * n for s, n in zip(strides, shape, strict=True) if n > 1), default=itemsize)
    return tuple((s if n > 1 else largest) // itemsize for s, n in zip(strides, shape, strict=True))
