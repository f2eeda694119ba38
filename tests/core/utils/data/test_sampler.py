"""The orders in which one rank visits its samples."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

import allgrad as ag
from allgrad.errors import DatasetError, OptionError
from allgrad.utils.data import (
    BatchSampler,
    RandomSampler,
    SequentialSampler,
    SubsetRandomSampler,
    WeightedRandomSampler,
)


def seeded(seed: int = 0) -> ag.Generator:
    return ag.Generator().manual_seed(seed)


def test_sequential() -> None:
    assert list(SequentialSampler(range(4))) == [0, 1, 2, 3]


@given(n=st.integers(1, 60), seed=st.integers(0, 2**40))
def test_random_is_a_permutation_and_repeats_with_its_seed(n: int, seed: int) -> None:
    order = list(RandomSampler(range(n), generator=seeded(seed)))
    assert sorted(order) == list(range(n))
    assert order == list(RandomSampler(range(n), generator=seeded(seed)))


def test_random_differs_between_epochs_and_follows_the_default_generator() -> None:
    sampler = RandomSampler(range(50))
    ag.manual_seed(1)
    first, second = list(sampler), list(sampler)
    ag.manual_seed(1)
    assert first != second
    assert list(sampler) == first


@given(n=st.integers(1, 20), count=st.integers(1, 70), replacement=st.booleans())
def test_random_with_a_number_of_samples(n: int, count: int, replacement: bool) -> None:
    sampler = RandomSampler(range(n), replacement, count, generator=seeded())
    order = list(sampler)
    assert len(order) == len(sampler) == count
    assert set(order) <= set(range(n))
    if not replacement:  # whole orders one after the other
        assert sorted(order[:n]) == sorted(range(n))[: len(order[:n])] or count < n


def test_random_errors() -> None:
    with pytest.raises(DatasetError, match="0 samples"):
        RandomSampler([])
    with pytest.raises(OptionError, match="came 0"):
        RandomSampler(range(3), num_samples=0)


def test_subset_random() -> None:
    sampler = SubsetRandomSampler([7, 3, 5], generator=seeded())
    assert sorted(sampler) == [3, 5, 7]
    assert len(sampler) == 3


def test_weighted() -> None:
    drawn = list(WeightedRandomSampler([0, 1, 0, 3], 4000, generator=seeded()))
    assert set(drawn) == {1, 3}
    assert 0.70 < drawn.count(3) / len(drawn) < 0.80
    assert sorted(WeightedRandomSampler([2, 0, 1], 2, replacement=False)) == [0, 2]


@pytest.mark.parametrize(
    ("weights", "count", "replacement", "message"),
    [
        ([1, 2], 0, True, "came 0"),
        ([[1, 2]], 1, True, r"shape \(1, 2\)"),
        ([1, -1], 1, True, ">= 0"),
        ([1, 0], 2, False, "2 samples cannot be drawn from 1"),
        ([0, 0], 2, True, "from 0 positive"),
    ],
)
def test_weighted_errors(weights: list, count: int, replacement: bool, message: str) -> None:
    with pytest.raises(OptionError, match=message):
        WeightedRandomSampler(weights, count, replacement)


def test_batches_with_and_without_the_remainder() -> None:
    assert list(BatchSampler(range(7), 3, False)) == [[0, 1, 2], [3, 4, 5], [6]]
    assert list(BatchSampler(range(7), 3, True)) == [[0, 1, 2], [3, 4, 5]]
    assert len(BatchSampler(range(7), 3, False)) == 3
    assert len(BatchSampler(range(7), 3, True)) == 2
    assert len(BatchSampler(range(6), 3, False)) == len(BatchSampler(range(6), 3, True)) == 2
    with pytest.raises(OptionError, match="came 0"):
        BatchSampler(range(3), 0, False)


def test_state_of_an_own_generator_repeats_the_order() -> None:
    sampler = RandomSampler(range(30), generator=seeded(4))
    list(sampler)
    state = sampler.state_dict()
    second = list(sampler)
    other = RandomSampler(range(30), generator=seeded(9))
    other.load_state_dict(state)
    assert list(other) == second
