"""Uneven numbers of batches where nobody can serve the steps of others: an error that says so."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest

import allgrad as ag
from allgrad import ddp, nn, optim
from allgrad.ddp.model_averaging import PeriodicModelAverager
from allgrad.utils.data import DataLoader, TensorDataset


def sync_batchnorm() -> tuple[Any, Any]:
    model = wrapped(nn.Sequential(nn.Linear(3, 2), ddp.SyncBatchNorm(2)))
    return model, optim.SGD(model.parameters(), lr=0.1)


def zero() -> tuple[Any, Any]:
    model = wrapped(nn.Linear(3, 2))
    return model, ddp.ZeroRedundancyOptimizer(model.parameters(), optim.Adam)


def attached_zero() -> tuple[Any, Any]:
    model, optimizer = zero()
    optimizer.attach(model)
    return model, optimizer


def local_sgd() -> tuple[Any, Any]:
    model = wrapped(nn.Linear(3, 2))
    averager = PeriodicModelAverager(period=2)
    return model, ddp.PostLocalSGDOptimizer(optim.SGD(model.parameters(), lr=0.1), averager)


def wrapped(module: nn.Module) -> Any:
    return ddp.DistributedDataParallel(module)


FEWER = (
    "Likely cause: rank 1 had fewer batches, or left a step out. {} needs all ranks in every step"
)
ROWS = {
    sync_batchnorm: FEWER.format("SyncBatchNorm"),
    zero: FEWER.format("ZeroRedundancyOptimizer"),
    attached_zero: FEWER.format("ZeroRedundancyOptimizer"),
    local_sgd: r"rank 1 called .* while the others were in a step .*\(parameters of a Model",
}


@pytest.mark.parametrize("make", ROWS, ids=lambda make: make.__name__)
def test_uneven_batches_are_an_error_on_all_ranks(
    diagnose: Any, make: Callable[[], tuple[Any, Any]]
) -> None:
    """From loaders, so that rank 1 would serve the others' steps if it could."""

    def body(rank: int) -> None:
        model, optimizer = make()
        data = TensorDataset(ag.ones(4 * (2 if rank == 1 else 3), 3))
        for (x,) in DataLoader(data, 4):
            optimizer.zero_grad()
            model(x).square().mean().backward()
            optimizer.step()
        ddp.barrier()

    raised = diagnose(body)
    assert set(raised) == {0, 1, 2}
    for error in raised.values():
        assert re.search(ROWS[make], str(error)), error
