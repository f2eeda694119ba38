"""Where samples come from: data sets by index, by iteration, and combinations of them.

Stage: the first of a batch. A data set that can return many samples at once says so by
`get_batch` (ours: collated arrays at once) or `__getitems__` (PyTorch's: a list of samples);
`DataLoader` then skips the sample-by-sample path. Imports `allgrad.tensors` and errors only.
"""

from __future__ import annotations

import bisect
import itertools
import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Generic, Protocol, TypeVar, runtime_checkable

import numpy as np

from ...backend.arrays import on, on_device
from ...errors import DatasetError, OptionError, ShapeError
from ...random import Generator, default_generator
from ...tensors import Tensor
from .streams import BatchDraws

T_co = TypeVar("T_co", covariant=True)


class Dataset(Generic[T_co]):
    """A map from an index to a sample; subclasses define `__getitem__` and `__len__`."""

    def __getitem__(self, index: Any) -> T_co:
        raise NotImplementedError(f"{type(self).__name__} must define __getitem__(index)")

    def __add__(self, other: Dataset[Any]) -> ConcatDataset[Any]:
        return ConcatDataset([self, other])


class IterableDataset(Dataset[T_co]):
    """A stream of samples; subclasses define `__iter__`.

    With workers every worker iterates over its own copy: use `get_worker_info` to share the work.
    Likewise every rank: `DistributedIterableDataset` gives each rank and worker its share.
    """

    def __iter__(self) -> Iterator[T_co]:
        raise NotImplementedError(f"{type(self).__name__} must define __iter__()")


@runtime_checkable
class BatchedDataset(Protocol):
    """A data set that returns whole batches, collated as `default_collate` would.

    Attributes:
        batchable: False if, as configured, only the sample-by-sample path is right.
        needs_random_streams: False if no code of the user runs inside `get_batch`, so that
            nobody can look at `random`, `numpy.random` or the default generator.
    """

    batchable: bool
    needs_random_streams: bool

    def get_batch(self, indices: np.ndarray, draws: BatchDraws) -> Any:
        """The samples at `indices` (int64, (N,)), with the streams of those samples."""
        ...


def defines(dataset: object, fast: str, plain: str = "__getitem__") -> bool:
    """True if method `fast` describes the same samples as method `plain`.

    A subclass that overrides `plain` alone makes an inherited `fast` wrong; then it is not used.
    """
    for cls in type(dataset).__mro__:
        if fast in cls.__dict__:
            return True
        if plain in cls.__dict__:
            return False
    return False


def is_batchable(dataset: object) -> bool:
    """True if `dataset.get_batch` exists and may be used."""
    return defines(dataset, "get_batch") and bool(dataset.batchable)  # type: ignore[attr-defined]


def length_of(dataset: Any, asker: str) -> int:
    """``len(dataset)``.

    Raises:
        DatasetError: it has no length, or it is empty.
    """
    try:
        length = len(dataset)
    except TypeError as err:
        raise DatasetError(
            f"{asker}: {type(dataset).__name__} has no length; define __len__, or derive it "
            "from IterableDataset if it is a stream"
        ) from err
    if length == 0:
        raise DatasetError(
            f"{asker}: {type(dataset).__name__} is empty (0 samples); check its root folder, "
            "split or filter"
        )
    return length


class TensorDataset(Dataset[tuple[Tensor, ...]]):
    """Sample i is the tuple of the i-th rows of all tensors.

    Args:
        tensors: one or more tensors with the same first size.

    Raises:
        ShapeError: the first sizes differ.
    """

    needs_random_streams = False

    def __init__(self, *tensors: Tensor) -> None:
        sizes = [tuple(t.shape) for t in tensors]
        if not tensors or any(not s or s[0] != sizes[0][0] for s in sizes):
            raise ShapeError(
                f"TensorDataset: expected tensors with the same first size, came shapes {sizes}"
            )
        self.tensors = tensors

    @property
    def batchable(self) -> bool:
        """Whole batches bypass the graph, so no tensor may ask for a gradient."""
        return not any(t.requires_grad for t in self.tensors)

    def __getitem__(self, index: Any) -> tuple[Tensor, ...]:
        return tuple(t[index] for t in self.tensors)

    def __len__(self) -> int:
        return int(self.tensors[0].shape[0])

    def get_batch(self, indices: np.ndarray, draws: BatchDraws) -> list[Tensor]:
        """Rows of every tensor at once."""
        return [Tensor(take_rows(t._array, indices)) for t in self.tensors]


def take_rows(array: np.ndarray, indices: np.ndarray) -> np.ndarray:
    """``array[indices]``, by the fastest way for its memory layout."""
    if on_device(array):
        return array[on(np.asarray(indices), array)]
    if array.flags.c_contiguous:
        return np.take(array, indices, axis=0)
    # np.take would first copy the whole of a strided array.
    return array[indices]


