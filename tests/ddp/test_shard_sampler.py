"""Which samples each rank visits in reproducible mode, and what they draw."""

from __future__ import annotations

import random
from itertools import chain
from typing import Any

import numpy as np
import pytest

import allgrad as ag
from allgrad.ddp import ShardedBatchSampler
from allgrad.ddp.communicators.tree import shards_of
from allgrad.ddp.shard_sampler import shard_sizes
from allgrad.errors import CheckpointError, DatasetError, OptionError
from allgrad.utils.data import DataLoader, Dataset, TensorDataset
from allgrad.vision import datasets, transforms


def steps_of(size: int, length: int = 53, **options: Any) -> list[list[int]]:
    """The samples of every step, the ranks' batches one after the other."""
    batches = [
        list(ShardedBatchSampler(range(length), 12, 5, size, rank, **options))
        for rank in range(size)
    ]
    return [list(chain(*step)) for step in zip(*batches, strict=True)]


@pytest.mark.parametrize("length", [48, 53, 50, 49])
@pytest.mark.parametrize("drop_last", [False, True])
def test_the_order_does_not_depend_on_the_number_of_ranks(length: int, drop_last: bool) -> None:
    wanted = steps_of(1, length, seed=3, drop_last=drop_last)
    for size in range(2, 6):
        assert steps_of(size, length, seed=3, drop_last=drop_last) == wanted
    samples = list(chain(*wanted))
    if drop_last:
        assert len(samples) == length // 12 * 12
        assert len(set(samples)) == len(samples)
    else:
        assert set(samples) == set(range(length))
        assert len(samples) - length == (max(0, 5 - length % 12) if length % 12 else 0)


def test_a_rank_can_tell_its_shards_from_the_size_of_its_batch() -> None:
    for shards in range(1, 12):
        for count in range(shards, 60):
            whole = shard_sizes(count, shards)
            assert sum(whole) == count
            for size in range(1, shards + 1):
                for rank in range(size):
                    owned = shards_of(rank, size, shards)
                    mine = whole[owned.start : owned.stop]
                    assert shard_sizes(sum(mine), len(mine)) == mine


def test_epochs_differ_and_count_by_themselves() -> None:
    sampler = ShardedBatchSampler(range(24), 12, 4, 2, 1, seed=1)
    first, second = list(sampler), list(sampler)
    assert first != second
    sampler.set_epoch(0)
    assert list(sampler) == first
    assert len(sampler) == 2


def test_resume_at_another_number_of_ranks_goes_on_with_the_next_step() -> None:
    images = TensorDataset(ag.arange(53))
    wanted = steps_of(1, 53, seed=5)
    for done in (0, 1, 3):
        for before, after in ((3, 2), (2, 5), (4, 1), (3, 3)):
            saved = []
            for rank in range(before):
                sampler = ShardedBatchSampler(images, 12, 5, before, rank, seed=5)
                loader = DataLoader(images, batch_sampler=sampler)
                batches = iter(loader)
                for _ in range(done):
                    next(batches)
                saved.append(loader.state_dict())
            rest = []
            for rank in range(after):
                sampler = ShardedBatchSampler(images, 12, 5, after, rank, seed=99)
                loader = DataLoader(images, batch_sampler=sampler)
                loader.load_state_dict(saved[rank if before == after else 0])
                rest.append([batch[0].tolist() for batch in loader])
                assert len(rest[-1]) == len(wanted) - done
            assert [list(chain(*step)) for step in zip(*rest, strict=True)] == wanted[done:]


class Noisy(Dataset[Any]):
    """Draws from all random sources that a user may draw from."""

    def __len__(self) -> int:
        return 24

    def __getitem__(self, index: int) -> tuple[int, Any]:
        return index, [random.random(), float(np.random.rand()), ag.rand(1).item()]


def drawn(size: int, workers: int) -> dict[int, list[float]]:
    found = {}
    for rank in range(size):
        ag.manual_seed(100 + rank)  # must not count
        sampler = ShardedBatchSampler(range(24), 12, 4, size, rank, seed=2)
        loader = DataLoader(Noisy(), batch_sampler=sampler, num_workers=workers)
        for indices, values in loader:
            found |= {int(i): [float(v[j]) for v in values] for j, i in enumerate(indices)}
    return found


def test_what_a_sample_draws_depends_on_the_sample_alone() -> None:
    wanted = drawn(1, 0)
    assert len({tuple(v) for v in wanted.values()}) == 24
    assert drawn(3, 0) == wanted
    assert drawn(2, 1) == wanted


def test_augmentation_depends_on_the_sample_alone() -> None:
    transform = transforms.Compose(
        [transforms.RandomCrop(8, padding=2), transforms.RandomHorizontalFlip()]
    )
    images = datasets.SyntheticImages((1, 8, 8), size=24, transform=transform)

    def pictures(size: int) -> np.ndarray:
        shares = []
        for rank in range(size):
            ag.manual_seed(rank)
            sampler = ShardedBatchSampler(images, 24, 4, size, rank, seed=2)
            loader = DataLoader(images, batch_sampler=sampler)
            shares += [np.stack([np.asarray(x) for x in batch]) for batch, _ in loader]
        return np.concatenate(shares)

    assert (pictures(3) == pictures(1)).all()


def test_errors() -> None:
    with pytest.raises(OptionError, match="every shard needs one"):
        ShardedBatchSampler(range(9), 4, 5, 1, 0)
    with pytest.raises(OptionError, match="every rank needs one"):
        ShardedBatchSampler(range(9), 8, 4, 5, 0)
    with pytest.raises(OptionError, match="rank=2"):
        ShardedBatchSampler(range(9), 8, 4, 2, 2)
    with pytest.raises(DatasetError, match="give no batch"):
        ShardedBatchSampler(range(9), 10, 4, 2, 1, drop_last=True)
    sampler = ShardedBatchSampler(range(9), 8, 4, 2, 1)
    with pytest.raises(CheckpointError, match="logical_shards=4"):
        ShardedBatchSampler(range(9), 8, 2, 2, 1).load_state_dict(sampler.state_dict())
