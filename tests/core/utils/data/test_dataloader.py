"""The loader: arguments, order, determinism."""

from __future__ import annotations

import random
import threading

import numpy as np
import pytest
from loader_samples import Count, Failing, Noisy, double

import allgrad as ag
from allgrad.errors import OptionError
from allgrad.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    DistributedSampler,
    RandomSampler,
    SequentialSampler,
    WeightedRandomSampler,
)


def rows(loader: DataLoader) -> list[list]:
    """Every batch as plain lists, so that equal means equal bits."""
    return [[field.tolist() for field in batch] for batch in loader]


def indices(loader: DataLoader) -> list[list[int]]:
    return [batch[0].tolist() for batch in loader]


def test_batches_in_order_and_the_remainder() -> None:
    assert indices(DataLoader(Noisy(7, 4), 3)) == [[0, 1, 2], [3, 4, 5], [6]]
    assert indices(DataLoader(Noisy(7, 4), 3, drop_last=True)) == [[0, 1, 2], [3, 4, 5]]
    assert [len(DataLoader(Noisy(7, 4), 3, drop_last=d)) for d in (False, True)] == [3, 2]
    assert len(DataLoader(Noisy(7, 4), batch_size=None)) == 7


def test_samplers_given() -> None:
    data = Noisy(6, 4)
    assert indices(DataLoader(data, 2, sampler=[5, 0, 3])) == [[5, 0], [3]]
    assert indices(DataLoader(data, batch_sampler=[[1], [2, 3]])) == [[1], [2, 3]]
    batches = BatchSampler(SequentialSampler(data), 4, False)
    assert indices(DataLoader(data, batch_sampler=batches)) == [[0, 1, 2, 3], [4, 5]]
    assert isinstance(DataLoader(data, 2, shuffle=True).sampler, RandomSampler)
    assert isinstance(DataLoader(data, 2).batch_sampler, BatchSampler)


def test_shuffle_is_new_every_epoch_and_repeats_with_the_seed() -> None:
    loader = DataLoader(Noisy(40, 4), 8, shuffle=True)
    ag.manual_seed(1)
    first, second = indices(loader), indices(loader)
    ag.manual_seed(1)
    assert indices(loader) == first != second
    assert sorted(sum(first, [])) == list(range(40))


def test_an_own_generator_leaves_the_default_one_alone() -> None:
    ag.manual_seed(1)
    expected = ag.random.default_generator().numpy.random()
    ag.manual_seed(1)
    loader = DataLoader(Noisy(9, 4), 4, shuffle=True, generator=ag.Generator().manual_seed(5))
    first = rows(loader)
    assert ag.random.default_generator().numpy.random() == expected
    loader.generator.manual_seed(5)
    assert rows(loader) == first


def test_the_users_streams_are_not_touched() -> None:
    def draw() -> tuple[float, float]:
        return random.random(), float(np.random.rand())

    random.seed(1)
    np.random.seed(1)
    expected = draw()
    random.seed(1)
    np.random.seed(1)
    rows(DataLoader(Noisy(9, 4), 4, shuffle=True))
    assert draw() == expected


def test_noise_differs_between_samples_batches_and_epochs() -> None:
    loader = DataLoader(Noisy(8, 4), 4)
    columns = [row for epoch in (rows(loader), rows(loader)) for batch in epoch for row in batch[1]]
    assert len(set(columns)) == 16


def test_background_thread_gives_the_same_batches() -> None:
    def batches(**options: object) -> list[list]:
        ag.manual_seed(2)
        loader = DataLoader(Noisy(), 4, shuffle=True, **options)
        # `random` and `numpy.random` belong to the user's thread and are not seeded there.
        return [batch[:2] + batch[4:] for epoch in (0, 1) for batch in rows(loader)]

    assert batches(prefetch_factor=3) == batches() == batches(prefetch_factor=1)


def test_background_thread_works_ahead_and_ends() -> None:
    made = []

    class Watched(Noisy):
        def __getitem__(self, index: int) -> tuple:
            made.append(threading.current_thread().name)
            return super().__getitem__(index)

    before = threading.active_count()
    iterator = iter(DataLoader(Watched(20, 4), 2, prefetch_factor=2))
    next(iterator)
    del iterator  # abandoned in the middle
    assert set(made) == {"allgrad-data"}
    assert len(made) < 20
    unused = iter(DataLoader(Watched(20, 4), 2, prefetch_factor=2))
    del unused
    assert threading.active_count() == before


@pytest.mark.parametrize("options", [{}, {"prefetch_factor": 2}])
def test_an_error_in_the_data_set_names_sample_and_batch(options: dict) -> None:
    iterator = iter(DataLoader(Failing("raise"), 4, **options))
    assert next(iterator).tolist() == [0, 1, 2, 3]
    with pytest.raises(KeyError, match="no picture 5") as caught:
        next(iterator)
    assert caught.value.__notes__ == [
        "DataLoader: while reading sample 5",
        "DataLoader: while making batch 1 (samples 4, 5, 6, 7)",
    ]


