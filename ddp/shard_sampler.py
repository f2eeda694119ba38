"""Which samples a rank visits in reproducible mode: cut into shards first, then dealt to ranks.

Stage of the flow: a batch sampler. May import: `communicators.tree`, `allgrad.utils.data`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sized
from typing import Any

import numpy as np

from allgrad.ddp.communicators.tree import shards_of
from allgrad.errors import CheckpointError, DatasetError, OptionError
from allgrad.utils.data import Sampler
from allgrad.utils.data.share import Share


def shard_sizes(count: int, shards: int) -> list[int]:
    """How `count` samples are cut into shards: the first ones have one more, if it must be.

    A rank's neighbouring shards of a longer list are cut the same way as the whole, so a rank can
    tell the sizes of its shards from the size of its batch.

    Example:
        >>> shard_sizes(10, 4), shard_sizes(3 + 3, 2), shard_sizes(2 + 2, 2)
        ([3, 3, 2, 2], [3, 3], [2, 2])
    """
    few, more = divmod(count, shards)
    return [few + (shard < more) for shard in range(shards)]


class ShardedBatchSampler(Share, Sampler[list[int]]):
    """The batches of one rank: its logical shards of every step, one after the other.

    The samples of a step and their cut into shards are a pure function of (length, seed, epoch,
    step); the ranks only share the shards among themselves. Use it as
    ``DataLoader(dataset, batch_sampler=ShardedBatchSampler(...))`` together with
    ``DistributedDataParallel(..., logical_shards=...)``. The epoch advances by itself.

    In a last batch that is smaller, shard sizes differ by one at most. If fewer samples than
    shards are left for it, the first ones of the epoch are repeated until every shard has one.

    Args:
        dataset: the data set; only its length is used.
        batch_size: samples of a step, of all ranks together.
        logical_shards: shards per step, as given to `DistributedDataParallel`.
        num_replicas, rank: default: those of `init_process_group`.
        shuffle: a new order every epoch (default), or 0, 1, 2, ...
        seed: the same number on every rank.
        drop_last: leave out a last batch that is not full.

    Raises:
        DistributedError: no process group, and num_replicas or rank not given.
        OptionError: more shards than samples in a batch, more ranks than shards, or no such rank.
        DatasetError: the data set is empty, or `drop_last` would leave nothing.

    Example:
        >>> two = [ShardedBatchSampler(range(8), 4, 4, 2, r, shuffle=False) for r in (0, 1)]
        >>> [list(sampler) for sampler in two]
        [[[0, 1], [4, 5]], [[2, 3], [6, 7]]]
    """

    # The augmentation of a sample depends on the seed, the epoch and the sample alone; see
    # `DataLoader`.
    seeds_samples = True

    def __init__(
        self,
        dataset: Sized,
        batch_size: int,
        logical_shards: int,
        num_replicas: int | None = None,
        rank: int | None = None,
        shuffle: bool = True,
        seed: int = 0,
        drop_last: bool = False,
    ) -> None:
        self._set_share(num_replicas, rank, seed)
        _check(batch_size, logical_shards, self.num_replicas)
        self.dataset = dataset
        self.batch_size, self.logical_shards = batch_size, logical_shards
        self.shuffle, self.drop_last = shuffle, drop_last
        if self._steps() == 0:
            raise DatasetError(
                f"ShardedBatchSampler: {len(dataset)} samples give no batch of {batch_size} with "
                f"drop_last={drop_last}; take a smaller batch_size, or drop_last=False"
            )

    def _steps(self) -> int:
        length = len(self.dataset)
        return length // self.batch_size if self.drop_last else -(-length // self.batch_size)

    def __len__(self) -> int:
        """Steps of the next epoch, the same on all ranks."""
        return self._steps() - self._start

    def __iter__(self) -> Iterator[list[int]]:
        epoch, start = self.begin_epoch()
        order = self._order(len(self.dataset), epoch, self.shuffle)
        owned = shards_of(self.rank, self.num_replicas, self.logical_shards)
        return (self._batch(order, step, owned) for step in range(start, self._steps()))

    def _batch(self, order: np.ndarray, step: int, owned: range) -> list[int]:
        batch = order[step * self.batch_size : (step + 1) * self.batch_size]
        if len(batch) < self.logical_shards:
            batch = np.concatenate([batch, np.resize(order, self.logical_shards - len(batch))])
        ends = np.cumsum([0, *shard_sizes(len(batch), self.logical_shards)])
        indices: list[int] = batch[ends[owned.start] : ends[owned.stop]].tolist()
        return indices

    def state_dict(self) -> dict[str, Any]:
        """What the next `iter()` depends on; plain numbers."""
        return {
            "seed": self.seed,
            "epoch": self.epoch,
            "start": self._start,
            "batch_size": self.batch_size,
            "logical_shards": self.logical_shards,
            "num_replicas": self.num_replicas,
        }

    def load_state_dict(self, state: dict[str, Any], done: int = 0) -> None:
        """Return to the state that `state_dict` gave, on any number of ranks.

        Args:
            state: from `state_dict`, of any rank.
            done: batches that the rank has finished since; the coming epoch then begins with the
                step after those.

        Raises:
            CheckpointError: it is of another batch size or number of shards, which would give
                other steps.
        """
        for name in ("batch_size", "logical_shards"):
            if state[name] != getattr(self, name):
                raise CheckpointError(
                    f"ShardedBatchSampler: the state is of {name}={state[name]}, this sampler has "
                    f"{getattr(self, name)}; resume with the same number"
                )
        self.seed, self.epoch = state["seed"], state["epoch"]
        self._start = min(state["start"] + done, self._steps())


def _check(batch_size: int, logical_shards: int, num_replicas: int) -> None:
    name = "ShardedBatchSampler"
    if not 1 <= logical_shards <= batch_size:
        raise OptionError(
            f"{name}: batch_size={batch_size} samples of all ranks together cannot be cut into "
            f"logical_shards={logical_shards}; every shard needs one"
        )
    if num_replicas > logical_shards:
        raise OptionError(
            f"{name}: {num_replicas} ranks cannot share logical_shards={logical_shards}; every "
            "rank needs one"
        )
