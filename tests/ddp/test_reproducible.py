"""Reproducible mode: the same bits for all numbers of ranks, communicators, bucket sizes."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import allgrad as ag
from allgrad import Tensor, ddp, nn, optim
from allgrad.ddp.reduction import MeanReduction
from allgrad.errors import DistributedError, OptionError, ShapeError
from allgrad.utils.data import DataLoader, TensorDataset

SHARDS = 8


class Net(nn.Module):
    """A convolution, batch norm, both kinds of dropout, and a head that is used now and then."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout2d(0.2), nn.Flatten(),
            nn.Linear(36, 12), nn.ReLU(), nn.Dropout(0.3),
        )  # fmt: skip
        self.head, self.other, self.never = nn.Linear(12, 5), nn.Linear(12, 5), nn.Linear(2, 2)

    def forward(self, x: Tensor) -> Tensor:
        features = self.body(x)
        # which shards use the second head depends on their data alone
        return self.head(features) + (self.other(features) if float(x.sum()) > 9 else 0)


def images(count: int) -> TensorDataset:
    rng = np.random.default_rng(0)
    pictures = rng.standard_normal((count, 1, 5, 5)).astype(np.float32)
    return TensorDataset(ag.tensor(pictures), ag.tensor(rng.integers(0, 5, count)))


def train(
    steps: int = 24,
    *,
    count: int = 186,  # the last batch has 26: shards of 4 and of 3
    shards: int = SHARDS,
    plain: bool = False,
    overlap: bool = True,
    accumulate: int = 1,
    **options: Any,
) -> str:
    """Train on the ranks there are; the SHA-256 of the state, which all ranks agree on."""
    if not ddp.is_initialized():
        ddp.init_process_group()
    ag.manual_seed(7)
    data = images(count)
    model = ddp.DistributedDataParallel(
        Net(), logical_shards=shards, unused_parameters="ignore", overlap=overlap, **options
    )
    optimizer = optim.Adam(model.parameters(), lr=0.01)
    ag.manual_seed(1000 + ddp.get_rank())  # what the user draws must not count
    sampler = ddp.ShardedBatchSampler(data, 32, shards, seed=1)
    loader = DataLoader(data, batch_sampler=sampler)
    done = 0
    while done < steps:
        for x, y in loader:
            if done % accumulate == 0:
                optimizer.zero_grad()
            if plain:
                loss(model, x, y).backward()
            else:
                for part in model.shards(x, y):
                    loss(model, *part).backward()
            ag.rand(3)
            done += 1
            if done % accumulate == 0:
                optimizer.step()
            if done == steps:
                break
    return ddp.fingerprint(model, optimizer, check=True)