def test_collate_fn_of_the_user() -> None:
    assert list(DataLoader(range(5), 2, collate_fn=double)) == [[0, 2], [4, 6], [8]]


def test_keys_need_not_be_integers() -> None:
    class ByName(Dataset):
        def __len__(self) -> int:
            return 2

        def __getitem__(self, name: str) -> str:
            return name.upper()

    assert [list(b) for b in DataLoader(ByName(), 2, sampler=["a", "b", "c"])] == [
        ["A", "B"], ["C"],
    ]  # fmt: skip


def test_streams_of_samples() -> None:
    assert indices(DataLoader(Count(7), 3)) == [[0, 1, 2], [3, 4, 5], [6]]
    assert indices(DataLoader(Count(7), 3, drop_last=True)) == [[0, 1, 2], [3, 4, 5]]
    assert len(DataLoader(Count(7), 3)) == 3
    assert [s[0] for s in DataLoader(Count(3), batch_size=None)] == [0, 1, 2]


def test_a_rank_without_samples_gets_no_batch() -> None:
    sampler = DistributedSampler(range(2), 4, 3, pad=False)
    loader = DataLoader(Noisy(2, 4), 8, sampler=sampler)
    assert (list(loader), len(loader), loader.state_dict()["epoch"]) == ([], 0, 1)


def test_two_iterators_at_once() -> None:
    loader = DataLoader(Noisy(4, 4), 2)
    assert [(a[0].tolist(), b[0].tolist()) for a, b in zip(loader, loader)] == [
        ([0, 1], [0, 1]), ([2, 3], [2, 3]),
    ]  # fmt: skip


def test_augmentation_of_a_sample_does_not_depend_on_ranks_or_batches() -> None:
    """The same seed gives the same random numbers per sample on 1 rank and on 3."""
    from allgrad.utils.data.streams import current

    class Augmented(Dataset):
        def __len__(self) -> int:
            return 12

        def __getitem__(self, index: int) -> tuple[int, float]:
            return index, current().uniform()

    def noise(ranks: int, batch_size: int, epoch: int) -> dict[int, float]:
        found = {}
        for rank in range(ranks):
            ag.manual_seed(4)
            ag.random.default_generator().numpy.random(rank)  # ranks may draw differently
            sampler = DistributedSampler(Augmented(), ranks, rank)
            loader = DataLoader(Augmented(), batch_size, sampler=sampler)
            for _ in range(epoch):
                rows(loader)
            for batch in rows(loader):
                found.update(zip(*batch))
        return found

    assert noise(1, 4, 1) == noise(3, 2, 1) == noise(2, 5, 1)
    assert noise(1, 4, 0) != noise(1, 4, 1)


def test_repeated_samples_get_other_noise() -> None:
    from allgrad.utils.data.streams import current

    class Augmented(Dataset):
        def __len__(self) -> int:
            return 1

        def __getitem__(self, index: int) -> float:
            return current().uniform()

    sampler = WeightedRandomSampler([1.0], 6)
    (batch,) = DataLoader(Augmented(), 6, sampler=sampler)
    assert len(set(batch.tolist())) == 6


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "batch_size must be a positive integer, came 0"),
        ({"batch_size": 2.0}, "came 2.0"),
        ({"shuffle": True, "sampler": [1]}, "either sampler or shuffle"),
        ({"batch_sampler": [[1]], "batch_size": 2}, "batch_sampler replaces"),
        ({"batch_sampler": [[1]], "drop_last": True}, "batch_sampler replaces"),
        ({"batch_size": None, "drop_last": True}, "needs a batch_size"),
        ({"num_workers": -1}, "came -1"),
        ({"timeout": -1}, "came -1"),
        ({"prefetch_factor": 0}, "came 0"),
        ({"persistent_workers": True}, "num_workers > 0"),
    ],
)
def test_arguments_that_contradict(options: dict, message: str) -> None:
    with pytest.raises(OptionError, match=message):
        DataLoader(Noisy(4, 4), **options)
    if "shuffle" in options:
        with pytest.raises(OptionError, match="order of its own"):
            DataLoader(Count(), shuffle=True)


def test_arguments_without_effect_are_accepted() -> None:
    loader = DataLoader(Noisy(2, 4), pin_memory=True, pin_memory_device="cuda", in_order=False)
    assert indices(loader) == [[0], [1]]


@pytest.mark.torch
def test_the_signature_begins_like_pytorchs() -> None:
    torch_data = pytest.importorskip("torch.utils.data")
    import inspect

    ours, theirs = (
        list(inspect.signature(c.__init__).parameters.values())
        for c in (DataLoader, torch_data.DataLoader)
    )
    assert [(p.name, p.default, p.kind) for p in ours] == [
        (p.name, p.default, p.kind) for p in theirs
    ]
