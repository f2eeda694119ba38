"""From the indices of a batch to the batch, whichever process or thread does it.

Stage: the work of the loader. Three ways, fastest first: the data set's own `get_batch`, PyTorch's
`__getitems__`, sample by sample. In all of them the random numbers depend only on the epoch seed
and on the samples, see streams.py, Note [Sample streams].
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import numpy as np

from .collate import default_collate
from .dataset import defines, is_batchable
from .streams import BatchDraws, SampleDraws, default_stream, mix, sample_keys, sample_stream

_SHOWN_INDICES = 8


@dataclass(frozen=True, slots=True)
class Task:
    """One batch to make.

    Attributes:
        number: its number in the epoch, from 0.
        position: how many samples come before it in the epoch.
        indices: list of indices; one index without batching; for a stream the number of samples.
    """

    number: int
    position: int
    indices: Any

    @property
    def count(self) -> int:
        """How many samples."""
        return len(self.indices) if isinstance(self.indices, list) else 1

    def __str__(self) -> str:
        if not isinstance(self.indices, list):
            return f"batch {self.number}"
        shown = ", ".join(str(i) for i in self.indices[:_SHOWN_INDICES])
        more = ", ..." if len(self.indices) > _SHOWN_INDICES else ""
        return f"batch {self.number} (samples {shown}{more})"


@dataclass(frozen=True, slots=True)
class Recipe:
    """All that is needed to make batches; travels to the workers.

    Attributes:
        dataset: map-style, or a stream if `streaming`.
        collate_fn: list of samples -> batch, or one sample -> sample without batching.
        batched: samples are collated into batches.
        streaming: the data set is an IterableDataset.
        drop_last: a stream leaves out a last batch that is not full.
        by_position: random numbers follow the position in the epoch, not the index: with
            replacement the same index must not get the same augmentation twice.
        epoch_seed: seed of this epoch.
        stream_epoch: epoch of a stream that counts epochs; None: the stream does not.
        by_sample: whatever the user's code draws while it reads a sample follows the sample, too,
            not the batch.
    """

    dataset: Any
    collate_fn: Callable[[Any], Any]
    batched: bool
    streaming: bool
    drop_last: bool
    by_position: bool
    epoch_seed: int
    by_sample: bool = False
    stream_epoch: int | None = None


Streams = Callable[[int], AbstractContextManager[None]]


class EndOfStream(Exception):
    """A stream has no further batch; never reaches the user."""


def make_fetcher(recipe: Recipe, streams: Streams) -> Callable[[Task], Any]:
    """The function from `Task` to batch.

    Args:
        recipe: what to fetch.
        streams: context manager that seeds whatever random numbers the user's code may draw.
    """
    if recipe.streaming:
        return _StreamFetcher(recipe, streams)
    return _MapFetcher(recipe, streams)


class _MapFetcher:
    def __init__(self, recipe: Recipe, streams: Streams) -> None:
        self._recipe = recipe
        self._streams = streams
        self._whole = recipe.collate_fn is default_collate and is_batchable(recipe.dataset)
        self._items = defines(recipe.dataset, "__getitems__")
        self._isolated = not self._whole or recipe.dataset.needs_random_streams
        self._each = recipe.by_sample and self._isolated
        if self._each:
            self._whole = self._items = False  # read together, samples share a stream

    def __call__(self, task: Task) -> Any:
        indices = task.indices if isinstance(task.indices, list) else [task.indices]
        keys = self._keys(task, indices)
        seed = mix(self._recipe.epoch_seed, task.position)
        try:
            with self._streams(seed) if self._isolated else contextlib.nullcontext():
                return self._fetch(indices, keys)
        except Exception as err:
            err.add_note(f"DataLoader: while making {task}")
            raise

    def _keys(self, task: Task, indices: list[Any]) -> np.ndarray:
        if not self._recipe.by_position and isinstance(indices[0], int | np.integer):
            return sample_keys(self._recipe.epoch_seed, np.asarray(indices, dtype=np.int64))
        positions = np.arange(task.position, task.position + len(indices))
        return sample_keys(self._recipe.epoch_seed, positions)

    def _fetch(self, indices: list[Any], keys: np.ndarray) -> Any:
        recipe = self._recipe
        if self._whole and recipe.batched:
            batch = np.asarray(indices, dtype=np.int64)
            return recipe.dataset.get_batch(batch, BatchDraws(keys))
        draws = SampleDraws(int(keys[0]))
        with sample_stream(draws):
            if self._items and recipe.batched:
                samples = recipe.dataset.__getitems__(indices)
            else:
                samples = self._one_by_one(indices, keys.tolist(), draws)
            return recipe.collate_fn(samples if recipe.batched else samples[0])

    def _one_by_one(
        self, indices: list[Any], keys: list[int], draws: SampleDraws
    ) -> list[Any]:
        dataset, samples, index = self._recipe.dataset, [], None
        try:
            for index, key in zip(indices, keys, strict=True):
                draws.restart(key)
                with self._streams(mix(key, 2)) if self._each else contextlib.nullcontext():
                    samples.append(dataset[index])
        except Exception as err:
            err.add_note(f"DataLoader: while reading sample {index!r}")
            raise
        return samples


class _StreamFetcher:
    def __init__(self, recipe: Recipe, streams: Streams) -> None:
        self._recipe = recipe
        self._streams = streams
        self._samples: Iterator[Any] | None = None

    def __call__(self, task: Task) -> Any:
        recipe = self._recipe
        seed = mix(recipe.epoch_seed, task.number)
        with self._streams(seed), sample_stream(SampleDraws(seed)):
            if self._samples is None:
                self._samples = self._begin()
            if not recipe.batched:
                for sample in self._samples:
                    return recipe.collate_fn(sample)
                raise EndOfStream
            samples = list(itertools.islice(self._samples, task.indices))
            if not samples or (recipe.drop_last and len(samples) < task.indices):
                raise EndOfStream
            return recipe.collate_fn(samples)

    def _begin(self) -> Iterator[Any]:
        recipe = self._recipe
        if recipe.stream_epoch is None:
            return iter(recipe.dataset)
        # beside the user's thread only its own random sources may be touched
        alone = self._streams is not default_stream
        samples: Iterator[Any] = recipe.dataset.epoch_of(recipe.stream_epoch, alone)
        return samples
