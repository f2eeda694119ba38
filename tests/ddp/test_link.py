"""The link model: how long collectives take over it, and that nothing else changes."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from allgrad import ddp, nn, optim
from allgrad.ddp import ReduceOp, run_ranks
from allgrad.ddp.communicators.base import Communicator
from allgrad.ddp.communicators.link import PRESETS, Link, LinkCommunicator, linked
from allgrad.ddp.communicators.local import LocalCommunicator
from allgrad.ddp.process_group import default_group
from allgrad.errors import DistributedError, OptionError

PATIENCE_S = 0.25  # a busy machine wakes threads late; never early


def over(link: str, body: Callable[[Communicator], Any], size: int = 2) -> list[Any]:
    """Results of `body` on each rank's communicator over the link."""

    def rank() -> Any:
        ddp.init_process_group(link=link, timeout=20)
        result = body(default_group().communicator)
        ddp.destroy_process_group()
        return result

    return run_ranks(rank, size)


@pytest.mark.parametrize(
    ("text", "latency_s", "bandwidth"),
    [
        ("1gbit,50us", 50e-6, 125e6),
        ("1Gbit", 50e-6, 125e6),
        ("10gbit, 5 us", 5e-6, 1250e6),
        ("2.5gbit,1ms", 1e-3, 312.5e6),
        ("400mb/s", 50e-6, 400e6),
        ("nvlink", *reversed(PRESETS["nvlink"])),
        ("nvlink,5us", 5e-6, 450e9),
        ("56kbit,0.2s", 0.2, 7e3),
    ],
)
def test_links_are_read(text: str, latency_s: float, bandwidth: float) -> None:
    link = Link.parse(text)
    assert link.latency_s == pytest.approx(latency_s)
    assert link.bandwidth_bytes_per_s == pytest.approx(bandwidth)


@pytest.mark.parametrize("text", ["", "fast", "1gbit,slow", "gbit", "0gbit", "1gbit,50us,3"])
def test_what_is_no_link_is_refused_with_the_known_ones(text: str) -> None:
    with pytest.raises(OptionError, match=r"Expected a rate and maybe a latency.*nvlink"):
        Link.parse(text)


def test_cost_of_collectives() -> None:
    link = Link(latency_s=1e-3, bandwidth_bytes_per_s=1e6)
    assert link.all_reduce_s(2, 1_000_000) == pytest.approx(2e-3 + 1.0)
    assert link.all_reduce_s(4, 1_000_000) == pytest.approx(4e-3 + 1.5)
    assert link.all_reduce_s(1, 1_000_000) == 0
    assert link.broadcast_s(3, 500_000) == pytest.approx(2e-3 + 0.5)
    assert link.all_gather_s(4, 100_000) == pytest.approx(2e-3 + 0.3)
    assert link.scatter_s(4, 400_000) == pytest.approx(2e-3 + 0.3)


def test_an_all_reduce_takes_its_time_after_the_last_rank_came() -> None:
    def body(c: Communicator) -> tuple[float, float]:
        c.barrier()
        if c.rank == 1:
            time.sleep(0.1)
        arrived = time.monotonic()
        c.all_reduce(np.ones(25_000, np.float32))  # 100 KB at 1 MB/s
        return arrived, time.monotonic()

    (first, done0), (second, done1) = over("1mb/s,1us", body)
    assert second - first > 0.08
    for done in (done0, done1):
        assert 0.099 <= done - second <= 0.1 + PATIENCE_S
    assert abs(done0 - done1) < PATIENCE_S


def test_collectives_share_the_link_one_after_the_other() -> None:
    def body(c: Communicator) -> list[float]:
        arrays = [np.full(12_500, float(c.rank), np.float32) for _ in range(3)]  # 50 ms each
        c.barrier()
        begin = time.monotonic()
        works = [c.all_reduce(a, ReduceOp.SUM, async_op=True) for a in arrays]
        assert time.monotonic() - begin < 0.045 + PATIENCE_S
        assert not works[2].test()
        ends = []
        for work in works:
            work.wait()
            assert work.test()
            ends.append(time.monotonic() - begin)
        assert all((a == 1).all() for a in arrays)
        return ends

    for ends in over("1mb/s,1us", body):
        for number, end in enumerate(ends, 1):
            assert 0.05 * number - 1e-3 <= end <= 0.05 * number + PATIENCE_S


