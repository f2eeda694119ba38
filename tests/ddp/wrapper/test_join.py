"""Ranks with different numbers of batches: nobody hangs, and replicas are the same afterwards."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
import pytest
from support.ranks import on_ranks

import allgrad as ag
from allgrad import ddp, nn, optim
from allgrad.ddp import DistributedDataParallel
from allgrad.errors import DistributedError
from allgrad.utils.data import DataLoader, TensorDataset


def network() -> nn.Module:
    ag.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 16), nn.BatchNorm1d(16), nn.Tanh(), nn.Linear(16, 3))


def loader(batches: int, seed: int, batch: int = 4) -> DataLoader:
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((batches * batch + 1, 6)).astype(np.float32)
    data = TensorDataset(ag.tensor(x), ag.tensor(rng.integers(0, 3, len(x))))
    return DataLoader(data, batch_size=batch, drop_last=True)


def step(model: Any, optimizer: Any, x: Any, y: Any) -> None:
    optimizer.zero_grad()
    nn.functional.cross_entropy(model(x), y).backward()
    optimizer.step()


def state(model: Any, optimizer: Any, *schedulers: Any) -> bytes:
    tensors = [*model.parameters(), *model.buffers()]
    parts = [t._canonical().tobytes() for t in tensors]
    for group in optimizer.param_groups:
        parts.append(str(group["lr"]).encode())
        for p in group["params"]:
            for key, value in sorted(optimizer.state[p].items()):
                parts.append(key.encode())
                array = value._array if isinstance(value, ag.Tensor) else np.array(value)
                parts.append(array.tobytes())
    parts += [str(s.get_last_lr()).encode() for s in schedulers]
    return b"".join(parts)


# batches per rank; epochs
COUNTS = [(3, 1), (1, 4), (3, 0), (2, 5, 4), (0, 0, 2)]


@pytest.mark.parametrize("counts", COUNTS, ids=str)
@pytest.mark.parametrize("kind", ["momentum", "adam"])
def test_replicas_are_the_same_after_uneven_epochs(counts: tuple[int, ...], kind: str) -> None:
    """With no collective of the user's between epochs: ranks meet in the first forward."""

    def body() -> list[bytes]:
        rank = ddp.get_rank()
        model = DistributedDataParallel(network(), bucket_cap_mb=1e-4)
        if kind == "adam":
            optimizer: Any = optim.Adam(model.parameters(), lr=0.01)
        else:
            optimizer = optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        scheduler = optim.lr_scheduler.StepLR(optimizer, 2, gamma=0.5)
        states = []
        for epoch in range(3):
            for x, y in loader(counts[rank], 100 * epoch + rank):
                step(model, optimizer, x, y)
                scheduler.step()
        ddp.barrier()
        states.append(state(model, optimizer, scheduler))
        for x, y in loader(3, 1000 + rank):  # an even epoch afterwards
            step(model, optimizer, x, y)
        states.append(state(model, optimizer, scheduler))
        return states

    results = on_ranks(body, len(counts))
    assert all(r == results[0] for r in results)
    assert results[0][0] != results[0][1]


def test_the_steps_without_a_rank_are_those_of_the_others() -> None:
    """Rank 1 has 1 batch, rank 0 has 3: as if the last two steps were made by rank 0 alone."""

    def body() -> np.ndarray:
        rank = ddp.get_rank()
        ag.manual_seed(0)
        model = DistributedDataParallel(nn.Linear(6, 3))
        optimizer = optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        for x, y in loader(3 if rank == 0 else 1, rank):
            step(model, optimizer, x, y)
        ddp.barrier()
        return np.concatenate([p._array.ravel() for p in model.parameters()])

    ag.manual_seed(0)
    alone = nn.Linear(6, 3)
    optimizer = optim.SGD(alone.parameters(), lr=0.1, momentum=0.9)
    mine, theirs = list(loader(3, 0)), list(loader(1, 1))
    for i, (x, y) in enumerate(mine):
        if i == 0:
            x, y = ag.cat([x, theirs[0][0]]), ag.cat([y, theirs[0][1]])
        step(alone, optimizer, x, y)
    expected = np.concatenate([p._array.ravel() for p in alone.parameters()])
    for result in on_ranks(body):
        np.testing.assert_allclose(result, expected, rtol=1e-5, atol=1e-6)


