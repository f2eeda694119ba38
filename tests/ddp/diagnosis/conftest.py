"""Run a fault on some ranks and collect what every rank is told."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
from support.load import Lag

from allgrad import ddp

Diagnose = Callable[..., dict[int, BaseException]]


@pytest.fixture
def diagnose() -> Diagnose:
    """``diagnose(body, size=3, timeout=20)``: what each rank raised, by rank; all came within 1 s.

    Args:
        body: called with the rank, inside a process group.
        size: number of ranks, threads of this process.
        timeout: of the collectives, in seconds.
    """

    def run(body: Callable[[int], Any], size: int = 3, timeout: float = 20) -> Any:
        raised: dict[int, BaseException] = {}
        times: list[float] = []
        lock = threading.Lock()

        def each() -> None:
            ddp.init_process_group(timeout=timeout)
            rank = ddp.get_rank()
            try:
                body(rank)
            except BaseException as error:
                with lock:
                    raised[rank] = error
                    times.append(time.monotonic())
                raise

        with Lag() as lag, pytest.raises(BaseException):  # noqa: B017, PT011 - the caller looks
            ddp.run_ranks(each, size)
        if len(times) > 1:
            assert max(times) - min(times) < lag.limit(1.0)
        return raised

    return run
