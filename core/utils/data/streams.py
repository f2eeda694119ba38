"""Random numbers of one sample: a pure function of (seed, epoch, sample index, draw number).

Stage: below the loader. A transform asks `current()` for its numbers. Inside a `DataLoader` they
come from a counter-based hash, so the augmentation of a sample does not depend on the batch size,
the number of workers, the number of ranks, or on what was drawn elsewhere; that makes resuming
exact and lets a whole batch be drawn at once. Outside a loader they come from the default
generator, as a user of `allgrad.manual_seed` expects. Imports NumPy and `allgrad.random`.

Note [Sample streams]
    key(sample) = mix(epoch seed, sample index); draw k of it = splitmix64(key + (k + 1) * golden).
    `SampleDraws` (one sample, Python integers) and `BatchDraws` (many samples, NumPy) compute the
    same bits. A transform draws the same count of numbers whatever the data and whatever it
    decides, so both stay in step through a whole pipeline.

Source: Steele, Lea, Flood 2014, "Fast splittable pseudorandom number generators", section 4.
"""

from __future__ import annotations

import contextlib
import random as python_random
import threading
from collections.abc import Iterator
from typing import Any, Protocol

import numpy as np

from ... import random as allgrad_random
from ...moments import moment

_MASK = (1 << 64) - 1
_GOLDEN = 0x9E3779B97F4A7C15
_C1, _C2 = 0xBF58476D1CE4E5B9, 0x94D049BB133111EB
_TO_UNIT = 2.0**-53


def mix(*parts: int) -> int:
    """A 64-bit hash of integers of any size; the order counts.

    >>> mix(1, 2) == mix(1, 2), mix(1, 2) == mix(2, 1)
    (True, False)
    """
    state = 0
    for part in parts:
        state = _finish((state + _GOLDEN + (part & _MASK)) & _MASK)
        if not -(1 << 63) <= part <= _MASK:
            state = mix(state, part >> 64)
    return state


def _finish(z: int) -> int:
    z = ((z ^ (z >> 30)) * _C1) & _MASK
    z = ((z ^ (z >> 27)) * _C2) & _MASK
    return z ^ (z >> 31)


def _finish_array(z: np.ndarray) -> np.ndarray:
    z ^= z >> np.uint64(30)
    z *= np.uint64(_C1)
    z ^= z >> np.uint64(27)
    z *= np.uint64(_C2)
    z ^= z >> np.uint64(31)
    return z


def sample_keys(epoch_seed: int, indices: np.ndarray) -> np.ndarray:
    """The stream keys (uint64) of the samples at `indices` (int64) in the epoch of that seed."""
    z = indices.astype(np.uint64)
    z *= np.uint64(_GOLDEN)
    z += np.uint64(epoch_seed & _MASK)
    return _finish_array(z)


class Draws(Protocol):
    """Where a transform's random numbers come from."""

    def uniform(self) -> float:
        """One number in [0, 1)."""
        ...

    def integer(self, low: int, high: int) -> int:
        """One integer in [low, high)."""
        ...


class SampleDraws:
    """The stream of one sample."""

    __slots__ = ("_state",)

    def __init__(self, key: int) -> None:
        self._state = key

    def restart(self, key: int) -> None:
        """Become the stream of another sample."""
        self._state = key

    def state(self) -> int:
        """Where the stream stands; a key for `restart`."""
        return self._state

    def _next(self) -> int:
        z = self._state = (self._state + _GOLDEN) & _MASK
        z = ((z ^ (z >> 30)) * _C1) & _MASK
        z = ((z ^ (z >> 27)) * _C2) & _MASK
        return z ^ (z >> 31)

    def uniform(self) -> float:
        return (self._next() >> 11) * _TO_UNIT

    def integer(self, low: int, high: int) -> int:
        return low + (((self._next() >> 32) * (high - low)) >> 32)


class BatchDraws:
    """The streams of many samples, advanced together; the same bits as `SampleDraws`.

    Args:
        keys: uint64 array (N,), one key per sample.
    """

    __slots__ = ("_state",)

    def __init__(self, keys: np.ndarray) -> None:
        self._state = keys.copy()

    def __len__(self) -> int:
        return len(self._state)

    def _next(self) -> np.ndarray:
        self._state += np.uint64(_GOLDEN)
        return _finish_array(self._state.copy())

    def uniform(self) -> np.ndarray:
        """One number in [0, 1) per sample: float64 (N,)."""
        return (self._next() >> np.uint64(11)) * _TO_UNIT

    def integer(self, low: int, high: int) -> np.ndarray:
        """One integer in [low, high) per sample: int64 (N,)."""
        scaled = ((self._next() >> np.uint64(32)) * np.uint64(high - low)) >> np.uint64(32)
        return scaled.astype(np.int64) + low

    def state(self) -> list[int]:
        """Where the streams stand, one key per sample."""
        states: list[int] = self._state.tolist()
        return states

    def set_state(self, states: list[int]) -> None:
        """Take the streams up at those keys."""
        self._state = np.array(states, dtype=np.uint64)

    def take(self, positions: np.ndarray) -> BatchDraws:
        """The streams of some of the samples, as they stand now."""
        return BatchDraws(self._state[positions])


