"""No false alarm: a hundred different clean trainings raise nothing and warn of nothing."""

from __future__ import annotations

import logging
import time
from typing import Any

import numpy as np
import pytest

import allgrad as ag
from allgrad import ddp, nn


def _model(kind: int) -> nn.Module:
    ag.manual_seed(kind)
    if kind == 0:
        return nn.Linear(6, 3)
    if kind == 1:
        return nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Dropout(0.2), nn.Linear(16, 3))
    return nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Linear(8, 3))


def _train(seed: int) -> None:
    """What clean programs do: other speeds, other batch sizes, accumulation, user's collectives."""
    rng = np.random.default_rng(seed)
    kind, steps, accumulate = int(rng.integers(3)), int(rng.integers(2, 6)), bool(rng.integers(2))
    cap = float(rng.choice([0.0001, 1.0]))
    slow = rng.random(4) * 0.004
    ddp.init_process_group(timeout=60)
    rank = ddp.get_rank()
    model = ddp.DistributedDataParallel(_model(kind), bucket_cap_mb=cap, check_replicas_every=1)
    optimizer = ag.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    own = np.random.default_rng((seed, rank))
    for step in range(steps):
        optimizer.zero_grad()
        x = ag.tensor(own.standard_normal((int(own.integers(2, 6)), 6)).astype(np.float32))
        if accumulate:
            with model.no_sync():
                model(x).square().mean().backward()
        time.sleep(slow[rank] * own.random())
        model(x).square().mean().backward()
        optimizer.step()
        if step % 2:
            ddp.all_reduce(np.ones(step + 1))
            ddp.broadcast(np.ones(3), src=step % ddp.get_world_size())
        elif rank == 0:
            time.sleep(0.002)  # saves, logs
    ddp.check_replicas(model)
    if seed % 2:
        ddp.destroy_process_group()  # the others end without


@pytest.mark.parametrize("part", range(4))
def test_clean_runs_raise_no_alarm(part: int, caplog: Any, monkeypatch: Any) -> None:
    monkeypatch.setenv("ALLGRAD_STALL_WARNING_S", "30")
    with caplog.at_level(logging.WARNING):
        for number in range(25):
            seed = 25 * part + number
            ddp.run_ranks(lambda seed=seed: _train(seed), 2 + seed % 3)
    assert not caplog.records


def test_a_stall_is_told_and_waited_for(caplog: Any, monkeypatch: Any) -> None:
    monkeypatch.setenv("ALLGRAD_STALL_WARNING_S", "0.3")

    def body() -> None:
        ddp.init_process_group(timeout=60)
        if ddp.get_rank() == 1:
            time.sleep(1.2)
        ddp.barrier()

    with caplog.at_level(logging.WARNING):
        ddp.run_ranks(body, 3)
    texts = [record.getMessage() for record in caplog.records]
    assert texts
    assert all(text.startswith("[rank 0/3] has waited ") for text in texts)
    assert "for rank 1, and goes on until 60 s" in texts[0]
    assert "rank 1: sleeps at" in texts[0]


@pytest.mark.parametrize("enabled", [True, False])
def test_the_record_of_a_rank(enabled: bool, monkeypatch: Any) -> None:
    monkeypatch.setenv("ALLGRAD_DIAGNOSIS", "1" if enabled else "0")

    def body() -> list[Any]:
        ddp.init_process_group()
        model = ddp.DistributedDataParallel(nn.Linear(4, 2))
        model(ag.ones(3, 4)).sum().backward()
        ddp.all_reduce(np.ones(3))
        return ddp.flight_record(last=6)

    for record in ddp.run_ranks(body, 2):
        if not enabled:
            assert record == []
            continue
        assert record[-1].what == "all_reduce of 24 bytes (float64, sum)"
        assert record[-1].place.text == "ddp.all_reduce(np.ones(3))"
        buckets = [call for call in record if call.note.startswith("bucket 1 of 1")]
        assert buckets[0].step == 1
        assert "backward()" in buckets[0].place.text


def test_a_mismatch_is_named_without_diagnosis(diagnose: Any, monkeypatch: Any) -> None:
    monkeypatch.setenv("ALLGRAD_DIAGNOSIS", "0")
    raised = diagnose(lambda rank: ddp.all_reduce(np.ones(2 if rank else 3)))
    assert "rank 0: calls all_reduce of 24 bytes (float64, sum)" in str(raised[0])
    assert "ranks 1, 2: calls all_reduce of 16 bytes (float64, sum)" in str(raised[0])


def test_the_full_record_in_errors(diagnose: Any, monkeypatch: Any) -> None:
    monkeypatch.setenv("ALLGRAD_DIAGNOSIS", "full")

    def body(rank: int) -> None:
        ddp.barrier()
        ddp.all_reduce(np.ones(2 if rank else 3))

    text = str(diagnose(body)[1])
    assert "Last collectives of rank 2, the newest at the end:\n  1: barrier, at " in text
