"""Seeded schedules of rank threads: the same seed is the same interleaving, and races are found."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import pytest

import allgrad as ag
from allgrad import ddp, nn, optim
from allgrad.ddp import ReduceOp, run_ranks
from allgrad.ddp.communicators import operations as ops
from allgrad.ddp.communicators.thread import ThreadCommunicator, current_thread_rank
from allgrad.ddp.schedule import Schedule, search, yield_point
from allgrad.errors import DistributedError
from allgrad.utils.data import DataLoader, TensorDataset

# `ALLGRAD_TEST_SEEDS=500 pytest tests/ddp/test_schedule.py` looks harder
SEEDS = int(os.environ.get("ALLGRAD_TEST_SEEDS", "30"))


def communicator() -> ThreadCommunicator:
    place = current_thread_rank()
    assert place is not None
    return ThreadCommunicator(*place)


def train(steps: int = 3) -> bytes:
    """A small model with several buckets; returns its parameters as bytes."""
    ddp.init_process_group()
    ag.manual_seed(0)
    data = TensorDataset(ag.randn(24, 6), ag.randn(24, 2))
    model = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 16), nn.Linear(16, 2))
    wrapped = ddp.DistributedDataParallel(model, bucket_cap_mb=0.0005)
    optimizer = optim.SGD(wrapped.parameters(), lr=0.1, momentum=0.9)
    loader = DataLoader(data, 4, sampler=ddp.DistributedSampler(data, shuffle=True))
    for _, (x, y) in zip(range(steps), loader, strict=False):
        optimizer.zero_grad()
        ((wrapped(x) - y) ** 2).mean().backward()
        optimizer.step()
    ddp.destroy_process_group()
    return b"".join(p.detach().numpy().tobytes() for p in model.parameters())


@pytest.mark.parametrize("seed", [0, 1, 2, 3])
def test_the_same_seed_is_the_same_interleaving(seed: int) -> None:
    run_ranks(train, 3)  # what is imported late is there afterwards
    first, second = Schedule(seed), Schedule(seed)
    a, b = run_ranks(train, 3, schedule=first), run_ranks(train, 3, schedule=second)
    assert a == b
    assert len(first.trace) > 100
    assert first.trace == second.trace
    assert {switch.what for switch in first.trace} >= {"batch", "gradient", "look", "post", "wait"}


def test_seeds_differ() -> None:
    schedules = [Schedule(seed) for seed in range(6)]
    for schedule in schedules:
        run_ranks(train, 2, schedule=schedule)
    assert len({tuple(schedule.trace) for schedule in schedules}) == 6


@pytest.mark.parametrize("size", [2, 3])
def test_the_real_reducer_passes_all_schedules_with_the_same_bits(size: int) -> None:
    expected = run_ranks(train, size)
    for seed in range(SEEDS):
        assert run_ranks(train, size, schedule=seed) == expected, seed


# ---- a race of the user's -------------------------------------------------------------------


def test_a_race_on_a_shared_counter_is_found_and_repeated() -> None:
    shared: dict[str, int] = {}

    def body() -> None:
        ddp.init_process_group()
        shared["count"] = 0
        ddp.barrier()
        for _ in range(3):
            seen = shared["count"]  # read, ...
            yield_point()
            shared["count"] = seen + 1  # ... modify, write: a thread in between is lost
        ddp.barrier()
        assert shared["count"] == 3 * ddp.get_world_size(), shared

    found = search(body, 2, range(50))
    assert found is not None
    assert isinstance(found.error, AssertionError)
    for _ in range(3):
        again = Schedule(found.seed)
        with pytest.raises(AssertionError) as caught:
            run_ranks(body, 2, schedule=again)
        assert str(caught.value) == str(found.error)
        assert again.trace == found.trace


def test_a_race_that_needs_a_late_rank_is_found() -> None:
    """Rank 0 gives up when rank 1 takes its time; most interleavings never show it."""
    arrived: list[int] = []

    def body() -> None:
        ddp.init_process_group()
        rank = ddp.get_rank()
        if rank == 0:
            arrived.clear()
        ddp.barrier()
        for _ in range(20):
            yield_point()
            if rank == 0 and arrived:
                break
        if rank == 1:
            arrived.append(1)
        else:
            assert arrived, "gave up"

    found = search(body, 2, range(200))
    assert found is not None
    assert "gave up" in str(found.error)
    with pytest.raises(AssertionError, match="gave up"):
        run_ranks(body, 2, schedule=found.seed)


# ---- broken communicators -------------------------------------------------------------------


class HastyShares(ops.ReduceShares):
    """Forgets that the other ranks write their shares into our memory."""

    __slots__ = ()
    waits_for_all = False


class ForgetfulBoard(ThreadCommunicator):
    """Reuses staging memory without waiting until all have read it."""

    def _try_stage(self, operation: ops.Operation) -> bool:
        self._slot_used = [0] * len(self._slot_used)
        return super()._try_stage(operation)


def reduce_in_window(c: ThreadCommunicator) -> None:
    array = c.allocate(4096).view(np.float32)
    for step in range(4):
        array[:] = c.rank + step
        c.all_reduce(array)
        np.testing.assert_array_equal(array, sum(r + step for r in range(c.size)))


def reduce_many(c: ThreadCommunicator) -> None:
    """More at once than there are slots of staging memory."""
    arrays = [np.full(10, 10 * i + c.rank) for i in range(6)]
    for work in [c.all_reduce(array, async_op=True) for array in arrays]:
        work.wait()
    for i, array in enumerate(arrays):
        np.testing.assert_array_equal(array, sum(10 * i + r for r in range(c.size)))


def test_a_communicator_that_forgets_to_wait_for_all_is_found(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def body() -> None:
        reduce_in_window(communicator())

    assert search(body, 3, range(SEEDS)) is None  # the real one is right
    monkeypatch.setattr(ops, "ReduceShares", HastyShares)
    _found_again(body)


def test_a_communicator_that_forgets_who_still_reads_is_found() -> None:
    def body(kind: type[ThreadCommunicator]) -> None:
        place = current_thread_rank()
        assert place is not None
        reduce_many(kind(*place))

    assert search(lambda: body(ThreadCommunicator), 3, range(SEEDS)) is None
    _found_again(lambda: body(ForgetfulBoard))


def test_a_reducer_that_launches_buckets_as_they_fill_is_found(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Two branches become ready in an order of each rank's own: only bucket order is the same."""
    from allgrad.ddp.reducer import Reducer

    def hasty(self: Any) -> None:
        for bucket in self._buckets:
            if bucket.missing == 0 and self._next < len(self._buckets):
                bucket.missing = -1
                keep, self._buckets[self._next] = self._buckets[self._next], bucket
                self._launch()
                self._buckets[self._next - 1] = keep

    order: list[int] = []

    class Branches(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4)

        def forward(self, x: Any) -> Any:
            # a dynamic graph: what was computed last is ready first
            order.append(1)
            yield_point()
            first = len(order) % 2
            return self.a(x) + self.b(x) if first else self.b(x) + self.a(x)

    def body() -> None:
        ddp.init_process_group()
        ag.manual_seed(0)
        model = ddp.DistributedDataParallel(Branches(), bucket_cap_mb=0.00001)
        for step in range(3):
            ag.manual_seed(10 * step + ddp.get_rank())
            model(ag.randn(2, 4)).sum().backward()
        grads = np.concatenate([p.grad.numpy().ravel() for p in model.parameters()])
        everywhere: list[Any] = [None] * ddp.get_world_size()
        ddp.all_gather_object(everywhere, grads.tobytes())
        assert len(set(everywhere)) == 1, "replicas differ"

    assert search(body, 2, range(SEEDS)) is None
    monkeypatch.setattr(Reducer, "_launch_full_buckets", hasty)
    _found_again(body)