def test_it_is_reported_once(caplog: pytest.LogCaptureFixture) -> None:
    def body() -> None:
        rank = ddp.get_rank()
        model = DistributedDataParallel(network())
        optimizer = optim.SGD(model.parameters(), lr=0.1)
        for epoch in range(2):
            for x, y in loader(3 if rank == 0 else 1, epoch):
                step(model, optimizer, x, y)

    with caplog.at_level(logging.WARNING, "allgrad.ddp"):
        on_ranks(body)
    told = [r.getMessage() for r in caplog.records if "numbers of batches" in r.getMessage()]
    assert len(told) == 1
    assert "rank 1: 2." in told[0]


def test_the_end_of_the_program_is_a_meeting_too() -> None:
    def body() -> Any:
        rank = ddp.get_rank()
        model = DistributedDataParallel(network())
        optimizer = optim.SGD(model.parameters(), lr=0.1)
        for x, y in loader(3 + rank, rank):
            step(model, optimizer, x, y)
        return model, optimizer

    (a, a_optimizer), (b, b_optimizer) = on_ranks(body, destroy=False)
    assert state(a, a_optimizer) == state(b, b_optimizer)


def test_gradients_of_a_rank_that_waited_are_its_own() -> None:
    def body() -> bytes:
        rank = ddp.get_rank()
        model = DistributedDataParallel(network())
        optimizer = optim.SGD(model.parameters(), lr=0.1)
        for x, y in loader(1 + 2 * rank, rank):
            step(model, optimizer, x, y)
        before = [p.grad._array.copy() for p in model.parameters()]
        ddp.barrier()
        for p, grad in zip(model.parameters(), before, strict=True):
            assert p.grad._array.tobytes() == grad.tobytes()

    on_ranks(body)


def test_a_new_epoch_does_not_add_to_gradients_of_others() -> None:
    """zero_grad() before the forward in which ranks meet: no gradient may appear in between."""

    def body() -> None:
        rank = ddp.get_rank()
        model = DistributedDataParallel(network())
        optimizer = optim.SGD(model.parameters(), lr=0.1)
        for x, y in loader(1 + 2 * rank, rank):
            step(model, optimizer, x, y)
        for x, y in loader(1, 5 + rank):
            optimizer.zero_grad()
            out = model(x)
            assert all(p.grad is None for p in model.parameters())
            nn.functional.cross_entropy(out, y).backward()

    on_ranks(body)


def test_batches_that_are_looked_up_one_ahead() -> None:
    """A generator that asks for the next batch before it hands out the last one."""

    def ahead(batches: Any) -> Any:
        kept = None
        for batch in batches:
            if kept is not None:
                yield kept
            kept = batch
        if kept is not None:
            yield kept

    def body() -> bytes:
        rank = ddp.get_rank()
        model = DistributedDataParallel(network())
        optimizer = optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        for epoch in range(2):
            for x, y in ahead(loader(3 + rank, epoch)):
                step(model, optimizer, x, y)
        ddp.barrier()
        return state(model, optimizer)

    results = on_ranks(body)
    assert results[0] == results[1]


def test_evaluation_on_rank_0_alone_needs_nobody() -> None:
    def body() -> bytes:
        rank = ddp.get_rank()
        model = DistributedDataParallel(network())
        optimizer = optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        for epoch in range(2):
            for i, (x, y) in enumerate(loader(4, 10 * epoch + rank)):
                step(model, optimizer, x, y)
                if rank == 0 and i == 1:
                    model.eval()
                    for seen, _ in loader(2, 99):
                        with ag.no_grad():
                            model(seen)
                    model.train()
            if rank == 0:  # after the epoch, and carelessly in training mode, with gradients
                for seen, _ in loader(2, 99):
                    model.module(seen)
        if rank == 0:
            model.eval()
            for seen, _ in loader(2, 99):
                model(seen)
        ddp.barrier()
        return flat(model.parameters())

    def flat(tensors: Any) -> bytes:
        return b"".join(t._array.tobytes() for t in tensors)

    results = on_ranks(body)
    assert results[0] == results[1]


