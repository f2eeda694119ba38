"""The clock of a stop."""

from __future__ import annotations

from allgrad.launch.stop import Step, StopPlan


def test_steps_come_once_and_in_time():
    plan = StopPlan()
    assert plan.due(100.0, all_ended=True) == []
    plan.begin(10.0)
    times = {}
    for tick in range(400):
        now = 10.0 + tick / 100
        for step in plan.due(now, all_ended=False):
            assert step not in times
            times[step] = round(now - 10.0, 2)
    assert times == {Step.TERM: 0.3, Step.KILL: 1.3, Step.LEAVE: 1.8, Step.LAUNCHER: 2.5}
    assert max(times.values()) < 3.0


def test_workers_leave_at_once_when_all_ranks_have_ended():
    plan = StopPlan()
    plan.begin(10.0)
    assert plan.due(10.1, all_ended=True) == [Step.LEAVE]
    assert plan.due(10.2, all_ended=True) == []
    assert plan.due(10.9, all_ended=True) == [Step.LAUNCHER]


def test_patience_and_hurry():
    plan = StopPlan()
    plan.begin(0.0, patience_s=30.0)
    assert plan.begun
    assert plan.due(29.0, all_ended=False) == []
    plan.begin(29.0, patience_s=30.0)  # never later than promised
    assert plan.due(30.4, all_ended=False) == [Step.TERM]
    plan.hurry(30.5, Step.KILL)
    assert plan.due(30.5, all_ended=False) == [Step.KILL]
    assert plan.due(31.0, all_ended=False) == [Step.LEAVE]
