"""Any sampler or batch sampler, dealt to several ranks."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import allgrad as ag
from allgrad.errors import CheckpointError, DatasetError, DistributedError, OptionError
from allgrad.random import Generator
from allgrad.utils.data import (
    BatchSampler,
    DataLoader,
    DistributedSamplerWrapper,
    RandomSampler,
    SequentialSampler,
    TensorDataset,
    WeightedRandomSampler,
)


class Restless:
    """Indices in an order that follows all random sources that users draw from."""

    def __init__(self, length: int = 17) -> None:
        self.length = length

    def __len__(self) -> int:
        return self.length

    def __iter__(self) -> Iterator[int]:
        order = list(range(self.length))
        random.shuffle(order)
        yield from np.random.permutation(order)[RandomSampler(order).__iter__().__next__() :]
        yield from order


class Endless:
    """Without a length and an end."""

    def __iter__(self) -> Iterator[int]:
        for number in itertools.count():
            yield number * 100 + int(ag.randint(0, 100, (1,)))


def shares(make: Any, ranks: int, epochs: int = 1, **options: Any) -> list[list[Any]]:
    """Per rank, what it visits; each rank's own generators stand elsewhere."""
    found = []
    for rank in range(ranks):
        ag.manual_seed(50 + rank)
        random.seed(rank)
        np.random.seed(rank)
        wrapper = DistributedSamplerWrapper(make(), ranks, rank, **options)
        found.append([item for _ in range(epochs) for item in wrapper])
        if epochs == 1 and not isinstance(make(), Restless):
            wrapper.set_epoch(0)
            assert len(found[-1]) == len(wrapper)
    return found


def woven(parts: list[list[Any]]) -> list[Any]:
    """The items of all ranks in the order of the sampler."""
    rows = itertools.zip_longest(*parts, fillvalue=None)
    return [item for row in rows for item in row if item is not None]


