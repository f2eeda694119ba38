"""Data sets and their combinations."""

from __future__ import annotations

import numpy as np
import pytest

import allgrad as ag
from allgrad.errors import DatasetError, OptionError, ShapeError
from allgrad.utils.data import (
    ConcatDataset,
    DataLoader,
    Dataset,
    IterableDataset,
    Subset,
    TensorDataset,
    random_split,
)
from allgrad.utils.data.dataset import is_batchable


def pairs(n: int = 10) -> TensorDataset:
    x = np.arange(n * 3, dtype=np.float32).reshape(n, 3)
    return TensorDataset(ag.from_numpy(x), ag.from_numpy(np.arange(n)))


def read(loader: DataLoader) -> list[list]:
    return [[field.tolist() for field in batch] for batch in loader]


def test_tensor_dataset_gives_rows() -> None:
    dataset = pairs(4)
    x, y = dataset[2]
    assert (len(dataset), x.tolist(), y.item()) == (4, [6.0, 7.0, 8.0], 2)


def test_tensor_dataset_names_the_sizes_that_differ() -> None:
    with pytest.raises(ShapeError, match=r"\(3, 2\), \(4,\)"):
        TensorDataset(ag.zeros(3, 2), ag.zeros(4))


def test_rows_of_channels_last_memory() -> None:
    images = np.arange(5 * 3 * 2 * 2, dtype=np.float32).reshape(5, 2, 2, 3).transpose(0, 3, 1, 2)
    loader = DataLoader(TensorDataset(ag.from_numpy(images)), batch_size=3)
    assert next(iter(loader))[0].tolist() == images[:3].tolist()


def test_combinations_read_the_same_in_batches_and_one_by_one() -> None:
    for dataset in (
        pairs(),
        Subset(pairs(), [9, 1, 1, 4]),
        ConcatDataset([pairs(3), Subset(pairs(), range(4, 8)), pairs(1)]),
        pairs(2) + pairs(3),
    ):
        assert is_batchable(dataset)
        one_by_one = DataLoader(_OneByOne(dataset), batch_size=3)
        assert read(DataLoader(dataset, batch_size=3)) == read(one_by_one)


class _OneByOne(Dataset):
    def __init__(self, dataset: Dataset) -> None:
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> object:
        return self.dataset[index]


def test_an_overridden_getitem_is_never_bypassed() -> None:
    class Doubled(TensorDataset):
        def __getitem__(self, index: int) -> tuple:
            x, y = super().__getitem__(index)
            return x * 2, y

    dataset = Doubled(*pairs(4).tensors)
    assert not is_batchable(dataset)
    assert next(iter(DataLoader(dataset, batch_size=2)))[0].tolist() == [[0, 2, 4], [6, 8, 10]]


def test_getitems_of_the_user_is_called() -> None:
    calls = []

    class Batched(Dataset):
        def __len__(self) -> int:
            return 5

        def __getitem__(self, index: int) -> int:
            raise AssertionError("not called")

        def __getitems__(self, indices: list[int]) -> list[int]:
            calls.append(list(indices))
            return [i * 10 for i in indices]

    assert [b.tolist() for b in DataLoader(Batched(), batch_size=2)] == [[0, 10], [20, 30], [40]]
    assert calls == [[0, 1], [2, 3], [4]]
    assert DataLoader(Subset(Batched(), [4, 2]), batch_size=2).__iter__().__next__().tolist() == [
        40, 20,
    ]  # fmt: skip


def test_gradients_flow_through_a_tensor_dataset() -> None:
    weights = ag.ones(4, 2, requires_grad=True)
    (batch,) = next(iter(DataLoader(TensorDataset(weights), batch_size=3)))
    batch.sum().backward()
    assert weights.grad.tolist() == [[1, 1], [1, 1], [1, 1], [0, 0]]


def test_concat_index_and_errors() -> None:
    joined = ConcatDataset([pairs(3), pairs(2)])
    assert [joined[i][1].item() for i in (0, 2, 3, -1)] == [0, 2, 0, 1]
    assert joined.cumulative_sizes == [3, 5]
    with pytest.raises(IndexError, match="index 5 is outside a data set of 5"):
        joined[5]
    with pytest.raises(DatasetError, match="none"):
        ConcatDataset([])
    with pytest.raises(DatasetError, match="IterableDataset"):
        ConcatDataset([IterableDataset()])


def test_concat_parts_that_do_not_fit() -> None:
    other = TensorDataset(ag.zeros(2, 4), ag.from_numpy(np.zeros(2, np.int64)))
    loader = DataLoader(ConcatDataset([pairs(2), other]), batch_size=4)
    with pytest.raises(ShapeError, match=r"\(3,\).*\(4,\)|\(4,\).*\(3,\)"):
        next(iter(loader))


@pytest.mark.parametrize(
    ("lengths", "expected"),
    [([7, 3], [7, 3]), ([0.5, 0.5], [5, 5]), ([0.33, 0.33, 0.34], [4, 3, 3]), ([1.0], [10])],
)
def test_random_split_cuts_without_overlap(lengths: list, expected: list[int]) -> None:
    parts = random_split(pairs(10), lengths, generator=ag.Generator().manual_seed(1))
    assert [len(p) for p in parts] == expected
    assert sorted(i for p in parts for i in p.indices) == list(range(10))


def test_random_split_repeats_with_a_seed_and_names_wrong_sums() -> None:
    first, again = (
        [p.indices for p in random_split(pairs(), [6, 4], ag.Generator().manual_seed(3))]
        for _ in range(2)
    )
    assert first == again
    with pytest.raises(OptionError, match=r"sum to 9, but the data set has 10"):
        random_split(pairs(), [6, 3])


@pytest.mark.parametrize("arguments", [{}, {"shuffle": True}, {"num_workers": 1}])
def test_empty_data_set_is_named(arguments: dict) -> None:
    with pytest.raises(DatasetError, match=r"Subset is empty \(0 samples\)"):
        DataLoader(Subset(pairs(), []), **arguments)


def test_data_set_without_length() -> None:
    class NoLength(Dataset):
        def __getitem__(self, index: int) -> int:
            return index

    with pytest.raises(DatasetError, match="NoLength has no length"):
        DataLoader(NoLength())