class GeneratorDraws:
    """The stream outside a loader: this thread's default generator."""

    __slots__ = ()

    def uniform(self) -> float:
        return float(allgrad_random.default_generator().numpy.random())

    def integer(self, low: int, high: int) -> int:
        return int(allgrad_random.default_generator().numpy.integers(low, high))


class _Current(threading.local):
    draws: Draws = GeneratorDraws()


_current = _Current()


def current() -> Draws:
    """The stream that a per-sample transform draws from in this thread, now."""
    return _current.draws


@contextlib.contextmanager
def sample_stream(draws: Draws) -> Iterator[None]:
    """Within the block, `current()` of this thread is `draws`."""
    before = _current.draws
    _current.draws = draws
    try:
        yield
    finally:
        _current.draws = before


def new_stream(seed: int) -> np.random.Generator:
    """A NumPy generator at the start of `seed`, for `use_stream`."""
    return np.random.Generator(np.random.Philox(seed))


@contextlib.contextmanager
def use_stream(numbers: np.random.Generator) -> Iterator[None]:
    """Within the block, the default generator of this thread draws from `numbers`."""
    generator = allgrad_random.default_generator()
    before = generator.numpy
    generator.numpy = numbers
    try:
        yield
    finally:
        generator.numpy = before


@contextlib.contextmanager
def default_stream(seed: int) -> Iterator[None]:
    """Within the block, the default generator of this thread stands at the start of `seed`."""
    with use_stream(new_stream(seed)):
        yield


_process_streams = threading.RLock()


@contextlib.contextmanager
def all_streams(seed: int) -> Iterator[None]:
    """As `default_stream`, and `random` and `numpy.random` as well; all are put back after.

    Those two belong to the whole process, so this must not run beside the user's thread; where
    several ranks are threads of one process, their data sets take turns here.
    """
    with _turn(), _all_streams(seed):
        yield


@contextlib.contextmanager
def _turn() -> Iterator[None]:
    """Within the block, no other thread uses the sources of the process this way."""
    while not _process_streams.acquire(timeout=0.01):
        moment("random streams")  # whoever has it may wait for its turn to run
    try:
        yield
    finally:
        _process_streams.release()


@contextlib.contextmanager
def _all_streams(seed: int) -> Iterator[None]:
    python_state = python_random.getstate()
    numpy_state = np.random.get_state()
    python_random.seed(seed)
    np.random.seed(seed & 0xFFFFFFFF)
    try:
        with default_stream(seed):
            yield
    finally:
        python_random.setstate(python_state)
        np.random.set_state(numpy_state)


class HeldStreams:
    """All random sources, started at a seed and taken up again where they were left.

    Every ``with`` block goes on where the last one ended, and leaves the sources outside as they
    were. So code that runs piece by piece, such as a generator function, draws the same numbers
    whatever is drawn in between.

    Args:
        seed: where all of them start.
        draws_seed: where the draws of transforms start, see `current`.
        process_wide: also hold `random` and `numpy.random`, which belong to the whole process; then
            this must not run beside the user's thread, see `all_streams`.
    """

    def __init__(self, seed: int, draws_seed: int, process_wide: bool) -> None:
        self._numbers, self._draws = new_stream(seed), SampleDraws(draws_seed)
        self._process_wide = process_wide
        self._python: Any = python_random.Random(seed).getstate()
        self._numpy: Any = np.random.RandomState(seed & 0xFFFFFFFF).get_state()

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """Within the block, the sources are these."""
        with use_stream(self._numbers), sample_stream(self._draws):
            if not self._process_wide:
                yield
                return
            with _turn():
                outside = python_random.getstate(), np.random.get_state()
                python_random.setstate(self._python)
                np.random.set_state(self._numpy)
                try:
                    yield
                finally:
                    self._python, self._numpy = python_random.getstate(), np.random.get_state()
                    python_random.setstate(outside[0])
                    np.random.set_state(outside[1])
