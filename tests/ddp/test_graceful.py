"""A signal that one rank gets ends all ranks at the same step."""

from __future__ import annotations

import os
import signal

import pytest

import allgrad as ag
from allgrad import ddp, nn, optim


def left_at(size, wrapped, asked, number=signal.SIGTERM, steps=9):
    """The step at which each rank heard of the signal that rank `asked[0]` got in step asked[1]."""

    def rank():
        ddp.init_process_group()
        model = nn.Linear(2, 1)
        if wrapped:
            model = ddp.DistributedDataParallel(model)
        optimizer = optim.SGD(model.parameters(), lr=0.1)
        heard = None
        with ddp.graceful_exit(leave=False) as stop:
            for step in range(steps):
                if (ddp.get_rank(), step) == asked:
                    stop.request(number)
                optimizer.zero_grad()
                model(ag.ones(3, 2)).sum().backward()
                optimizer.step()
                if stop.requested():
                    heard = step
                    break
        with ddp.graceful_exit() as again:
            assert not again.requested()  # the next one begins anew
        ddp.destroy_process_group()
        return heard

    return ddp.run_ranks(rank, size)


@pytest.mark.parametrize("wrapped", [True, False])
@pytest.mark.parametrize("size", [1, 3])
def test_all_ranks_hear_of_it_in_the_same_step(size, wrapped):
    assert left_at(size, wrapped, (size - 1, 4)) == [4] * size
    assert left_at(size, wrapped, (0, 0)) == [0] * size
    assert left_at(size, wrapped, (0, 99)) == [None] * size


def test_a_wrapped_model_needs_no_further_collective(monkeypatch):
    calls = []
    real = ddp.graceful_exit.requested

    def requested(self):
        before = self._group.meet
        self._group.meet = lambda: calls.append("met")
        try:
            return real(self)
        finally:
            self._group.meet = before

    monkeypatch.setattr(ddp.graceful_exit, "requested", requested)
    assert left_at(2, True, (1, 3)) == [3, 3]
    assert len(calls) == 0
    left_at(2, False, (1, 3))
    assert len(calls) > 0


def test_the_exit_code_is_that_of_the_signal():
    ddp.init_process_group()
    before = [signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGUSR1)]

    def two_signals():
        with ddp.graceful_exit() as stop:
            assert not stop.requested()
            os.kill(os.getpid(), signal.SIGUSR1)
            os.kill(os.getpid(), signal.SIGTERM)  # the first one counts
            assert stop.requested()

    with pytest.raises(SystemExit) as leaving:
        two_signals()
    assert (leaving.value.code, leaving.value.signal) == (138, signal.SIGUSR1)
    assert [signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGUSR1)] == before
    ddp.destroy_process_group()


def test_an_error_passes():
    ddp.init_process_group()

    def fail():
        with ddp.graceful_exit() as stop:
            stop.request()
            assert stop.requested()
            raise ValueError("mine")

    with pytest.raises(ValueError, match="mine"):
        fail()
    ddp.destroy_process_group()
