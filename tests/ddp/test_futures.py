"""Futures: completed by whoever asks, chained, and never silent about an error."""

from __future__ import annotations

import threading

import pytest

from allgrad.ddp import futures
from allgrad.ddp.futures import Future, future_of
from allgrad.ddp.work import Work
from allgrad.errors import DistributedError


class Steps:
    """A work that is done after some questions."""

    def __init__(self, questions: int, error: Exception | None = None) -> None:
        self.left, self.error = questions, error

    def test(self) -> bool:
        self.left -= 1
        if self.left <= 0 and self.error is not None:
            raise self.error
        return self.left <= 0

    def wait(self) -> None:
        self.left = 0
        self.test()


def test_asking_pushes_the_work_on() -> None:
    future = future_of(Steps(3), lambda: "there")
    assert [future.done() for _ in range(2)] == [False, False]
    with pytest.raises(DistributedError, match=r"before the future is done; call wait\(\)"):
        future_of(Steps(3), lambda: 0).value()
    assert future.done()
    assert future.value() == future.wait() == "there"


def test_then_follows_by_done_and_by_wait() -> None:
    first = future_of(Steps(2), lambda: 20)
    second = first.then(lambda f: f.value() + 1).then(lambda f: 2 * f.value())
    assert not second.done()
    assert second.done()
    assert second.value() == 42
    waited = future_of(Steps(9), lambda: 3).then(lambda f: f.value() ** 2)
    assert waited.wait() == 9
    assert waited.then(lambda f: -f.value()).value() == -9  # the origin was done before


def test_errors_travel_along_the_chain() -> None:
    broken = future_of(Steps(1, KeyError("gone")), lambda: 0)
    chained = broken.then(lambda f: f.value())
    for future in (chained, broken):
        with pytest.raises(KeyError, match="gone"):
            future.wait()
        assert future.done()
    rescued = broken.then(lambda f: "rescued")
    assert rescued.wait() == "rescued"
    raised = future_of(Steps(1), lambda: 1).then(lambda f: 1 // 0)
    with pytest.raises(ZeroDivisionError):
        raised.wait()


def test_a_future_made_by_hand_is_completed_by_another_thread() -> None:
    future: Future[int] = Future()
    seen: list[int] = []
    future.add_done_callback(lambda f: seen.append(f.value()))
    timer = threading.Timer(0.02, future.set_result, [5])
    timer.start()
    assert future.wait() == 5
    timer.join()
    assert seen == [5]
    with pytest.raises(DistributedError, match="completed before"):
        future.set_result(6)


def test_collect_all_and_wait_all() -> None:
    parts = [future_of(Steps(n), lambda n=n: n) for n in (1, 3, 2)]
    together = futures.collect_all(parts)
    assert not together.done()
    assert [f.value() for f in together.wait()] == [1, 3, 2]
    assert futures.wait_all(parts) == [1, 3, 2]


def test_work_has_the_names_of_pytorch() -> None:
    finished: list[int] = []
    work = Work(Steps(3), ["tensor"], lambda: finished.append(1))
    assert not work.is_completed()
    assert not work.is_success()
    assert work.get_future() is work.get_future()
    doubled = work.get_future().then(lambda f: f.value()[0] * 2)
    assert work.wait()
    assert work.wait(timeout=1)
    assert finished == [1]
    assert work.is_completed()
    assert work.is_success()
    assert doubled.wait() == "tensortensor"
    failing = Work(Steps(1, KeyError("gone")), [])
    with pytest.raises(KeyError):
        failing.wait()
    assert failing.is_completed()
    assert isinstance(failing.exception(), KeyError)
    with pytest.raises(DistributedError, match=r"was not done within 0\.01 s"):
        Work(Steps(10**9), [], describe="all_reduce").wait(timeout=0.01)
    with pytest.raises(DistributedError, match="messages that have been received"):
        work.source_rank()
