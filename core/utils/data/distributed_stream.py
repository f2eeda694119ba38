"""A stream of samples, dealt to several ranks and their workers.

Stage: a data set over another one.

Note [Shares of a stream]
    Ranks and workers have copies of the stream and must see the same one, or samples would be lost
    or seen twice. So the stream runs in random sources of its own that follow (seed, epoch), and is
    told that there are no workers. Sample i goes to rank i mod ranks; of a rank's samples, worker w
    takes every workers-th. So neither the order of the stream nor a rank's share of it depends on
    the number of workers.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any, TypeVar

from ...errors import CheckpointError
from .dataset import IterableDataset
from .distributed_wrapper import share_of
from .share import Share
from .streams import HeldStreams, mix
from .worker_info import WorkerInfo, acting_as, get_worker_info

T_co = TypeVar("T_co", covariant=True)


class DistributedIterableDataset(Share, IterableDataset[T_co]):
    """The share of one rank of an `IterableDataset`: for streams what DistributedSampler is.

    Every rank reads the whole stream and keeps every `num_replicas`-th sample; with workers, every
    worker does. Where reading is expensive, let the data set read its own part only: it must use
    `get_worker_info` for that, as for several workers of one process, and ``shards_itself=True``
    then gives it numbers that count the workers of all ranks (and seeds of their own).

    The epoch advances by itself at every `iter()` of this data set or of a `DataLoader` over it,
    with workers, too; a data set underneath that has a `set_epoch` is told. What it draws from the
    default generator, `random` and `numpy.random` is the same on all ranks, anew in every epoch
    (with ``DataLoader(..., prefetch_factor=k)`` and no workers: from the default generator).

    Args:
        dataset: yields the same samples on all ranks, in the same order.
        num_replicas, rank: default: those of the process group.
        seed: the same number on every rank.
        drop_last: leave out the remainder so that all ranks get equally many samples.
        pad: if not `drop_last`: repeat the first samples so that all ranks get equally many
            (default). False repeats none: numbers differ by one at most.
        shards_itself: see above; numbers of samples are then as they come, without `pad`.

    Raises:
        OptionError: rank or num_replicas is out of range.
        DistributedError: one is missing, and there is no process group.

    Example:
        >>> class Count(IterableDataset):
        ...     def __iter__(self):
        ...         return iter(range(5))
        >>> [list(DistributedIterableDataset(Count(), 2, rank)) for rank in (0, 1)]
        [[0, 2, 4], [1, 3, 0]]
    """

    def __init__(
        self,
        dataset: IterableDataset[T_co],
        num_replicas: int | None = None,
        rank: int | None = None,
        seed: int = 0,
        drop_last: bool = False,
        pad: bool = True,
        shards_itself: bool = False,
    ) -> None:
        self._set_share(num_replicas, rank, seed)
        self.dataset: Any = dataset
        self.drop_last = drop_last
        self.pad = pad and not drop_last
        self.shards_itself = shards_itself

    def __len__(self) -> int:
        """Samples of this rank.

        Raises:
            TypeError: the data set underneath has no length, or `shards_itself`.
        """
        if self.shards_itself:
            raise TypeError(
                "DistributedIterableDataset: with shards_itself=True, only "
                f"{type(self.dataset).__name__} knows how many samples a rank gets"
            )
        count, size = len(self.dataset), self.num_replicas
        if self.drop_last:
            return count // size
        return -(-count // size) if self.pad else (count + size - 1 - self.rank) // size

    def __iter__(self) -> Iterator[T_co]:
        epoch, _ = self.begin_epoch()
        return self.epoch_of(epoch, process_wide=True)

    def epoch_of(self, epoch: int, process_wide: bool) -> Iterator[T_co]:
        """The samples of that epoch; counts nothing. `process_wide`: see `HeldStreams`."""
        info = get_worker_info()
        worker, workers = (0, 1) if info is None else (info.id, info.num_workers)
        if hasattr(self.dataset, "set_epoch"):
            self.dataset.set_epoch(epoch)
        seed = mix(self.seed, epoch)
        if not self.shards_itself:
            streams = HeldStreams(seed, seed, process_wide)
            samples = _run(self.dataset, streams, None, self.num_replicas)
            return itertools.islice(share_of(samples, self), worker, None, workers)
        number = self.rank * workers + worker
        own = mix(seed, number)
        streams = HeldStreams(seed, own, process_wide)
        acted = WorkerInfo(number, self.num_replicas * workers, own >> 1, self.dataset)
        return _run(self.dataset, streams, acted, 1)

    def state_dict(self) -> dict[str, Any]:
        """What the next `iter()` depends on; plain numbers."""
        return {"seed": self.seed, "epoch": self.epoch, "num_replicas": self.num_replicas}

    def load_state_dict(self, state: dict[str, Any], done: int = 0) -> None:
        """Return to the epoch that `state_dict` gave.

        Args:
            state: from `state_dict`.
            done: must be 0 with another number of ranks: a stream is taken up only where the same
                ranks left it, for who has seen what in the middle depends on the workers.

        Raises:
            CheckpointError: in the middle of an epoch, with another number of ranks.
        """
        if done:
            raise CheckpointError(
                f"DistributedIterableDataset: the state was saved in the middle of epoch "
                f"{state['epoch']} by {state['num_replicas']} ranks, now there are "
                f"{self.num_replicas}; a stream can change its ranks between epochs only. Resume "
                f"with {state['num_replicas']} ranks, or from a checkpoint of an epoch's end"
            )
        self.seed, self.epoch = state["seed"], state["epoch"]


def _run(dataset: Any, streams: HeldStreams, info: WorkerInfo | None, count: int) -> Iterator[Any]:
    """The stream's samples, made in its own random sources, `count` at a time."""
    with streams.running(), acting_as(info):
        samples = iter(dataset)
    while True:
        with streams.running(), acting_as(info):
            group = list(itertools.islice(samples, count))
        yield from group
        if len(group) < count:
            return
