"""The thread that moves messages while a rank computes: when it calls MPI, and when it does not."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator
from types import SimpleNamespace

import pytest

from allgrad.ddp.communicators.mpi_background import MpiBackground


class Comm:
    """Counts the calls."""

    def __init__(self) -> None:
        self.calls = 0

    def Iprobe(self, source: int, tag: int) -> bool:  # noqa: N802 - MPI's name
        self.calls += 1
        return False


class Work:
    """Stands for a collective."""


@pytest.fixture
def comm() -> Comm:
    return Comm()


@pytest.fixture
def background(comm: Comm) -> Iterator[MpiBackground]:
    made = MpiBackground(SimpleNamespace(ANY_SOURCE=-1), comm)
    yield made
    made.close()
    assert made._thread is None or not made._thread.is_alive()


def until(what: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not what():
        assert time.monotonic() < deadline
        time.sleep(1e-3)


def comes_to_rest(comm: Comm) -> bool:
    before = comm.calls
    time.sleep(0.05)
    return comm.calls == before


def test_it_calls_while_something_is_under_way(background: MpiBackground, comm: Comm) -> None:
    assert background._thread is None  # none where nothing was ever started
    first, second = Work(), Work()
    background.begins(first)
    background.begins(second)
    until(lambda: comm.calls > 3)
    background.ends(first)
    seen = comm.calls
    until(lambda: comm.calls > seen + 3)
    background.ends(second)
    until(lambda: comes_to_rest(comm))
    background.begins(first)
    seen = comm.calls
    until(lambda: comm.calls > seen)


def test_it_forgets_what_nobody_holds(background: MpiBackground, comm: Comm) -> None:
    work = Work()
    background.begins(work)
    until(lambda: comm.calls > 0)
    del work
    gc.collect()
    until(lambda: comes_to_rest(comm))


def test_it_stays_away_while_the_rank_pushes(background: MpiBackground, comm: Comm) -> None:
    work = Work()
    background.begins(work)
    background.pushed_s = time.perf_counter() + 1e6  # as if the rank pushed for ever
    until(lambda: comes_to_rest(comm))
    seen, background.pushed_s = comm.calls, 0.0
    until(lambda: comm.calls > seen)


def test_it_ends_at_once(background: MpiBackground, comm: Comm) -> None:
    work = Work()
    background.begins(work)
    background.close()
    assert background._thread is not None
    assert not background._thread.is_alive()
    background.close()