def test_waiting_burns_no_processor_time() -> None:
    def body(c: Communicator) -> float:
        c.barrier()
        begin = time.thread_time()
        c.all_reduce(np.ones(75_000, np.float32))  # 300 ms
        return time.thread_time() - begin

    assert max(over("1mb/s,1us", body)) < 0.1


def test_work_done_meanwhile_is_hidden() -> None:
    def body(c: Communicator) -> float:
        c.barrier()
        begin = time.monotonic()
        work = c.all_reduce(np.ones(50_000, np.float32), async_op=True)  # 200 ms
        while time.monotonic() - begin < 0.15:
            work.test()
            time.sleep(0.005)
        work.wait()
        return time.monotonic() - begin

    assert all(0.199 <= taken <= 0.2 + PATIENCE_S for taken in over("1mb/s,1us", body))


def test_objects_and_other_collectives_are_slow_too() -> None:
    def body(c: Communicator) -> None:
        for collective in (
            lambda: c.all_gather(np.zeros(50_000, np.uint8)),
            lambda: c.broadcast(np.zeros(50_000, np.uint8)),
            lambda: c.reduce_scatter(np.zeros((2, 50_000), np.uint8)),
            lambda: c.all_gather_object("x" * 50_000),
        ):
            c.barrier()
            begin = time.monotonic()
            collective()
            assert 0.049 <= time.monotonic() - begin <= 0.05 + PATIENCE_S

    over("1mb/s,1us", body)


def test_what_the_communicator_inside_knows_passes_through() -> None:
    def body(c: Communicator) -> None:
        assert isinstance(c, Communicator)
        assert isinstance(c, LinkCommunicator)
        c.note, c.step = "bucket 1 of 2", 7
        assert (c.inner.note, c.inner.step) == ("bucket 1 of 2", 7)
        assert (c.note, c.step, c.name) == ("bucket 1 of 2", 7, "thread")
        assert c.where == f"[rank {c.rank}/2]"
        with pytest.raises(AttributeError, match="no_such_thing"):
            _ = c.no_such_thing

    over("100gbit", body)


def test_one_rank_has_no_link() -> None:
    local = LocalCommunicator()
    assert linked(local, "1gbit") is local


def test_mistakes_are_named_as_without_a_link() -> None:
    with pytest.raises(DistributedError, match=r"differ"):
        over("100gbit", lambda c: c.all_reduce(np.ones(c.rank + 1)))


def test_the_variable_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALLGRAD_LINK", "25gbit")

    def rank() -> Any:
        ddp.init_process_group()
        return default_group().communicator.link  # type: ignore[attr-defined]

    assert run_ranks(rank, 2) == [Link.parse("25gbit")] * 2


def test_training_gives_the_same_bits_as_without_a_link() -> None:
    def train(link: str | None) -> bytes:
        import allgrad as ag

        ddp.init_process_group(link=link)
        ag.manual_seed(1)
        net = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.BatchNorm1d(16), nn.Linear(16, 3))
        model = ddp.DistributedDataParallel(net, bucket_cap_mb=0.0002)
        optimizer = optim.SGD(model.parameters(), lr=0.1)
        rng = np.random.default_rng(ddp.get_rank())
        for _ in range(4):
            optimizer.zero_grad()
            model(ag.tensor(rng.standard_normal((5, 8)).astype(np.float32))).sum().backward()
            optimizer.step()
        bits = b"".join(p._array.tobytes() for p in model.parameters())
        ddp.destroy_process_group()
        return bits

    plain, slow = (run_ranks(lambda: train(link), 3) for link in (None, "1gbit,100us"))  # noqa: B023
    assert len({*plain, *slow}) == 1
