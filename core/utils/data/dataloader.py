"""Batches of a data set, in the order of a sampler, made ahead if asked.

Stage: hands batches to the training loop. Three ways to make them: here and now
(`num_workers=0`), in one background thread (`num_workers=0, prefetch_factor=k`), in worker
processes (`num_workers=n`). The batches are the same, bit for bit, see progress.py, Note [Resume].
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Generic, TypeVar

from ...errors import DatasetError, OptionError
from ...moments import moment
from ...random import Generator, default_generator
from ...timeline import active
from .collate import default_collate, default_convert
from .dataset import Dataset, IterableDataset, length_of
from .fetch import EndOfStream, Recipe, Task, make_fetcher
from .pin_memory import pinned_batches
from .progress import Progress, note_hand_out, pass_over
from .sampler import (
    BatchSampler,
    RandomSampler,
    SequentialSampler,
    generator_from_text,
    generator_to_text,
)
from .streams import all_streams, default_stream, mix, new_stream, use_stream

T_co = TypeVar("T_co", covariant=True)


class DataLoader(Generic[T_co]):
    """Iterate over a data set in batches; PyTorch's arguments, order and defaults.

    What is more than in PyTorch:
        * A data set with `get_batch` (TensorDataset and all of `allgrad.vision.datasets`, with
          transforms of `allgrad.vision.transforms`) is read in whole batches.
        * The batches do not depend on `num_workers`: random numbers drawn inside the data set from
          allgrad's default generator, `random` or `numpy.random` are seeded per batch, those of our
          transforms per sample. Seeding in `worker_init_fn` therefore has no lasting effect.
        * `state_dict()` and `load_state_dict()` continue in the middle of an epoch, exactly.

    Args:
        dataset: map-style (`__getitem__`, `__len__`) or an IterableDataset.
        batch_size: samples per batch; None hands out single samples.
        shuffle: a new random order every epoch.
        sampler: order of the indices, instead of `shuffle`.
        batch_sampler: lists of indices, instead of batch_size, shuffle, sampler and drop_last.
        num_workers: worker processes; 0 works in this process.
        collate_fn: list of samples -> batch; by default `default_collate`.
        pin_memory: hand out batches in pinned memory, from which ``.to("cuda", non_blocking=True)``
            copies while the host goes on; no difference where no GPU can be used.
        pin_memory_device: accepted; pinned memory serves all GPUs.
        drop_last: leave out a last batch that is not full.
        timeout: seconds to wait for a batch from a worker; 0 for ever. (A worker that dies is
            noticed at once either way.)
        worker_init_fn: called in every worker with its number, at each start of an epoch.
        multiprocessing_context: "spawn" or "fork"; by default the first that works, see
            pool.py, Note [Start of workers].
        generator: source of the epoch seeds; by default the default generator. One number is
            drawn from it per epoch; none if the sampler has a seed and an epoch of its own
            (DistributedSampler), then only its initial seed counts; not even that if the sampler
            `seeds_samples` (ShardedBatchSampler).
        prefetch_factor: batches made in advance, per worker (default 2). With `num_workers=0` a
            background thread makes them, which overlaps with the training step; code of the data
            set then runs in that thread, and of the random sources only the default generator is
            seeded there. By default no thread.
        persistent_workers: send the data set to the workers once, not at every epoch; changes to
            it after that are not seen.
        in_order: accepted; batches always come in order.

    Raises:
        OptionError: arguments that contradict each other. DatasetError: the data set is empty.
    """

    def __init__(
        self,
        dataset: Dataset[T_co] | Any,
        batch_size: int | None = 1,
        shuffle: bool | None = None,
        sampler: Iterable[Any] | None = None,
        batch_sampler: Iterable[list[Any]] | None = None,
        num_workers: int = 0,
        collate_fn: Callable[[Any], Any] | None = None,
        pin_memory: bool = False,
        drop_last: bool = False,
        timeout: float = 0,
        worker_init_fn: Callable[[int], None] | None = None,
        multiprocessing_context: str | None = None,
        generator: Generator | None = None,
        *,
        prefetch_factor: int | None = None,
        persistent_workers: bool = False,
        pin_memory_device: str = "",
        in_order: bool = True,
    ) -> None:
        _check_numbers(num_workers, timeout, prefetch_factor, persistent_workers)
        self.dataset: Any = dataset
        self.num_workers = num_workers
        self.pin_memory = pin_memory
        self.timeout = timeout
        self.worker_init_fn = worker_init_fn
        self.multiprocessing_context = multiprocessing_context
        self.generator = generator
        if prefetch_factor is None and num_workers > 0:
            prefetch_factor = 2
        self.prefetch_factor = prefetch_factor
        self.persistent_workers = persistent_workers
        self._streaming = isinstance(dataset, IterableDataset)
        self._stream_epoch: int | None = None
        self._set_order(batch_size, shuffle, sampler, batch_sampler, drop_last)
        batched = self.batch_sampler is not None or self._stream_batch is not None
        self._batched = batched
        self.collate_fn = collate_fn or (default_collate if batched else default_convert)
        self._progress = Progress(finished=True, epoch=-1)
        self._resume: Progress | None = None
        self._idle_pool: Any = None

    def _set_order(
        self,
        batch_size: int | None,
        shuffle: bool | None,
        sampler: Iterable[Any] | None,
        batch_sampler: Iterable[list[Any]] | None,
        drop_last: bool,
    ) -> None:
        """Check which of the four ways to give an order was used, and set the samplers."""
        if sampler is not None and shuffle:
            raise OptionError("DataLoader: give either sampler or shuffle=True, not both")
        if batch_sampler is not None:
            if batch_size != 1 or shuffle or sampler is not None or drop_last:
                raise OptionError(
                    "DataLoader: batch_sampler replaces batch_size, shuffle, sampler, drop_last"
                )
            batch_size = None
        elif batch_size is None and drop_last:
            raise OptionError("DataLoader: drop_last=True needs a batch_size")
        self.batch_size, self.drop_last = batch_size, drop_last
        self._stream_batch: int | None = None
        self.sampler: Any = None
        self.batch_sampler: Any = batch_sampler
        if self._streaming:
            if shuffle or sampler is not None or batch_sampler is not None:
                raise OptionError(
                    "DataLoader: an IterableDataset has an order of its own; shuffle, sampler "
                    "and batch_sampler do not apply"
                )
            self._stream_batch = batch_size
            return
        length_of(self.dataset, "DataLoader")
        if sampler is None:
            sampler = (
                RandomSampler(self.dataset) if shuffle else SequentialSampler(self.dataset)
            )
        self.sampler = sampler
        if batch_sampler is None and batch_size is not None:
            self.batch_sampler = BatchSampler(sampler, batch_size, drop_last)

    def __len__(self) -> int:
        """Batches per epoch.

        Raises:
            TypeError: data set or sampler has no length.
        """
        if not self._streaming:
            return len(self.sampler if self.batch_sampler is None else self.batch_sampler)
        n = len(self.dataset)
        if self.batch_size is None:
            return n
        return n // self.batch_size if self.drop_last else -(-n // self.batch_size)

    def __iter__(self) -> Iterator[Any]:
        return _Epoch(self)

    # ---------------------------------------------------------------- saving the position

    def state_dict(self) -> dict[str, Any]:
        """The position: plain numbers and text, fit for a JSON file.

        In the middle of an epoch: after the last batch handed out, whatever was made ahead. The
        default generator is not part of it; a training checkpoint saves that itself.
        """
        progress = self._resume or self._progress
        if progress.finished:
            progress = Progress(epoch=progress.epoch + 1, sampler=self._sampler_state())
        state = progress.to_dict()
        if self.generator is not None:
            state["generator"] = generator_to_text(self.generator)
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue at a saved position: the next `iter()` yields the batches that were left.

        With a DistributedSampler, or another that knows of ranks, their number may differ from the
        one saved; with a DistributedIterableDataset only between epochs.

        Raises:
            CheckpointError: not a state of a DataLoader. A changed order of samples is noticed
                at the next `iter()`.
        """
        progress = Progress.from_dict(state)
        sampler = self._seeded_sampler()
        if progress.sampler is not None and hasattr(sampler, "load_state_dict"):
            ranks = progress.sampler.get("num_replicas")
            if ranks is not None and ranks != getattr(sampler, "num_replicas", ranks):
                done = progress.samples if self._by_index else progress.batches
                sampler.load_state_dict(progress.sampler, done)
                progress.batches = progress.samples = progress.digest = 0
                progress.sampler = sampler.state_dict()
            else:
                sampler.load_state_dict(progress.sampler)
        if self.generator is not None and state.get("generator") is not None:
            generator_from_text(self.generator, state["generator"])
        self._resume = progress

    def _seeded_sampler(self) -> Any:
        """What knows the order: the user's sampler, the one inside a batch sampler, or a stream."""
        if self._streaming:
            return self.dataset if hasattr(self.dataset, "epoch_of") else None
        if self.batch_sampler is not None and not isinstance(self.batch_sampler, BatchSampler):
            return self.batch_sampler
        return getattr(self.batch_sampler, "sampler", self.sampler)

    @property
    def _by_index(self) -> bool:
        """Whether the sampler yields indices; otherwise whole batches, or a stream has its own."""
        return not self._streaming and (self.batch_size is not None or self.batch_sampler is None)

    def _sampler_state(self) -> dict[str, Any] | None:
        sampler = self._seeded_sampler()
        if not hasattr(sampler, "state_dict"):
            return None
        state: dict[str, Any] = sampler.state_dict()
        return state

    # ---------------------------------------------------------------- one epoch

    def _begin(self) -> tuple[Progress, Progress]:
        """Start or resume an epoch. Returns its progress, and where it is to be taken up."""
        resumed = self._resume or Progress(self._progress.epoch + 1)
        self._resume = None
        progress = Progress(resumed.epoch, resumed.seed, self._sampler_state())
        if progress.seed is None:
            progress.seed = self._draw_epoch_seed()
        if self._seeded_sampler() is self.dataset:
            self._stream_epoch, _ = self.dataset.begin_epoch()
        self._progress = progress
        return progress, resumed

    def _draw_epoch_seed(self) -> int:
        generator = self.generator or default_generator()
        own = getattr(self._seeded_sampler(), "epoch_seed", None)
        if own is not None and self._seeds_samples():
            return int(own())
        if own is not None:
            return mix(generator.initial_seed(), own())
        return int(generator.numpy.integers(0, 2**63))

    def _seeds_samples(self) -> bool:
        """Whether random numbers may depend on the sampler's seed and the sample alone."""
        return bool(getattr(self._seeded_sampler(), "seeds_samples", False))

    def _recipe(self, epoch_seed: int) -> Recipe:
        return Recipe(
            dataset=self.dataset,
            collate_fn=self.collate_fn,
            batched=self._batched,
            streaming=self._streaming,
            drop_last=self.drop_last,
            by_position=bool(getattr(self._seeded_sampler(), "replacement", False)),
            epoch_seed=epoch_seed,
            by_sample=self._seeds_samples(),
            stream_epoch=self._stream_epoch,
        )

    def _tasks(self, seed: int, resumed: Progress) -> Iterator[Task]:
        """The batches still to be made. The sampler runs in a random stream of its own."""
        if self._streaming:
            count, number = self._stream_batch or 1, 0
            while True:  # a stream is read again from its start; `_Epoch` drops what was seen
                yield Task(number, number * count, count)
                number += 1
        stream = new_stream(mix(seed, 1))
        by_index = self._by_index
        with use_stream(stream):
            units = iter(self.sampler if by_index else self.batch_sampler)
            pass_over(units, resumed.samples if by_index else resumed.batches, resumed.digest)
        if by_index and self.batch_sampler is not None:
            units = self.batch_sampler.batches(units)
        number, position = resumed.batches, resumed.samples
        while True:
            with use_stream(stream):
                indices = next(units, None)
            if indices is None:
                return
            if self._batched:
                indices = list(indices)
            task = Task(number, position, indices)
            yield task
            number, position = number + 1, position + task.count

    def _source(self, seed: int, tasks: Iterator[Task]) -> Iterator[tuple[Task, Any]]:
        recipe = self._recipe(seed)
        if self.num_workers > 0:
            return pinned_batches(self._from_workers(recipe, tasks), self.pin_memory)
        if self.prefetch_factor:
            from .prefetch import Background

            made = pinned_batches(
                _make(make_fetcher(recipe, default_stream), tasks), self.pin_memory
            )
            return Background(made, self.prefetch_factor, self.timeout)
        return pinned_batches(_make(make_fetcher(recipe, all_streams), tasks), self.pin_memory)

    def _from_workers(self, recipe: Recipe, tasks: Iterator[Task]) -> Iterator[tuple[Task, Any]]:
        from .pool import WorkerPool

        pool, self._idle_pool = self._idle_pool, None  # a second iterator gets its own
        if pool is None or not pool.usable:
            pool = WorkerPool(
                self.num_workers,
                self.prefetch_factor or 1,
                self.multiprocessing_context,
                self.timeout,
                self.worker_init_fn,
                self.persistent_workers,
            )
        pool.start(recipe)
        return self._drain(pool, tasks)

    def _drain(self, pool: Any, tasks: Iterator[Task]) -> Iterator[tuple[Task, Any]]:
        try:
            yield from pool.batches(tasks)
        finally:
            if pool.usable and pool.reusable and self._idle_pool is None:
                self._idle_pool = pool
            else:
                pool.close()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_idle_pool": None}


