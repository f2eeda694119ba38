"""Numbers over all ranks, the NaN check, and the sampler that knows its rank."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import allgrad as ag
from allgrad import ddp
from allgrad.errors import DistributedError, NonFiniteError
from allgrad.utils.data import DataLoader, TensorDataset


def in_group(function: Callable[[], Any], size: int = 2) -> list[Any]:
    def body() -> Any:
        ddp.init_process_group(timeout=20)
        return function()

    return ddp.run_ranks(body, size)


def test_reduce_sum_is_exact_and_equal_on_all_ranks() -> None:
    def body() -> dict[str, float]:
        rank = ddp.get_rank()
        return ddp.reduce_sum({"seen": 2**40 + rank, "loss": 0.1 * rank, "one": ag.ones(1)})

    results = in_group(body, 3)
    assert results[0] == results[1] == results[2]
    assert results[0]["seen"] == 3 * 2**40 + 3
    assert results[0]["loss"] == pytest.approx(0.3)
    assert results[0]["one"] == 3
    with pytest.raises(DistributedError, match="no values given"):
        in_group(lambda: ddp.reduce_sum({}))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_a_loss_that_is_not_finite_is_named_on_every_rank(value: float) -> None:
    def body() -> None:
        loss = ag.tensor(value if ddp.get_rank() == 1 else 0.5)
        ddp.check_finite(0.5, 6)
        where = rf"\[rank {ddp.get_rank()}/3\]"
        with pytest.raises(NonFiniteError, match=f"{where} .* at step 7: {value} on rank 1"):
            ddp.check_finite(loss, step=7)

    in_group(body, 3)


@pytest.mark.parametrize("count", [1, 7, 8, 20])
def test_evaluation_counts_every_sample_once(count: int) -> None:
    def body() -> float:
        data = TensorDataset(ag.arange(count, dtype=ag.float64))
        sampler = ddp.DistributedSampler(data, shuffle=False, pad=False)
        loader = DataLoader(data, batch_size=3, sampler=sampler)
        total = seen = 0.0
        for (batch,) in loader:
            total += float(batch.sum().item())
            seen += len(batch)
        sums = ddp.reduce_sum({"total": total, "seen": seen})
        assert sums["seen"] == count
        return sums["total"]

    assert in_group(body, 3) == [sum(range(count))] * 3


def test_shards_are_disjoint_and_complete() -> None:
    def body() -> list[int]:
        return list(ddp.DistributedSampler(range(100)))

    shards = in_group(body, 4)
    np.testing.assert_array_equal(np.sort(np.concatenate(shards)), np.arange(100))


def test_sampler_without_group() -> None:
    with pytest.raises(DistributedError, match="init_process_group"):
        ddp.DistributedSampler(range(3))
    assert list(ddp.DistributedSampler(range(4), 2, 1, shuffle=False)) == [1, 3]