class Subset(Dataset[T_co]):
    """The samples of `dataset` at `indices`.

    Args:
        dataset: any data set with `__getitem__`.
        indices: positions in it, any sequence.
    """

    def __init__(self, dataset: Dataset[T_co], indices: Sequence[int]) -> None:
        self.dataset = dataset
        self.indices = indices

    def __getitem__(self, index: Any) -> T_co:
        return self.dataset[self.indices[index]]

    def __len__(self) -> int:
        return len(self.indices)

    @property
    def batchable(self) -> bool:
        """As the data set underneath."""
        return is_batchable(self.dataset)

    @property
    def needs_random_streams(self) -> bool:
        """As the data set underneath."""
        return bool(getattr(self.dataset, "needs_random_streams", True))

    def get_batch(self, indices: np.ndarray, draws: BatchDraws) -> Any:
        """The whole batch from the data set underneath."""
        inner = np.asarray(self.indices, dtype=np.int64)[indices]
        return self.dataset.get_batch(inner, draws)  # type: ignore[attr-defined]

    def __getitems__(self, indices: Sequence[int]) -> list[T_co]:
        inner = [self.indices[i] for i in indices]
        if defines(self.dataset, "__getitems__"):
            return self.dataset.__getitems__(inner)  # type: ignore[attr-defined]
        return [self.dataset[i] for i in inner]


class ConcatDataset(Dataset[T_co]):
    """Several data sets one after the other.

    Args:
        datasets: at least one, each with a length.

    Raises:
        DatasetError: none given, or one of them is a stream.
    """

    def __init__(self, datasets: Iterable[Dataset[Any]]) -> None:
        self.datasets = list(datasets)
        if not self.datasets:
            raise DatasetError("ConcatDataset: expected at least one data set, came none")
        if any(isinstance(d, IterableDataset) for d in self.datasets):
            raise DatasetError("ConcatDataset does not take an IterableDataset: it has no index")
        self.cumulative_sizes = list(
            itertools.accumulate(len(d) for d in self.datasets)  # type: ignore[arg-type]
        )

    def __len__(self) -> int:
        return self.cumulative_sizes[-1]

    def __getitem__(self, index: int) -> T_co:
        if not -len(self) <= index < len(self):
            raise IndexError(f"index {index} is outside a data set of {len(self)} samples")
        index %= len(self)
        part = bisect.bisect_right(self.cumulative_sizes, index)
        start = self.cumulative_sizes[part - 1] if part else 0
        sample: T_co = self.datasets[part][index - start]
        return sample

    @property
    def batchable(self) -> bool:
        """True if every part is."""
        return all(is_batchable(d) for d in self.datasets)

    @property
    def needs_random_streams(self) -> bool:
        """True if any part does."""
        return any(getattr(d, "needs_random_streams", True) for d in self.datasets)

    def get_batch(self, indices: np.ndarray, draws: BatchDraws) -> list[Tensor]:
        """One batch per part, put together in the order asked for."""
        indices = np.where(indices < 0, indices + len(self), indices)
        parts = np.searchsorted(self.cumulative_sizes, indices, side="right")
        pieces, places = [], []
        for part in np.unique(parts):
            where = np.flatnonzero(parts == part)
            start = self.cumulative_sizes[part - 1] if part else 0
            dataset: Any = self.datasets[part]
            pieces.append(dataset.get_batch(indices[where] - start, draws.take(where)))
            places.append(where)
        if len(pieces) == 1:
            return list(pieces[0])
        order = np.argsort(np.concatenate(places))
        return [_merge([p._array for p in column], order) for column in zip(*pieces, strict=True)]


def _merge(arrays: list[np.ndarray], order: np.ndarray) -> Tensor:
    shapes = {(a.shape[1:], a.dtype) for a in arrays}
    if len(shapes) > 1:
        raise ShapeError(
            "ConcatDataset: its parts give samples of different shape or dtype in one batch: "
            + ", ".join(f"{tuple(s)} {d}" for s, d in shapes)
        )
    return Tensor(np.concatenate(arrays)[order])


def random_split(
    dataset: Dataset[T_co],
    lengths: Sequence[float],
    generator: Generator | None = None,
) -> list[Subset[T_co]]:
    """Cut a data set into random parts that do not overlap.

    Args:
        dataset: a data set with a length.
        lengths: counts that sum to its length, or fractions that sum to 1 (what is left after
            rounding down goes to the parts in turn).
        generator: source of the permutation; by default the default generator.

    Raises:
        OptionError: the lengths do not fit.
    """
    total = len(dataset)  # type: ignore[arg-type]
    counts = [int(n) for n in lengths]
    if math.isclose(sum(lengths), 1) and sum(lengths) <= 1:
        if any(not 0 <= fraction <= 1 for fraction in lengths):
            raise OptionError(f"random_split: fractions must lie in [0, 1], came {list(lengths)}")
        counts = [math.floor(total * fraction) for fraction in lengths]
        for i in range(total - sum(counts)):
            counts[i % len(counts)] += 1
    if sum(counts) != total:
        raise OptionError(
            f"random_split: lengths {list(lengths)} sum to {sum(counts)}, but the data set has "
            f"{total} samples"
        )
    order = (generator or default_generator()).numpy.permutation(total).tolist()
    ends = list(itertools.accumulate(counts))
    return [Subset(dataset, order[e - n : e]) for e, n in zip(ends, counts, strict=True)]
