"""A stream of samples, dealt to ranks and their workers."""

from __future__ import annotations

import itertools
import random
from typing import Any

import numpy as np
import pytest
from loader_samples import Shuffled

import allgrad as ag
from allgrad.errors import CheckpointError, OptionError
from allgrad.utils.data import DataLoader, DistributedIterableDataset

LENGTH = 23


def reads(
    ranks: int, epochs: int = 1, workers: int = 0, itself: bool = False, **options: Any
) -> list[list[list[int]]]:
    """Per rank and epoch the samples, in the order in which the loader hands them out."""
    found = []
    for rank in range(ranks):
        ag.manual_seed(rank)  # must not count
        random.seed(rank)
        np.random.seed(rank)
        stream = DistributedIterableDataset(
            Shuffled(LENGTH, itself), ranks, rank, shards_itself=itself, **options
        )
        # workers that are forked start faster; persistent ones below are fresh interpreters
        loader = DataLoader(
            stream, 1, num_workers=workers, multiprocessing_context="fork" if workers else None
        )
        found.append([[int(sample) for sample in loader] for _ in range(epochs)])
    return found


def woven(parts: list[list[int]]) -> list[int]:
    rows = itertools.zip_longest(*parts, fillvalue=None)
    return [item for row in rows for item in row if item is not None]


def test_ranks_share_one_stream_whatever_its_order() -> None:
    alone = reads(1, epochs=3)[0]
    assert len({tuple(epoch) for epoch in alone}) == 3  # the epoch counts by itself
    for epoch in alone:
        assert sorted(epoch) == list(range(LENGTH))
    for ranks in (2, 3):
        parts = reads(ranks, epochs=3, pad=False)
        for epoch in range(3):
            assert woven([part[epoch] for part in parts]) == alone[epoch]
    padded = reads(3)
    assert woven([p[0] for p in padded]) == alone[0] + alone[0][:1]
    assert woven([p[0] for p in reads(3, drop_last=True)]) == alone[0][: LENGTH // 3 * 3]


def test_workers_do_not_change_the_share_nor_its_order() -> None:
    wanted = reads(2, epochs=2)
    assert reads(2, epochs=2, workers=2) == wanted
    stream = DistributedIterableDataset(Shuffled(LENGTH), 2, 1)
    loader = DataLoader(stream, 1, num_workers=2, persistent_workers=True)
    assert [[int(s) for s in loader] for _ in range(2)] == wanted[1]
    stream.set_epoch(0)
    assert [int(s) for s in loader] == wanted[1][0]


def test_a_background_thread_does_not_change_them_either() -> None:
    """The order follows the default generator there, which belongs to the thread."""
    parts = []
    for rank in range(2):
        ag.manual_seed(rank)
        stream = DistributedIterableDataset(Shuffled(LENGTH, by="allgrad"), 2, rank, pad=False)
        parts.append([int(s) for s in DataLoader(stream, 1, prefetch_factor=2)])
    assert sorted(woven(parts)) == list(range(LENGTH))


@pytest.mark.parametrize("workers", [0, 2])
def test_a_stream_that_reads_its_part_only(workers: int) -> None:
    parts = [part[0] for part in reads(2, workers=workers, itself=True)]
    assert sorted(itertools.chain(*parts)) == list(range(LENGTH))
    assert abs(len(parts[0]) - len(parts[1])) <= 2


def test_lengths() -> None:
    for options in ({}, {"pad": False}, {"drop_last": True}):
        for rank, part in enumerate(reads(4, **options)):
            stream = DistributedIterableDataset(Shuffled(LENGTH), 4, rank, **options)
            assert len(stream) == len(part[0]) == len(DataLoader(stream, 1))
    with pytest.raises(TypeError, match="only Shuffled knows"):
        len(DistributedIterableDataset(Shuffled(LENGTH), 2, 1, shards_itself=True))


def test_what_is_drawn_outside_does_not_matter_and_is_left_alone() -> None:
    def drawn(between: int) -> tuple[list[int], list[float]]:
        random.seed(1)
        np.random.seed(1)
        ag.manual_seed(1)
        samples, noise = [], []
        for sample in DistributedIterableDataset(Shuffled(9), 2, 0):
            samples.append(sample)
            for _ in range(between):
                noise += [random.random(), float(np.random.rand()), float(ag.rand(1))]
        return samples, noise

    samples, noise = drawn(1)
    assert drawn(0)[0] == samples
    random.seed(1)
    np.random.seed(1)
    ag.manual_seed(1)
    plain = [f() for _ in samples for f in (random.random, np.random.rand, lambda: float(ag.rand(1)))]
    assert noise == plain


def test_resume() -> None:
    def loader(ranks: int = 2, workers: int = 0) -> DataLoader[Any]:
        stream = DistributedIterableDataset(Shuffled(LENGTH), ranks, 1)
        return DataLoader(stream, 2, num_workers=workers)

    first = loader()
    epochs = [[batch.tolist() for batch in first] for _ in range(2)]
    second = loader()
    list(second)
    at_the_end = second.state_dict()
    batches = iter(second)
    for _ in range(3):
        next(batches)
    third = loader()
    third.load_state_dict(second.state_dict())
    assert [batch.tolist() for batch in third] == epochs[1][3:]
    with pytest.raises(CheckpointError, match="middle of epoch 1 by 2 ranks, now there are 3"):
        loader(3).load_state_dict(second.state_dict())
    more = loader(3)
    more.load_state_dict(at_the_end)
    assert more.dataset.epoch == 1
    with pytest.raises(OptionError, match="DistributedIterableDataset"):
        DistributedIterableDataset(Shuffled(3), 2, 5)
