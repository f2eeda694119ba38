"""The order in which one rank visits its samples.

Stage: between the data set and the loader. Every random sampler draws from its `generator`, or
from the default generator; `DataLoader` runs a sampler in a stream of its own (see
`dataloader.py`, Note [Resume]), so the order of an epoch can be repeated exactly.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence, Sized
from typing import Any, Generic, TypeVar

import numpy as np

from ...errors import DatasetError, OptionError
from ...random import Generator, default_generator

T_co = TypeVar("T_co", covariant=True)


class Sampler(Generic[T_co]):
    """Anything that yields indices; subclasses define `__iter__` and, if they can, `__len__`.

    A sampler whose order depends on more than the default generator defines `state_dict` and
    `load_state_dict` as well: the state before `iter(sampler)` must lead to the same order again.
    """

    def __init__(self, data_source: Sized | None = None) -> None:
        """`data_source` is accepted as in PyTorch and not used."""

    def __iter__(self) -> Iterator[T_co]:
        raise NotImplementedError(f"{type(self).__name__} must define __iter__()")


def generator_to_text(generator: Generator) -> str:
    """A generator's state, fit for a JSON file."""
    return bytes(generator.get_state()).decode()


def generator_from_text(generator: Generator, text: str) -> None:
    """The inverse of `generator_to_text`."""
    generator.set_state(np.frombuffer(text.encode(), dtype=np.uint8))


class SequentialSampler(Sampler[int]):
    """0, 1, ..., n - 1."""

    def __init__(self, data_source: Sized) -> None:
        self.data_source = data_source

    def __iter__(self) -> Iterator[int]:
        return iter(range(len(self.data_source)))

    def __len__(self) -> int:
        return len(self.data_source)


class _RandomBase(Sampler[int]):
    """What the random samplers share: a generator whose state is the sampler's state."""

    generator: Generator | None

    def _random(self) -> np.random.Generator:
        return (self.generator or default_generator()).numpy

    def state_dict(self) -> dict[str, Any]:
        """The own generator's state as text; empty if the default generator is used."""
        if self.generator is None:
            return {}
        return {"generator": generator_to_text(self.generator)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Return to the state that `state_dict` gave."""
        if self.generator is not None and "generator" in state:
            generator_from_text(self.generator, state["generator"])


class RandomSampler(_RandomBase):
    """A random order of all samples, or a draw with replacement.

    Args:
        data_source: the data set; only its length is used.
        replacement: True draws every index afresh.
        num_samples: indices per epoch; by default the length of the data set. More than that
            without replacement gives several orders one after the other.
        generator: source of the numbers; by default the default generator.

    Raises:
        DatasetError: nothing to draw from. OptionError: `num_samples` is not positive.
    """

    def __init__(
        self,
        data_source: Sized,
        replacement: bool = False,
        num_samples: int | None = None,
        generator: Generator | None = None,
    ) -> None:
        self.data_source = data_source
        self.replacement = replacement
        self._num_samples = num_samples
        self.generator = generator
        if num_samples is not None and num_samples <= 0:
            raise OptionError(f"RandomSampler: num_samples must be positive, came {num_samples}")
        if len(data_source) == 0:
            raise DatasetError(
                f"RandomSampler: {type(data_source).__name__} is empty (0 samples)"
            )

    @property
    def num_samples(self) -> int:
        """Indices per epoch."""
        return len(self.data_source) if self._num_samples is None else self._num_samples

    def __iter__(self) -> Iterator[int]:
        n, count, random = len(self.data_source), self.num_samples, self._random()
        if self.replacement:
            return iter(random.integers(0, n, count).tolist())
        orders = [random.permutation(n) for _ in range(-(-count // n))]
        return iter(np.concatenate(orders)[:count].tolist())

    def __len__(self) -> int:
        return self.num_samples


class SubsetRandomSampler(_RandomBase):
    """The given indices in random order.

    Args:
        indices: any sequence of indices.
        generator: source of the numbers; by default the default generator.
    """

    def __init__(self, indices: Sequence[int], generator: Generator | None = None) -> None:
        self.indices = indices
        self.generator = generator

    def __iter__(self) -> Iterator[int]:
        order = self._random().permutation(len(self.indices)).tolist()
        return iter([self.indices[i] for i in order])

    def __len__(self) -> int:
        return len(self.indices)


class WeightedRandomSampler(_RandomBase):
    """Indices drawn with probabilities proportional to `weights`.

    Args:
        weights: one number >= 0 per sample; they need not sum to 1.
        num_samples: indices per epoch.
        replacement: False draws every index once at most.
        generator: source of the numbers; by default the default generator.

    Raises:
        OptionError: a weight or `num_samples` makes no sense.
    """

    def __init__(
        self,
        weights: Sequence[float],
        num_samples: int,
        replacement: bool = True,
        generator: Generator | None = None,
    ) -> None:
        self.weights = np.asarray(weights, dtype=np.float64)
        self.num_samples = num_samples
        self.replacement = replacement
        self.generator = generator
        name = "WeightedRandomSampler"
        if not isinstance(num_samples, int) or isinstance(num_samples, bool) or num_samples <= 0:
            raise OptionError(f"{name}: num_samples must be a positive integer, came {num_samples}")
        if self.weights.ndim != 1:
            raise OptionError(f"{name}: weights must be 1-d, came shape {self.weights.shape}")
        if not np.isfinite(self.weights).all() or (self.weights < 0).any():
            raise OptionError(f"{name}: weights must be finite and >= 0")
        positive = int(np.count_nonzero(self.weights))
        if positive < (1 if replacement else num_samples):
            raise OptionError(
                f"{name}: {num_samples} samples cannot be drawn from {positive} positive weights"
            )

    def __iter__(self) -> Iterator[int]:
        n = len(self.weights)
        probabilities = self.weights / self.weights.sum()
        drawn = self._random().choice(n, self.num_samples, self.replacement, probabilities)
        return iter(drawn.tolist())

    def __len__(self) -> int:
        return self.num_samples


class BatchSampler(Sampler[list[int]]):
    """Lists of `batch_size` indices of another sampler.

    Args:
        sampler: any iterable of indices.
        batch_size: length of the lists.
        drop_last: leave out the last list if it is shorter.

    Raises:
        OptionError: `batch_size` is not a positive integer.
    """

    def __init__(self, sampler: Iterable[int], batch_size: int, drop_last: bool) -> None:
        if not isinstance(batch_size, int) or isinstance(batch_size, bool) or batch_size <= 0:
            raise OptionError(f"batch_size must be a positive integer, came {batch_size!r}")
        self.sampler = sampler
        self.batch_size = batch_size
        self.drop_last = bool(drop_last)

    def __iter__(self) -> Iterator[list[int]]:
        return self.batches(iter(self.sampler))

    def batches(self, indices: Iterator[int]) -> Iterator[list[int]]:
        """Cut a running stream of indices into lists."""
        while batch := list(itertools.islice(indices, self.batch_size)):
            if len(batch) == self.batch_size or not self.drop_last:
                yield batch

    def __len__(self) -> int:
        n = len(self.sampler)  # type: ignore[arg-type]
        return n // self.batch_size if self.drop_last else -(-n // self.batch_size)