class _Epoch:
    """The iterator over one epoch."""

    def __init__(self, loader: DataLoader[Any]) -> None:
        self._progress, resumed = loader._begin()
        seed = self._progress.seed
        assert seed is not None
        tasks = loader._tasks(seed, resumed)
        first = [next(tasks, None)]  # runs the sampler now, in this thread, and checks the resume
        chained = _chain(first, tasks)
        self._source: Any = loader._source(seed, chained)
        self._left = 0
        self._progress.batches, self._progress.samples = resumed.batches, resumed.samples
        self._progress.digest = resumed.digest
        if loader._streaming:
            self._pass_over(resumed)

    def _pass_over(self, resumed: Progress) -> None:
        for done in range(resumed.batches):
            if next(self._source, None) is None:
                raise DatasetError(
                    f"DataLoader: cannot resume after {resumed.batches} batches, the stream ends "
                    f"after {done}"
                )

    def __iter__(self) -> _Epoch:
        return self

    def __next__(self) -> Any:
        moment("batch")
        timeline = active()
        begin = 0.0 if timeline is None else timeline.begin("batch")
        try:
            task, batch = next(self._source)
        except StopIteration:
            self._progress.finished = True
            if self._progress.batches == 0:
                note_hand_out(self._progress)
            raise
        finally:
            if timeline is not None:
                timeline.end(begin, "batch", "data")
        self._progress.hand_out(task, task.count)
        note_hand_out(self._progress)
        return batch

    def __del__(self) -> None:
        with contextlib.suppress(AttributeError):  # if __init__ failed
            self._source.close()


def _chain(first: list[Task | None], rest: Iterator[Task]) -> Iterator[Task]:
    for task in first:
        if task is not None:
            yield task
    yield from rest


def _make(fetch: Callable[[Task], Any], tasks: Iterator[Task]) -> Iterator[tuple[Task, Any]]:
    for task in tasks:
        try:
            batch = fetch(task)
        except EndOfStream:
            return
        yield task, batch


def _check_numbers(
    num_workers: int, timeout: float, prefetch_factor: int | None, persistent_workers: bool
) -> None:
    if num_workers < 0:
        raise OptionError(f"DataLoader: num_workers must be >= 0, came {num_workers}")
    if timeout < 0:
        raise OptionError(f"DataLoader: timeout must be >= 0 seconds, came {timeout}")
    if prefetch_factor is not None and prefetch_factor <= 0:
        raise OptionError(f"DataLoader: prefetch_factor must be > 0, came {prefetch_factor}")
    if persistent_workers and num_workers == 0:
        raise OptionError("DataLoader: persistent_workers=True needs num_workers > 0")