def test_two_models_of_one_group_join() -> None:
    def body() -> bytes:
        rank = ddp.get_rank()
        one, two = DistributedDataParallel(network()), DistributedDataParallel(network())
        optimizers = [optim.SGD(m.parameters(), lr=0.1, momentum=0.9) for m in (one, two)]
        for _ in range(2):
            for x, y in loader(2 + 2 * rank, rank):
                for model, optimizer in zip((one, two), optimizers, strict=True):
                    step(model, optimizer, x, y)
        ddp.barrier()
        return state(one, optimizers[0]) + state(two, optimizers[1])

    results = on_ranks(body)
    assert results[0] == results[1]


@pytest.mark.parametrize("initial", [None, True, False])
def test_an_explicit_join_for_data_from_elsewhere(initial: bool | None) -> None:
    def body() -> np.ndarray:
        rank = ddp.get_rank()
        ag.manual_seed(0)
        model = DistributedDataParallel(nn.Linear(6, 3, bias=False), weighted_mean=initial is None)
        optimizer = optim.SGD(model.parameters(), lr=1.0)
        start = model.module.weight._array.copy()
        with model.join(divide_by_initial_world_size=initial):
            for _ in range(2 * rank):
                optimizer.zero_grad()
                model(ag.ones(4, 6)).sum().backward()
                optimizer.step()
        return start - model.module.weight._array

    for moved in on_ranks(body):
        np.testing.assert_allclose(moved, 4 * (1 if initial else 2), rtol=1e-5)


def test_join_of_several_models() -> None:
    def body() -> bytes:
        rank = ddp.get_rank()
        models = [DistributedDataParallel(network()) for _ in range(2)]
        optimizers = [optim.SGD(m.parameters(), lr=0.1, momentum=0.9) for m in models]
        batches = list(loader(4, 0))[: 2 + 2 * rank]
        with ddp.Join(models):
            for x, y in batches:
                for model, optimizer in zip(models, optimizers, strict=True):
                    step(model, optimizer, x, y)
        return state(models[0], optimizers[0]) + state(models[1], optimizers[1])

    results = on_ranks(body)
    assert results[0] == results[1]


def test_join_can_raise_instead() -> None:
    def body() -> None:
        rank = ddp.get_rank()
        model = DistributedDataParallel(network())
        optimizer = optim.SGD(model.parameters(), lr=0.1)

        def train() -> None:
            with model.join(throw_on_early_termination=True):
                for x, y in loader(1 + rank, rank):
                    step(model, optimizer, x, y)

        with pytest.raises(DistributedError, match="rank 0 has no batch left"):
            train()

    on_ranks(body)


def test_a_rank_that_goes_another_way_is_an_error_on_all_ranks() -> None:
    """The loader has not ended on rank 0: a collective there is a mistake, not a join."""

    def body() -> None:
        rank = ddp.get_rank()
        model = DistributedDataParallel(network())
        optimizer = optim.SGD(model.parameters(), lr=0.1)
        batches = iter(loader(4, rank))
        step(model, optimizer, *next(batches))

        def go_on() -> None:
            if rank == 0:
                ddp.barrier()
            else:
                step(model, optimizer, *next(batches))

        with pytest.raises(DistributedError) as caught:
            go_on()
        text = str(caught.value)
        assert f"[rank {rank}/2] rank 0 makes no further step while rank 1 trains on" in text
        assert "rank 0 called barrier() at " in text
        assert "rank 1 is in backward of Sequential (wrapped model 1) at " in text
        assert "test_join.py" in text
        assert "model.join()" in text

    on_ranks(body)


def test_a_barrier_after_the_last_epoch_against_one_epoch_more() -> None:
    """Both loaders had ended, so rank 0's is no join for the whole epoch that rank 1 goes on."""

    def body() -> None:
        rank = ddp.get_rank()
        model = DistributedDataParallel(network())
        optimizer = optim.SGD(model.parameters(), lr=0.1)

        def train() -> None:
            for epoch in range(1 + rank):
                for x, y in loader(2, epoch):
                    step(model, optimizer, x, y)
            ddp.barrier()

        with pytest.raises(DistributedError, match="rank 0 makes no further step"):
            train()

    on_ranks(body)
