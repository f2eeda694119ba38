"""Samples become batches."""

from __future__ import annotations

import collections

import numpy as np
import pytest

import allgrad as ag
from allgrad.errors import ShapeError
from allgrad.utils.data import DataLoader, default_collate

Point = collections.namedtuple("Point", "x y")


@pytest.mark.parametrize(
    ("samples", "dtype", "values"),
    [
        ([1, 2], ag.int64, [1, 2]),
        ([1.5, 2.0], ag.float64, [1.5, 2.0]),
        ([True, False], ag.bool, [True, False]),
        ([np.float32(1), np.float32(2)], ag.float32, [1, 2]),
        ([np.bool_(True)], ag.bool, [True]),
        ([np.float64(1)], ag.float64, [1]),
        ([np.int32(3)], ag.int32, [3]),
        ([np.ones(2, np.uint8)] * 2, ag.uint8, [[1, 1], [1, 1]]),
        ([np.array(5)] * 2, ag.int64, [5, 5]),
    ],
)
def test_leaves(samples: list, dtype: object, values: list) -> None:
    batch = default_collate(samples)
    assert (batch.dtype, batch.tolist()) == (dtype, values)


def test_structures() -> None:
    samples = [
        {"a": (ag.ones(2), "s"), "p": Point(i, [i, 2.0]), "o": collections.OrderedDict(k=i)}
        for i in (1, 2)
    ]
    batch = default_collate(samples)
    assert batch["a"][0].tolist() == [[1, 1], [1, 1]]
    assert batch["a"][1] == ("s", "s")
    assert isinstance(batch["a"], list)
    assert isinstance(batch["p"], Point)
    assert batch["p"].x.tolist() == [1, 2]
    assert [c.tolist() for c in batch["p"].y] == [[1, 2], [2.0, 2.0]]
    assert isinstance(batch["o"], collections.OrderedDict)


def test_channels_last_samples_give_a_channels_last_batch() -> None:
    samples = [np.random.default_rng(i).random((4, 5, 3)).transpose(2, 0, 1) for i in range(3)]
    batch = default_collate(samples)._array
    assert batch.shape == (3, 3, 4, 5)
    assert batch.transpose(0, 2, 3, 1).flags.c_contiguous
    assert (batch == np.stack(samples)).all()


@pytest.mark.parametrize("shape", [(0,), (2, 0, 3), (1, 1, 1), (3, 2, 2, 2)])
def test_odd_shapes(shape: tuple[int, ...]) -> None:
    samples = [np.full(shape, i, np.float32) for i in range(2)]
    batch = default_collate(samples)
    assert (batch.numpy() == np.stack(samples)).all()
    assert tuple(batch.shape) == (2, *shape)


def test_errors_name_the_sample() -> None:
    with pytest.raises(ShapeError, match=r"sample 0 .* \(2,\), sample 2 has \(3,\)"):
        default_collate([np.ones(2), np.ones(2), np.ones(3)])
    with pytest.raises(ShapeError, match=r"\[1, 2\] fields"):
        default_collate([(1,), (1, 2)])
    with pytest.raises(TypeError, match="came object"):
        default_collate([object()])


def test_without_batching_single_samples_are_converted() -> None:
    samples = list(DataLoader([(np.ones(2), 1), (np.zeros(2), 2)], batch_size=None))
    assert samples[0][0].tolist() == [1, 1]
    assert samples[1][1] == 2


@pytest.mark.torch
def test_same_structure_and_dtypes_as_pytorch() -> None:
    torch_data = pytest.importorskip("torch.utils.data")
    samples = [{"a": (i, float(i), "s"), "b": np.ones((2, 3), np.float32) * i} for i in range(3)]
    ours, theirs = default_collate(samples), torch_data.default_collate(samples)
    assert ours.keys() == theirs.keys()
    for mine, other in zip([*ours["a"][:2], ours["b"]], [*theirs["a"][:2], theirs["b"]]):
        assert mine.tolist() == other.tolist()
        assert str(mine.dtype).split(".")[1] == str(other.dtype).split(".")[1]
    assert ours["a"][2] == theirs["a"][2]
