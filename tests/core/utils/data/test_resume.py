"""Resuming in the middle of an epoch gives the same bits as not stopping."""

from __future__ import annotations

import json
import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from loader_samples import Count, Noisy

import allgrad as ag
from allgrad.errors import CheckpointError
from allgrad.utils.data import (
    BatchSampler,
    DataLoader,
    DistributedSampler,
    RandomSampler,
    Sampler,
    SubsetRandomSampler,
    WeightedRandomSampler,
)
from allgrad.vision import transforms as T
from allgrad.vision.datasets import SyntheticImages

N = 13


def plain(batch: list) -> list:
    return [field.tolist() for field in batch]


def augmented() -> SyntheticImages:
    steps = [T.RandomCrop(8, padding=2), T.RandomHorizontalFlip(), T.ToTensor()]
    return SyntheticImages((3, 8, 8), 4, N, transform=T.Compose(steps))


class Fixed(Sampler):
    """A sampler of the user without any state."""

    def __iter__(self) -> object:
        return iter([3, 1, 2, 0, 7, 6])

    def __len__(self) -> int:
        return 6


LOADERS = {
    "sequential": lambda: DataLoader(Noisy(N, 4), 3),
    "shuffle": lambda: DataLoader(Noisy(N, 4), 3, shuffle=True),
    "drop_last": lambda: DataLoader(Noisy(N, 4), 3, shuffle=True, drop_last=True),
    "own generator": lambda: DataLoader(Noisy(N, 4), 3, shuffle=True, generator=ag.Generator(8)),
    "sampler with generator": lambda: DataLoader(
        Noisy(N, 4), 3, sampler=RandomSampler(range(N), generator=ag.Generator(7))
    ),
    "weighted": lambda: DataLoader(
        Noisy(N, 4), 3, sampler=WeightedRandomSampler(np.arange(1, N + 1), 10)
    ),
    "subset": lambda: DataLoader(Noisy(N, 4), 3, sampler=SubsetRandomSampler([1, 5, 7, 9, 12])),
    "distributed": lambda: DataLoader(Noisy(N, 4), 3, sampler=DistributedSampler(range(N), 2, 1)),
    "batch sampler": lambda: DataLoader(
        Noisy(N, 4), batch_sampler=BatchSampler(RandomSampler(range(N)), 3, False)
    ),
    "user's sampler": lambda: DataLoader(Noisy(N, 4), 2, sampler=Fixed()),
    "no batches": lambda: DataLoader(Noisy(N, 4), batch_size=None, shuffle=True),
    "augmented in batches": lambda: DataLoader(augmented(), 3, shuffle=True),
    "thread": lambda: DataLoader(augmented(), 3, shuffle=True, prefetch_factor=2),
    "stream": lambda: DataLoader(Count(N), 3),
}


def as_lists(batch: object) -> object:
    if isinstance(batch, list):
        return [as_lists(b) for b in batch]
    return batch.tolist() if hasattr(batch, "tolist") else batch


@pytest.mark.parametrize("name", LOADERS)
@pytest.mark.parametrize("stop", [0, 1, 3, "end"])
def test_resumed_equals_uninterrupted(name: str, stop: int | str) -> None:
    make = LOADERS[name]
    ag.manual_seed(11)
    loader = make()
    epochs = [[as_lists(b) for b in loader] for _ in range(3)]

    ag.manual_seed(11)
    loader = make()
    seen = [as_lists(b) for b in loader]  # a whole epoch first
    iterator = iter(loader)
    for _ in range(len(epochs[1]) if stop == "end" else min(stop, len(epochs[1]))):
        seen.append(as_lists(next(iterator)))
    saved = json.loads(json.dumps(loader.state_dict()))
    generator = ag.random.default_generator().get_state()

    ag.manual_seed(999)
    random.seed(999)
    other = make()
    other.load_state_dict(saved)
    assert other.state_dict() == saved
    ag.random.default_generator().set_state(generator)
    seen += [as_lists(b) for b in other]
    seen += [as_lists(b) for b in other]
    assert seen == epochs[0] + epochs[1] + epochs[2]