def _found_again(body: Any, seeds: int = 200) -> None:
    found = search(body, 2, range(seeds))
    assert found is not None, f"not found with {seeds} seeds"
    again = Schedule(found.seed)
    with pytest.raises(type(found.error)):
        run_ranks(body, 2, schedule=again)
    assert again.trace == found.trace


# ---- deadlocks ------------------------------------------------------------------------------


@pytest.mark.parametrize("schedule", [None, 0, 1])
def test_a_deadlock_is_explained_at_once(schedule: int | None) -> None:
    """Two communicators, used in opposite order: each rank waits for the other one."""

    def body() -> None:
        one, two = communicator(), communicator()
        one.note = "the first"
        mine = (one, two) if one.rank == 0 else (two, one)
        for c in mine:
            c.all_reduce(np.zeros(3 + c.rank), ReduceOp.SUM)

    with pytest.raises(DistributedError) as caught:
        run_ranks(body, 2, schedule=schedule)
    text = str(caught.value)
    assert text.startswith("deadlock: every rank waits for another one")
    assert "rank 0 waits in all_reduce of 24 bytes (float64, sum) for the first, " in text
    assert "which rank 1 have not arrived at at " in text
    assert "rank 1 waits in all_reduce of 32 bytes (float64, sum)" in text
    assert text.count("test_schedule.py:") == 2


def test_a_rank_that_spins_lets_the_others_go_on() -> None:
    def body() -> int:
        c = communicator()
        looks = 0
        array = np.full(2, c.rank)
        work = c.all_reduce(array, async_op=True)
        while not work.test():
            looks += 1
        assert array.tolist() == [3, 3]
        return looks

    for seed in range(20):
        assert max(run_ranks(body, 3, schedule=seed)) < 2000


def test_an_exception_ends_the_others_under_a_schedule() -> None:
    def body() -> None:
        ddp.init_process_group()
        if ddp.get_rank() == 1:
            raise ValueError("gone wrong")
        ddp.barrier()

    for seed in range(5):
        with pytest.raises(ValueError, match="gone wrong"):
            run_ranks(body, 3, schedule=seed)