def loss(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    return nn.functional.cross_entropy(model(x), y)


def on_threads(size: int, **options: Any) -> str:
    return ddp.run_ranks(lambda: train(**options), size)[0]


@cache
def reference(**options: Any) -> str:
    """What one rank computes."""
    return on_threads(1, **options)


@pytest.mark.parametrize("size", [2, 3, 4, 8])
def test_any_number_of_ranks(size: int) -> None:
    assert on_threads(size) == reference()


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_thousand_steps() -> None:
    # the other numbers of ranks and communicators: benchmarks/reproducible.py
    assert on_threads(2, steps=1000, shards=2) == reference(steps=1000, shards=2)


@pytest.mark.parametrize(
    "options",
    [
        {"bucket_cap_mb": 0},
        {"bucket_cap_mb": 0.001},
        {"overlap": False},
        {"gradient_as_bucket_view": False},
        {"find_unused_parameters": True},
    ],
    ids=str,
)
def test_buckets_and_overlap_do_not_count(options: dict[str, Any]) -> None:
    assert on_threads(3, **options) == reference()


def test_a_loop_without_shards_where_every_rank_has_one() -> None:
    assert on_threads(8, plain=True) == reference()


def test_the_number_of_threads_is_pinned() -> None:
    def body() -> str:
        ag.set_num_threads(2)
        nn.Linear(3, 3)(ag.ones(9, 3))  # what was prepared for two threads is forgotten
        found = train()
        assert ag.get_num_threads() == 1
        return found

    assert ddp.run_ranks(body, 2) == [reference()] * 2


def test_other_numbers_of_shards() -> None:
    assert on_threads(3, shards=5, steps=15) == reference(shards=5, steps=15)
    assert on_threads(2, shards=5, steps=15) != reference(steps=15)


def test_gradients_of_several_steps_add_up() -> None:
    wanted = reference(accumulate=3, steps=15)
    assert on_threads(3, accumulate=3, steps=15) == wanted
    assert on_threads(8, accumulate=3, steps=15, plain=True) == wanted
    assert wanted != reference(steps=15)


def test_all_shards_count_the_same_on_request() -> None:
    options = {"weighted_mean": False, "steps": 12}
    wanted = reference(**options)
    assert on_threads(3, **options) == wanted
    assert wanted != reference(steps=12)


def test_gradients_are_those_of_the_whole_batch() -> None:
    def body() -> list[np.ndarray]:
        ddp.init_process_group()
        ag.manual_seed(0)
        model = ddp.DistributedDataParallel(nn.Linear(3, 2), logical_shards=4)
        x = ag.tensor(np.random.default_rng(1).standard_normal((11, 3)).astype(np.float32))
        low, high = (0, 6) if ddp.get_rank() == 0 else (6, 11)  # shards of 3, 3, 3 and 2
        for part in model.shards(x[low:high]):
            (model(part) ** 2).mean().backward()
        whole = nn.Linear(3, 2)
        whole.load_state_dict(model.state_dict())
        (whole(x) ** 2).mean().backward()
        for mine, theirs in zip(model.parameters(), whole.parameters(), strict=True):
            np.testing.assert_allclose(mine.grad.numpy(), theirs.grad.numpy(), rtol=1e-5)
        return [p.grad.numpy() for p in model.parameters()]

    one, two = ddp.run_ranks(body, 2)
    assert all((a == b).all() for a, b in zip(one, two, strict=True))


def test_without_logical_shards_the_batch_comes_once() -> None:
    ddp.init_process_group()
    try:
        model = ddp.DistributedDataParallel(nn.Linear(2, 1))
        x, y = ag.ones(3, 2), ag.ones(3)
        assert list(model.shards(x, y)) == [(x, y)]
        assert [part is x for part in model.shards(x)] == [True]
    finally:
        ddp.destroy_process_group()


def test_whatever_holds_samples_is_cut() -> None:
    ddp.init_process_group()
    try:
        model = ddp.DistributedDataParallel(nn.Linear(2, 1), logical_shards=2)
        batch = {"x": np.arange(10, dtype=np.float32).reshape(5, 2), "scale": 3.0}
        seen = []
        for value, (names, same) in model.shards(batch, (list("abcde"), "text")):
            seen.append((value["x"].tolist(), value["scale"], names, same))
            model(ag.tensor(value["x"])).sum().backward()
        assert [len(x) for x, *_ in seen] == [3, 2]
        assert seen[1] == ([[6.0, 7.0], [8.0, 9.0]], 3.0, ["d", "e"], "text")
    finally:
        ddp.destroy_process_group()


def raises(
    error: type[Exception], match: str, size: int, body: Callable[[Any], None], **options: Any
) -> None:
    def run() -> None:
        ddp.init_process_group(timeout=20)
        body(ddp.DistributedDataParallel(nn.Linear(2, 1), logical_shards=4, **options))

    with pytest.raises(error, match=match):
        ddp.run_ranks(run, size)


def step(model: Any, count: int = 4, runs: int = 1) -> None:
    for x in model.shards(ag.ones(count, 2)):
        for _ in range(runs):
            model(x).sum().backward()


def test_errors() -> None:
    def plain(model: Any) -> None:
        model(ag.ones(4, 2)).sum().backward()

    def left_early(model: Any) -> None:
        for x in model.shards(ag.ones(4, 2)):
            model(x).sum().backward()
            break
        step(model)

    def never(model: Any) -> None:
        for x in model.shards(ag.ones(4, 2)):
            model(x).sum()

    def no_sync(model: Any) -> None:
        with model.no_sync():
            step(model)

    def uneven(model: Any) -> None:
        data = TensorDataset(ag.ones(8 if ddp.get_rank() == 0 else 4, 2))
        for (batch,) in DataLoader(data, batch_size=4):
            for x in model.shards(batch):
                model(x).sum().backward()
        ddp.fingerprint(model, check=True)

    raises(DistributedError, "outside of the loop over the shards", 2, plain)
    raises(DistributedError, "left early", 2, left_early)
    raises(DistributedError, "shard 0 ran backward .* 0 times", 1, never)
    raises(DistributedError, "ran backward .* 2 times", 1, lambda m: step(m, runs=2))
    raises(DistributedError, "no_sync cannot be combined", 1, no_sync)
    raises(DistributedError, "count_samples cannot", 1, lambda m: m.count_samples(3))
    raises(DistributedError, "hook cannot", 1, lambda m: m.register_comm_hook(None, print))
    raises(ShapeError, "batch of 1 samples for 2", 2, lambda m: step(m, count=1))
    raises(DistributedError, r"ranks \[1\] make no step", 2, uneven)

    def other_reduction(model: Any) -> None:
        model._reducer.reduction = MeanReduction(model.process_group.communicator)
        step(model)

    raises(DistributedError, "MeanReduction has taken its place", 1, other_reduction)
    raises(OptionError, "there are 5 ranks", 5, step)
    raises(OptionError, "threads_per_shard=0", 1, step, threads_per_shard=0)


def test_modules_whose_bits_would_depend_on_ranks_are_refused() -> None:
    class SyncBatchNorm(nn.BatchNorm1d):
        pass

    def wrap(module: nn.Module, **options: Any) -> None:
        ddp.init_process_group()
        ddp.DistributedDataParallel(module, logical_shards=2, **options)

    for module, options, match in (
        (nn.Sequential(nn.Linear(2, 2), SyncBatchNorm(2)), {}, "module '1' is a SyncBatchNorm"),
        (nn.BatchNorm1d(2), {"broadcast_buffers": False}, "buffers='none'"),
        (nn.BatchNorm1d(2), {"buffer_sync": "average"}, "buffers='average'"),
    ):
        with pytest.raises(OptionError, match=match):
            ddp.run_ranks(lambda module=module, options=options: wrap(module, **options), 1)


def test_resume_at_another_number_of_ranks(tmp_path: Path) -> None:
    def run(begin: int, end: int, save: bool) -> str:
        ddp.init_process_group()
        ag.manual_seed(7)
        data = images(186)
        model = ddp.DistributedDataParallel(
            Net(), logical_shards=SHARDS, unused_parameters="ignore"
        )
        optimizer = optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
        sampler = ddp.ShardedBatchSampler(data, 32, SHARDS, seed=1)
        loader = DataLoader(data, batch_sampler=sampler)
        parts = {"model": model, "optimizer": optimizer, "loader": loader, "shards": model.logical}
        manager = ddp.CheckpointManager(tmp_path)
        if begin:
            manager.load_latest(**parts)
        done = begin
        while done < end:
            for x, y in loader:
                optimizer.zero_grad()
                for part in model.shards(x, y):
                    loss(model, *part).backward()
                optimizer.step()
                done += 1
                if done == end:
                    break
        if save:
            manager.save(step=done, **parts)
        return ddp.fingerprint(model, optimizer, check=True)

    wanted = ddp.run_ranks(lambda: run(0, 20, False), 1)[0]
    ddp.run_ranks(lambda: run(0, 8, True), 3)  # in the middle of the second epoch
    assert ddp.run_ranks(lambda: run(8, 14, True), 2)[0] != wanted
    assert ddp.run_ranks(lambda: run(14, 20, False), 4) == [wanted] * 4


MPI_SCRIPT = """
    import sys
    sys.path.insert(0, FOLDER)
    from test_reproducible import train
    from allgrad import ddp

    ddp.init_process_group(shared_memory=None if WAY == "shm" else False, timeout=60)
    assert ddp.get_backend() == WAY, ddp.get_backend()
    found = [train(), train(bucket_cap_mb=0.001), train(bucket_cap_mb=0, overlap=False)]
    if ddp.get_rank() == 0:
        print(*found)
    ddp.destroy_process_group()
"""


@pytest.mark.mpi
@pytest.mark.timeout(300)
@pytest.mark.parametrize(("ranks", "way"), [(4, "shm"), (3, "mpi")])
def test_processes(
    ranks: int, way: str, mpirun: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    folder = str(Path(__file__).parent)
    script = MPI_SCRIPT.replace("FOLDER", repr(folder)).replace("WAY", repr(way))
    done = mpirun(ranks, script, timeout_s=180.0)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.split() == [reference()] * 3