@settings(deadline=None, max_examples=40)
@given(
    n=st.integers(1, 40),
    batch_size=st.integers(1, 9),
    epochs=st.integers(0, 2),
    stop=st.integers(0, 40),
    drop_last=st.booleans(),
    seed=st.integers(0, 10**6),
)
def test_any_stop(
    n: int, batch_size: int, epochs: int, stop: int, drop_last: bool, seed: int
) -> None:
    def make() -> DataLoader:
        ag.manual_seed(seed)
        return DataLoader(Noisy(n, 2), batch_size, shuffle=True, drop_last=drop_last)

    loader = make()
    for _ in range(epochs):
        list(loader)
    whole = [plain(b) for b in loader]

    loader = make()
    for _ in range(epochs):
        list(loader)
    iterator = iter(loader)
    stop = min(stop, len(whole))
    first = [plain(next(iterator)) for _ in range(stop)]
    fresh = make()
    fresh.load_state_dict(loader.state_dict())
    assert first + [plain(b) for b in fresh] == whole


def test_state_after_the_end_begins_the_next_epoch() -> None:
    ag.manual_seed(1)
    loader = DataLoader(Noisy(N, 4), 4, shuffle=True, generator=ag.Generator(3))
    list(loader)
    state = loader.state_dict()
    assert (state["epoch"], state["batches"], state["seed"]) == (1, 0, None)
    expected = [plain(b) for b in loader]
    other = DataLoader(Noisy(N, 4), 4, shuffle=True, generator=ag.Generator(99))
    other.load_state_dict(state)
    assert [plain(b) for b in other] == expected


def test_resume_with_another_batch_size_keeps_the_order() -> None:
    ag.manual_seed(1)
    loader = DataLoader(Noisy(N, 4), 4, shuffle=True)
    iterator = iter(loader)
    seen = next(iterator)[0].tolist()
    other = DataLoader(Noisy(N, 4), 3, shuffle=True)
    other.load_state_dict(loader.state_dict())
    rest = [b[0].tolist() for b in other]
    assert [len(b) for b in rest] == [3, 3, 3]
    assert sorted(seen + sum(rest, [])) == list(range(N))


@pytest.mark.parametrize(("old", "new"), [(2, 3), (3, 1), (4, 2), (1, 4)])
def test_resume_on_another_number_of_ranks(old: int, new: int) -> None:
    """No sample is lost or repeated, and each keeps its augmentation."""

    def make(ranks: int, rank: int) -> DataLoader:
        ag.manual_seed(6)
        data = augmented()
        return DataLoader(data, 1, sampler=DistributedSampler(data, ranks, rank, pad=False))

    whole = sorted(str(plain(b)) for b in make(1, 0))
    states, seen = [], []
    for rank in range(old):
        loader = make(old, rank)
        iterator = iter(loader)
        seen += [plain(next(iterator)) for _ in range(2)]
        states.append(loader.state_dict())
    for rank in range(new):
        loader = make(new, rank)
        loader.load_state_dict(states[0])
        seen += [plain(b) for b in loader]
        assert len([None for _ in loader]) == len(loader)
    assert sorted(map(str, seen)) == whole


def test_a_sampler_that_cannot_be_repeated_is_refused() -> None:
    class Elsewhere(Sampler):
        def __iter__(self) -> object:
            order = list(range(N))
            random.shuffle(order)
            return iter(order)

    random.seed(1)
    loader = DataLoader(Noisy(N, 4), 2, sampler=Elsewhere())
    iterator = iter(loader)
    for _ in range(3):
        next(iterator)
    other = DataLoader(Noisy(N, 4), 2, sampler=Elsewhere())
    other.load_state_dict(loader.state_dict())
    with pytest.raises(CheckpointError, match="another order than before"):
        iter(other)


def test_a_smaller_data_set_is_refused() -> None:
    loader = DataLoader(Noisy(N, 4), 2)
    iterator = iter(loader)
    for _ in range(4):
        next(iterator)
    other = DataLoader(Noisy(5, 4), 2)
    other.load_state_dict(loader.state_dict())
    with pytest.raises(CheckpointError, match="after 8 .* ends after 5"):
        iter(other)


@pytest.mark.parametrize(
    ("state", "message"),
    [({}, "expected what state_dict"), ([], "came list"), ({"version": 2}, "with the keys")],
)
def test_a_state_of_something_else(state: object, message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        DataLoader(Noisy(N, 4)).load_state_dict(state)


def test_a_state_of_a_later_version() -> None:
    loader = DataLoader(Noisy(N, 4))
    with pytest.raises(CheckpointError, match="expected version 1, came 2"):
        loader.load_state_dict({**loader.state_dict(), "version": 2})
