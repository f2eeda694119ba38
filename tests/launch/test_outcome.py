"""Last words of a job."""

from __future__ import annotations

import signal

import pytest

from allgrad.ddp.communicators.message_errors import died
from allgrad.launch.outcome import (
    Failure,
    Outcome,
    closing_lines,
    ended_by_mpi,
    failure_of_status,
    tells_of_a_death,
)

BOOM = Failure("rank 1", 1, "ValueError: boom\nmore", "Traceback\nValueError: boom", 1)


def test_success_is_silent():
    assert closing_lines(Outcome(0)) == []
    assert closing_lines(Outcome(0, signal=signal.SIGTERM)) == []


def test_first_failure_stands_last():
    others = [failure_of_status(rank, 7) for rank in (0, *range(2, 12))]
    lines = closing_lines(Outcome(1, (BOOM, *others)))
    assert lines[0] == "allgrad: rank 0 failed after it: exit code 7"
    assert lines[8] == "allgrad: and 3 more"
    assert lines[9:] == [
        "[1] Traceback",
        "[1] ValueError: boom",
        "allgrad: rank 1 failed first: ValueError: boom (exit code 1)",
    ]


@pytest.mark.parametrize(
    ("what", "tells"),
    [
        (
            "allgrad.errors.DistributedError: [rank 0/2] waits in x: the process is dead:\nrank",
            True,
        ),
        (f"allgrad.errors.DistributedError: {died('[rank 0/2]', 'receive', 1)}", True),
        ("allgrad.errors.DistributedError: [rank 0/2] waits in x: the program ended:", False),
        ("ValueError: my process is dead: really", False),
        ("killed by SIGKILL", False),
    ],
)
def test_who_learned_of_a_death_did_not_fail_first(what, tells):
    assert tells_of_a_death(Failure("rank 0", 1, what)) is tells


@pytest.mark.parametrize(
    ("failure", "other", "ended"),
    [
        (failure_of_status(1, 143), failure_of_status(3, -9), True),  # MPI saw the connection break
        (failure_of_status(1, 143), failure_of_status(3, -11), False),
        (failure_of_status(1, 143), failure_of_status(3, 137), False),  # os._exit(137)
        (BOOM, failure_of_status(3, -9), False),
        (failure_of_status(1, -9), failure_of_status(3, -9), False),
    ],
)
def test_who_mpi_ended_because_of_a_kill_did_not_fail_first(failure, other, ended):
    assert ended_by_mpi(failure, [failure, other]) is ended


def test_signals_have_names():
    killed = failure_of_status(0, -9)
    line = closing_lines(Outcome(killed.code, (killed,)))[-1]
    assert line.startswith("allgrad: rank 0 failed: killed by SIGKILL")
    assert line.endswith("(exit code 137)")


def test_ranks_that_die_of_the_signal_they_were_sent_did_not_fail():
    ends = tuple(failure_of_status(rank, -15) for rank in range(2))
    outcome = Outcome(143, ends, signal.SIGTERM)
    assert closing_lines(outcome) == ["allgrad: ended by SIGTERM (exit code 143)"]


def test_failure_while_saving_after_a_signal():
    lines = closing_lines(Outcome(1, (BOOM,), signal.SIGTERM))
    assert lines[-1] == "allgrad: after SIGTERM, rank 1 failed: ValueError: boom (exit code 1)"