@pytest.mark.parametrize("ranks", [1, 2, 3, 5])
@pytest.mark.parametrize("length", [1, 6, 17])
def test_every_item_is_visited_as_often_as_asked(ranks: int, length: int) -> None:
    def make() -> RandomSampler:
        return RandomSampler(range(length))

    exact = woven(shares(make, ranks, pad=False))
    assert sorted(exact) == list(range(length))
    padded = shares(make, ranks)
    assert {len(part) for part in padded} == {-(-length // ranks)}
    assert woven(padded) == [exact[i % length] for i in range(-(-length // ranks) * ranks)]
    cut = shares(make, ranks, drop_last=True)
    assert woven(cut) == exact[: length // ranks * ranks]
    assert woven(shares(make, ranks, seed=1, pad=False)) != exact or length == 1


def test_ranks_agree_whatever_the_sampler_draws_from() -> None:
    alone = shares(Restless, 1, epochs=3)[0]
    assert len(alone) > 60
    assert woven(shares(Restless, 1, epochs=3)) == alone  # not the rank's own generators
    one_epoch = shares(Restless, 1)[0]
    assert alone[: len(one_epoch)] == one_epoch
    assert alone[len(one_epoch) :][: len(one_epoch)] != one_epoch
    assert woven(shares(Restless, 3, pad=False)) == one_epoch


def test_the_random_sources_outside_are_left_alone() -> None:
    def three() -> list[float]:
        return [random.random(), float(np.random.rand()), float(ag.rand(1))]

    def seeded() -> None:
        random.seed(1)
        np.random.seed(1)
        ag.manual_seed(1)

    seeded()
    wanted = three()
    seeded()
    list(DistributedSamplerWrapper(Restless(), 2, 0))
    assert three() == wanted


def test_a_sampler_without_length_may_be_endless() -> None:
    def part(ranks: int, rank: int) -> list[int]:
        ag.manual_seed(rank)
        wrapper = DistributedSamplerWrapper(Endless(), ranks, rank)
        with pytest.raises(TypeError):
            len(wrapper)
        items = iter(wrapper)
        taken = []
        for _ in range(12 // ranks):
            ag.rand(3)  # what is drawn in between must not count
            taken.append(next(items))
        return taken

    wanted = part(1, 0)
    assert woven([part(3, rank) for rank in range(3)]) == wanted
    assert [item // 100 for item in wanted] == list(range(12))


def test_batches_go_to_ranks_whole_or_in_parts() -> None:
    def batches() -> BatchSampler:
        return BatchSampler(SequentialSampler(range(10)), 4, drop_last=False)

    assert shares(batches, 2, pad=False) == [[[0, 1, 2, 3], [8, 9]], [[4, 5, 6, 7]]]
    assert shares(batches, 2)[1] == [[4, 5, 6, 7], [0, 1, 2, 3]]
    assert shares(batches, 2, split_batches=True) == [[[0, 2], [4, 6], [8]], [[1, 3], [5, 7], [9]]]
    assert shares(batches, 3, split_batches=True)[2] == [[2, 1], [6, 5], [8]]
    assert shares(batches, 2, split_batches=True, drop_last=True)[0] == [[0, 2], [4, 6], [8]]
    with pytest.raises(DatasetError, match=r"a batch of 2 samples leaves rank 2 of 3"):
        shares(batches, 3, split_batches=True, pad=False)


def test_a_generator_of_its_own_goes_on_over_epochs_and_is_saved() -> None:
    def make() -> WeightedRandomSampler:
        generator = Generator().manual_seed(4)
        return WeightedRandomSampler([1.0, 2.0, 3.0], 8, generator=generator)

    parts = shares(make, 2, epochs=2)
    assert woven(parts) == shares(make, 1, epochs=2)[0]
    wrapper = DistributedSamplerWrapper(make(), 2, 1)
    assert wrapper.replacement  # so the loader does not give the same sample the same augmentation
    list(wrapper)
    other = DistributedSamplerWrapper(make(), 2, 1, seed=9)
    other.load_state_dict(wrapper.state_dict())
    assert list(other) == list(wrapper) == parts[1][4:]


@pytest.mark.parametrize(
    ("as_batches", "split"), [(False, False), (True, False), (True, True)]
)
def test_a_loader_resumes_at_another_number_of_ranks(as_batches: bool, split: bool) -> None:
    data = TensorDataset(ag.arange(42))

    def loader(ranks: int, rank: int) -> DataLoader[Any]:
        inner: Any = RandomSampler(data)
        if not as_batches:
            return DataLoader(data, 3, sampler=DistributedSamplerWrapper(inner, ranks, rank))
        inner = BatchSampler(inner, 6, drop_last=True)
        wrapper = DistributedSamplerWrapper(inner, ranks, rank, split_batches=split)
        return DataLoader(data, batch_sampler=wrapper)

    whole = [batch[0].tolist() for batch in loader(1, 0)]
    before, left = 2, []
    old = [loader(before, rank) for rank in range(before)]
    done = 0
    for one in old:
        batches = iter(one)
        done += sum(len(next(batches)[0]) for _ in range(2))
    for rank in range(3):
        new = loader(3, rank)
        new.load_state_dict(old[0].state_dict())
        left += [sample for batch in new for sample in batch[0].tolist()]
    flat = list(itertools.chain(*whole))
    assert sorted(left) == sorted(flat[done:])
    same = loader(2, 1)
    same.load_state_dict(old[1].state_dict())
    rest = [batch[0].tolist() for batch in same]
    assert rest == [batch[0].tolist() for batch in loader(2, 1)][2:]


def test_errors() -> None:
    with pytest.raises(DistributedError, match="no process group"):
        DistributedSamplerWrapper(range(3))
    with pytest.raises(OptionError, match="DistributedSamplerWrapper: expected 0 <= rank"):
        DistributedSamplerWrapper(range(3), 2, 2)
    wrapper = DistributedSamplerWrapper([[1, 2]], 2, 0, split_batches=True)
    with pytest.raises(CheckpointError, match="split_batches=False"):
        wrapper.load_state_dict(DistributedSamplerWrapper([], 2, 0).state_dict())
