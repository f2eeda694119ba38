"""The mean over the ranks weighs them by their samples, so shards may differ in size."""

from __future__ import annotations

import numpy as np
import pytest
from support.ranks import backward, data, grads, network, on_ranks

import allgrad as ag
from allgrad import ddp, nn
from allgrad.ddp import DistributedDataParallel
from allgrad.ddp.samples import count_samples, scale, shares_of


def full_batch(count: int) -> np.ndarray:
    alone = network()
    backward(alone, *data(count))
    return grads(alone)


SHARDS = {2: [0, 5, 8], 3: [0, 1, 4, 12]}


@pytest.mark.parametrize("as_view", [True, False])
@pytest.mark.parametrize("size", [2, 3])
def test_unequal_shards_give_the_gradient_of_the_whole_batch(size: int, as_view: bool) -> None:
    ends = SHARDS[size]

    def body() -> np.ndarray:
        rank = ddp.get_rank()
        model = DistributedDataParallel(
            network(), bucket_cap_mb=1e-4, gradient_as_bucket_view=as_view
        )
        x, y = data(ends[-1])
        for _ in range(2):  # before and after buckets were cut in the learnt order
            model.zero_grad()
            backward(model, x[ends[rank] : ends[rank + 1]], y[ends[rank] : ends[rank + 1]])
        return grads(model)

    results = on_ranks(body, size)
    assert all(r.tobytes() == results[0].tobytes() for r in results)
    np.testing.assert_allclose(results[0], full_batch(ends[-1]), rtol=2e-6, atol=2e-7)


def test_without_weights_every_rank_counts_the_same() -> None:
    def body() -> np.ndarray:
        model = DistributedDataParallel(network(), weighted_mean=False)
        x, y = data(8)
        mine = slice(0, 5) if ddp.get_rank() == 0 else slice(5, 8)
        backward(model, x[mine], y[mine])
        return grads(model)

    got = on_ranks(body)[0]
    parts = []
    for mine in (slice(0, 5), slice(5, 8)):
        alone = network()
        x, y = data(8)
        backward(alone, x[mine], y[mine])
        parts.append(grads(alone))
    np.testing.assert_allclose(got, (parts[0] + parts[1]) / 2, rtol=1e-6, atol=1e-7)
    assert not np.allclose(got, full_batch(8), rtol=1e-3)


def test_equal_shards_take_the_plain_mean() -> None:
    def body() -> float:
        model = DistributedDataParallel(network())
        x, y = data(8)
        mine = slice(4 * ddp.get_rank(), 4 * ddp.get_rank() + 4)
        backward(model, x[mine], y[mine])
        return model._reducer._factor

    assert on_ranks(body) == [1.0, 1.0]


def test_a_forward_for_evaluation_does_not_count() -> None:
    def body() -> np.ndarray:
        model = DistributedDataParallel(network())
        x, y = data(8)
        if ddp.get_rank() == 0:
            with ag.no_grad():
                model(ag.tensor(x))
            model.eval()
            model(ag.tensor(x))
            model.train()
        mine = slice(0, 5) if ddp.get_rank() == 0 else slice(5, 8)
        backward(model, x[mine], y[mine])
        return grads(model)

    np.testing.assert_allclose(on_ranks(body)[0], full_batch(8), rtol=2e-6, atol=2e-7)


def test_training_in_eval_mode_counts() -> None:
    def body() -> np.ndarray:
        model = DistributedDataParallel(network()).eval()
        x, y = data(8)
        mine = slice(0, 5) if ddp.get_rank() == 0 else slice(5, 8)
        backward(model, x[mine], y[mine])
        return grads(model)

    np.testing.assert_allclose(on_ranks(body)[0], full_batch(8), rtol=2e-6, atol=2e-7)


def test_accumulation_over_unequal_shards_equals_one_big_batch() -> None:
    """Two micro-batches of 3 on rank 0, of 1 on rank 1: together the 8 samples."""

    def body() -> np.ndarray:
        rank = ddp.get_rank()
        model = DistributedDataParallel(network())
        x, y = data(8)
        per = 3 if rank == 0 else 1
        start = 0 if rank == 0 else 6
        first, second = slice(start, start + per), slice(start + per, start + 2 * per)

        def half(mine: slice) -> None:
            loss = nn.functional.cross_entropy(model(ag.tensor(x[mine])), ag.tensor(y[mine]))
            (loss / 2).backward()

        with model.no_sync():
            half(first)
        half(second)
        return grads(model)

    np.testing.assert_allclose(on_ranks(body)[0], full_batch(8), rtol=2e-6, atol=2e-7)


def test_a_count_given_by_the_user_holds_for_one_step() -> None:
    def body() -> list[float]:
        rank = ddp.get_rank()
        model = DistributedDataParallel(network())
        x, y = data(4)
        model.count_samples(30 if rank == 0 else 10)
        factors = []
        for _ in range(2):
            backward(model, x, y)
            factors.append(model._reducer._factor)
        return factors

    assert on_ranks(body) == [[1.5, 1.0], [0.5, 1.0]]


def test_counting() -> None:
    x = ag.zeros(5, 3)
    assert count_samples(x) == 5
    assert count_samples(x, 1) == 3
    assert count_samples(x, -1) == 3
    assert count_samples(x, 2) is None
    assert count_samples(((), {"a": [1.0, (x,)]})) == 5
    assert count_samples((ag.tensor(1.0), x)) == 5
    assert count_samples("text") is None
    assert count_samples((ag.zeros(0, 3), x)) == 0
    packed = nn.utils.rnn.pack_sequence([ag.zeros(4, 2), ag.zeros(3, 2), ag.zeros(1, 2)])
    assert count_samples((packed,)) == 3


def test_shares() -> None:
    assert shares_of([4, 4], [0, 1], True, None) is None
    assert shares_of([5, 3], [0, 1], True, None) == [0.625, 0.375]
    assert shares_of([5, 3], [0, 1], False, None) is None
    assert shares_of([5, 0], [0, 1], True, None) == [1, 0]  # an empty batch
    assert shares_of([0, 0], [0, 1], True, None) is None
    assert shares_of([5, -1], [0, 1], True, None) is None  # one does not know: all count the same
    assert shares_of([5, 0, 5], [0, 2], True, None) == [0.5, 0, 0.5]
    assert shares_of([6, 0, 2], [0, 2], True, None) == [0.75, 0, 0.25]
    assert shares_of([6, 0, 2, 0], [0, 2], True, True) == [0.25, 0, 0.25, 0]
    assert shares_of([6, 0, 2, 0], [0, 2], True, False) == [0.5, 0, 0.5, 0]


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
def test_scaling_keeps_the_dtype_and_rounds_once(dtype: str) -> None:
    values = ag.tensor([1.0, 3.0, 7.0], dtype=getattr(ag, dtype))._array.copy()
    wide = values.astype(np.float64) * np.float32(0.3).astype(np.float64)
    scale(values, 0.3)
    assert values.dtype.name == dtype
    expected = wide.astype(values.dtype).astype(np.float64)
    np.testing.assert_allclose(values.astype(np.float64), expected, rtol=3e-7)
