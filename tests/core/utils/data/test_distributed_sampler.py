"""Which samples each rank visits: exact lists, and properties over all sizes."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from allgrad.errors import DatasetError, DistributedError, OptionError
from allgrad.utils.data import DistributedSampler


def shares(length: int, ranks: int, **options: object) -> list[list[int]]:
    return [list(DistributedSampler(range(length), ranks, r, **options)) for r in range(ranks)]


@pytest.mark.parametrize(
    ("length", "ranks", "options", "expected"),
    [
        (6, 2, {}, [[0, 2, 4], [1, 3, 5]]),
        (7, 2, {}, [[0, 2, 4, 6], [1, 3, 5, 0]]),
        (7, 3, {}, [[0, 3, 6], [1, 4, 0], [2, 5, 1]]),
        (2, 5, {}, [[0], [1], [0], [1], [0]]),
        (7, 2, {"drop_last": True}, [[0, 2, 4], [1, 3, 5]]),
        (7, 3, {"drop_last": True}, [[0, 3], [1, 4], [2, 5]]),
        (7, 2, {"pad": False}, [[0, 2, 4, 6], [1, 3, 5]]),
        (7, 3, {"pad": False}, [[0, 3, 6], [1, 4], [2, 5]]),
        (2, 4, {"pad": False}, [[0], [1], [], []]),
        (1, 1, {}, [[0]]),
    ],
)
def test_remainders_written_out(
    length: int, ranks: int, options: dict, expected: list[list[int]]
) -> None:
    assert shares(length, ranks, shuffle=False, **options) == expected


sizes = {"length": st.integers(1, 80), "ranks": st.integers(1, 9), "seed": st.integers(0, 99)}


@given(**sizes, shuffle=st.booleans())
def test_without_padding_every_sample_comes_exactly_once(
    length: int, ranks: int, seed: int, shuffle: bool
) -> None:
    parts = shares(length, ranks, seed=seed, shuffle=shuffle, pad=False)
    assert sorted(i for part in parts for i in part) == list(range(length))
    lengths = [len(p) for p in parts]
    assert max(lengths) - min(lengths) <= 1
    for rank, part in enumerate(parts):
        assert len(DistributedSampler(range(length), ranks, rank, pad=False)) == len(part)


@given(**sizes)
def test_with_padding_all_ranks_get_equally_many(length: int, ranks: int, seed: int) -> None:
    parts = shares(length, ranks, seed=seed)
    assert {len(p) for p in parts} == {-(-length // ranks)}
    assert {i for part in parts for i in part} == set(range(length))
    sampler = DistributedSampler(range(length), ranks, 0)
    assert (sampler.num_samples, sampler.total_size) == (len(parts[0]), len(parts[0]) * ranks)


@given(**sizes)
def test_with_drop_last_nothing_comes_twice(length: int, ranks: int, seed: int) -> None:
    if length < ranks:
        with pytest.raises(DatasetError, match=f"{ranks} ranks share {length} samples"):
            DistributedSampler(range(length), ranks, 0, drop_last=True)
        return
    parts = shares(length, ranks, seed=seed, drop_last=True)
    visited = [i for part in parts for i in part]
    assert len(set(visited)) == len(visited) == length // ranks * ranks


@given(**sizes, epoch=st.integers(0, 5))
def test_the_epoch_counts_by_itself(length: int, ranks: int, seed: int, epoch: int) -> None:
    alone = DistributedSampler(range(length), ranks, ranks - 1, seed=seed)
    for _ in range(epoch):
        iter(alone)
    told = DistributedSampler(range(length), ranks, ranks - 1, seed=seed)
    told.set_epoch(epoch)
    assert list(alone) == list(told) == told.indices(epoch).tolist()


def test_set_epoch_every_time_as_in_pytorch_changes_nothing() -> None:
    told, silent = (DistributedSampler(range(40), 2, 1, seed=3) for _ in range(2))
    for epoch in range(3):
        told.set_epoch(epoch)
        assert list(told) == list(silent)
    orders = {tuple(silent) for _ in range(3)}
    assert len(orders) == 3


@given(**sizes, done=st.integers(0, 20), new_ranks=st.integers(1, 9))
def test_an_epoch_continues_on_another_number_of_ranks(
    length: int, ranks: int, seed: int, done: int, new_ranks: int
) -> None:
    old = [DistributedSampler(range(length), ranks, r, seed=seed, pad=False) for r in range(ranks)]
    state = json.loads(json.dumps(old[0].state_dict()))
    done = min(done, length // ranks)
    seen = [i for s in old for i in list(s)[:done]]
    rest = []
    for rank in range(new_ranks):
        sampler = DistributedSampler(range(length), new_ranks, rank, seed=77, pad=False)
        sampler.load_state_dict(state, done=done)
        share = list(sampler)
        rest += share
        assert sampler.epoch == 1
        assert len(list(sampler)) == len(sampler)  # the next epoch is whole again
    assert sorted(seen + rest) == list(range(length))


def test_errors_have_numbers() -> None:
    with pytest.raises(DistributedError, match=r"call allgrad\.ddp\.init_process_group"):
        DistributedSampler(range(3))
    with pytest.raises(OptionError, match="rank=2, num_replicas=2"):
        DistributedSampler(range(3), 2, 2)
    with pytest.raises(DatasetError, match=r"range is empty \(0 samples\)"):
        DistributedSampler(range(0), 2, 0)


@pytest.mark.torch
@pytest.mark.parametrize("length", [1, 2, 5, 6, 7, 23])
@pytest.mark.parametrize("ranks", [1, 2, 3, 4])
@pytest.mark.parametrize("drop_last", [False, True])
def test_unshuffled_lists_equal_pytorchs(length: int, ranks: int, drop_last: bool) -> None:
    torch_data = pytest.importorskip("torch.utils.data")
    if drop_last and length < ranks:
        pytest.skip("refused here")
    for rank in range(ranks):
        arguments = (range(length), ranks, rank, False, 0, drop_last)
        theirs = list(torch_data.DistributedSampler(*arguments))
        assert list(DistributedSampler(*arguments)) == theirs
