"""How a wrapped model finds out whether overlapping pays: a clock of the test's own, never time."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
from support.ranks import backward, data, grads, network

from allgrad import ddp
from allgrad.ddp import reducer as reducers
from allgrad.ddp.overlap_choice import MARGIN, TRIAL, WARM_UP, OverlapChoice
from allgrad.errors import DistributedError, OptionError

STEPS = WARM_UP + TRIAL


class Clock:
    """Stands still unless it is moved."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class Alone:
    """The communicator of one rank; counts."""

    note, where, calls = "", "rank 0:", 0

    def all_reduce(self, array: Any, op: Any) -> None:
        self.calls += 1


def tried(during_s: float, after_s: float, wanted: bool | str = "auto") -> tuple[Any, list[bool]]:
    """A choice whose backward takes so long each way, after its trial; the ways of all steps."""
    clock, alone = Clock(), Alone()
    choice = OverlapChoice(wanted, clock)
    ways = []
    for _ in range(STEPS + 20):
        choice.begin()
        ways.append(choice.overlapping)
        clock.now += during_s if choice.overlapping else after_s
        choice.end(serving=False)
        choice.settle(alone)  # type: ignore[arg-type]
    assert alone.calls == (wanted == "auto")
    return choice, ways


def test_each_way_is_tried_equally_often_and_the_faster_one_kept_for_good() -> None:
    for during_s, after_s, kept in ((2.0, 3.0, True), (3.0, 2.0, False)):
        choice, ways = tried(during_s, after_s)
        assert choice.decided
        assert all(ways[:WARM_UP])
        assert ways[WARM_UP : WARM_UP + 4] == [True, False, False, True]
        assert sum(ways[WARM_UP:STEPS]) == TRIAL // 2
        assert ways[STEPS:] == [kept] * 20


def test_overlapping_stays_where_the_gain_is_small() -> None:
    assert tried(1.0, 1.0 - MARGIN / 2)[0].overlapping
    assert not tried(1.0, 1.0 - MARGIN * 2)[0].overlapping


def test_one_slow_step_decides_nothing() -> None:
    clock, alone = Clock(), Alone()
    choice = OverlapChoice("auto", clock)
    for number in range(STEPS):
        choice.begin()
        clock.now += 1.0 if choice.overlapping else 1.5
        clock.now += 100.0 if number == WARM_UP else 0.0  # an overlapping one
        choice.end(serving=False)
        choice.settle(alone)  # type: ignore[arg-type]
    assert choice.overlapping


@pytest.mark.parametrize("wanted", [True, False])
def test_what_is_given_is_never_tried(wanted: bool) -> None:
    assert tried(1.0, 1.0, wanted)[1] == [wanted] * (STEPS + 20)


def over_a_link(
    seconds: Callable[[int, bool], float], wanted: bool | str, **options: Any
) -> list[Any]:
    """Train two ranks over a modelled link; a backward takes what `seconds` of rank and way says.

    Per rank: the ways of the steps, collectives in each, gradients of the last.
    """

    def body() -> Any:
        ddp.init_process_group(link="100gbit,1us", timeout=20)
        model = ddp.DistributedDataParallel(
            network(), bucket_cap_mb=1e-4, overlap=wanted, **options
        )
        rank, reducer, clock = ddp.get_rank(), model._reducer, Clock()
        assert reducer is not None
        reducer.choice._clock = clock
        ways, issued = [], []

        def between(grad: Any) -> None:
            if reducer.synchronise:
                clock.now += seconds(rank, reducer.choice.overlapping)

        next(model.parameters()).register_hook(between)  # not the first gradient to come
        for step in range(STEPS + 3):
            before = reducer.timer.collectives
            if step % 3 == 1:
                with model.no_sync():
                    backward(model, *data(4, seed=rank))
            backward(model, *data(4, seed=rank + 2 * step))
            ways.append(reducer.choice.overlapping)
            issued.append(reducer.timer.collectives - before)
        result = ways, issued, grads(model)
        ddp.destroy_process_group()
        return result

    return ddp.run_ranks(body, 2)


def test_ranks_decide_together_and_the_slowest_counts() -> None:
    # rank 0 alone would overlap, rank 1 would not, and loses more
    seconds = {(0, True): 1.0, (0, False): 1.2, (1, True): 2.0, (1, False): 1.5}
    first, second = over_a_link(lambda rank, way: seconds[rank, way], "auto")
    assert first[0] == second[0]
    assert first[0][-3:] == [False] * 3
    # one collective more in the step of the decision, none later
    assert first[1][STEPS - 1] == first[1][STEPS - 2] + 1 == first[1][-1] + 1


def test_the_bits_are_the_same_either_way() -> None:
    results = [
        over_a_link(lambda rank, way: 1.0 if way else 0.5, wanted, static_graph=static)
        for wanted, static in (("auto", False), ("auto", True), (True, False))
    ]
    expected = results[0][0][2]
    assert results[0][0][0][-1] is False  # auto has left off overlapping
    for result in results:
        for _, _, found in result:
            np.testing.assert_array_equal(found, expected)


def test_a_rank_that_only_serves_takes_part_in_the_decision(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(
        reducers, "OverlapChoice", partial(OverlapChoice, clock=Clock())
    )  # nobody's time passes: overlapping stays

    def body() -> tuple[bool, bool]:
        ddp.init_process_group(link="100gbit,1us", timeout=20)
        model = ddp.DistributedDataParallel(network(), overlap="auto")
        rank, reducer = ddp.get_rank(), model._reducer
        assert reducer is not None
        with model.join():
            for step in range(STEPS + 2 if rank == 0 else 3):
                model.zero_grad()
                backward(model, *data(4, seed=rank + 2 * step))
        result = reducer.choice.decided, reducer.choice.overlapping
        ddp.destroy_process_group()
        return result

    assert ddp.run_ranks(body, 2) == [(True, True)] * 2


def test_in_shared_memory_nothing_is_tried() -> None:
    def body() -> bool:
        ddp.init_process_group(timeout=20)
        model = ddp.DistributedDataParallel(network())
        assert model._reducer is not None
        result = model._reducer.choice.decided
        ddp.destroy_process_group()
        return result

    assert ddp.run_ranks(body, 2) == [True, True]


def test_other_values_and_different_ones_are_refused() -> None:
    def unknown() -> None:
        ddp.init_process_group(timeout=20)
        with pytest.raises(OptionError, match="overlap 'never'; known: 'auto', True, False"):
            ddp.DistributedDataParallel(network(), overlap="never")
        ddp.destroy_process_group()

    ddp.run_ranks(unknown, 1)

    def different() -> None:
        ddp.init_process_group(timeout=20)
        with pytest.raises(DistributedError, match="different options"):
            ddp.DistributedDataParallel(network(), overlap=ddp.get_rank() == 0)

    ddp.run_ranks(different, 2)
