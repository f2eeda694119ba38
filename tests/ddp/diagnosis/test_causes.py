"""Which cause is told for what ranks have said: each rule of the table, without any rank."""

from __future__ import annotations

from typing import Any

import pytest

from allgrad.ddp.diagnosis.causes import (
    GONE,
    LEFT,
    MISMATCH,
    TIMEOUT,
    Evidence,
    Finding,
    likely_cause,
    names,
    parse,
)
from allgrad.ddp.diagnosis.source import Place
from allgrad.ddp.diagnosis.statement import Call, Statement

SUM = "all_reduce of 16 bytes (float32, sum)"


def call(what: str = SUM, line: int = 3, sequence: int = 1, note: str = "", **more: Any) -> Call:
    fields = {"step": 0, "condition": "", "age_s": 0.0, **more}
    place = Place("train.py", line, "main", "ddp.something()")
    return Call(sequence, sequence, what, note, fields["step"], place, fields["condition"], 0.0)


def said(rank: int, *calls: Call, state: str = "waits", **more: Any) -> Statement:
    reached = calls[-1].sequence if calls else 0
    return Statement(rank, state, reached, reached, list(calls), **more)


def mismatch(*each: Call | tuple[Call, ...]) -> str:
    """Cause and fix where the ranks' last calls are compared."""
    rows = [(one,) if isinstance(one, Call) else one for one in each]
    sequence = rows[0][-1].sequence
    statements = {rank: said(rank, *calls) for rank, calls in enumerate(rows)}
    return " | ".join(likely_cause(Finding(MISMATCH, sequence, (1,)), statements))


def absent(kind: str, late: Statement, *others: Statement, sequence: int = 1) -> str:
    """Cause and fix where rank 1 has not come; the others wait in a sum."""
    waiting = others or (said(0, call()), said(2, call()))
    statements = {s.rank: s for s in (*waiting, late)}
    return " | ".join(likely_cause(Finding(kind, sequence, (late.rank,), 1.0), statements))


@pytest.mark.parametrize(
    ("what", "parts"),
    [
        (SUM, ("all_reduce", "16", "float32", "sum", None)),
        ("broadcast of 8 bytes from rank 12", ("broadcast", "8", None, None, "12")),
        ("reduce of 8 bytes to rank 0", ("reduce", "8", None, None, "0")),
        ("barrier", ("barrier", None, None, None, None)),
        ("sum of 16 bytes over 3 shards", ("sum of 16 bytes over 3 shards", *[None] * 4)),
    ],
)
def test_words_are_taken_apart(what: str, parts: tuple[str | None, ...]) -> None:
    assert tuple(parse(what)) == parts


def test_the_smaller_side_is_the_odd_one_and_of_equal_ones_that_without_the_lowest_rank() -> None:
    def odd(*calls: str) -> list[int]:
        statements = {rank: said(rank, call(what)) for rank, what in enumerate(calls)}
        return Evidence(Finding(MISMATCH, 1, (0,)), statements).odd

    assert odd("a", "b", "a") == [1]
    assert odd("a", "b", "b") == [0]
    assert odd("a", "b") == [1]
    assert odd("a", "b", "a", "b") == [1, 3]
    assert odd("a", "a") == [0]  # nobody differs any more: those of the finding


def test_long_lists_of_ranks_are_cut() -> None:
    assert names([3]) == "rank 3"
    assert names(range(14)).endswith("10, 11 and 2 more")


def test_one_field_that_differs_is_the_cause() -> None:
    ours = call("broadcast of 8 bytes from rank 0")
    assert "different sources: rank 1 says 1, the others 0" in mismatch(
        ours, call("broadcast of 8 bytes from rank 1"), ours
    )
    maximum = call("all_reduce of 16 bytes (float32, max)")
    assert "rank 1 reduces with 'max', the others with 'sum'" in mismatch(call(), maximum, call())
    double = call("all_reduce of 32 bytes (float64, sum)")
    assert "another dtype on rank 1: autocast" in mismatch(call(), double, call())
    longer = call("all_reduce of 20 bytes (float32, sum)")
    assert "another size on rank 1: the last, smaller batch" in mismatch(call(), longer, call())
    elsewhere = longer._replace(place=Place("train.py", 9, "", ""))
    told = mismatch(call(), elsewhere, call())
    assert "the ranks are at different lines" in told
    assert "same calls in the same order" in told


def test_buckets_of_one_step_and_of_different_ones() -> None:
    first, second = "bucket 1 of 2 (a)", "bucket 1 of 3 (a)"
    told = mismatch(call(note=first, step=4), call(note=second, step=4), call(note=first, step=4))
    assert "not cut into the same buckets" in told
    told = mismatch(call(note=first, step=4), call(note=second, step=5), call(note=first, step=4))
    assert "rank 1 is at step 5, the others at step 4" in told


@pytest.mark.parametrize(
    "part", ["statistics of SyncBatchNorm", "parameters of ZeroRedundancyOptimizer"]
)
def test_a_step_that_one_rank_does_not_make(part: str) -> None:
    header, inside, name = call(note="step header"), call(note=part), part.rpartition(" ")[2]
    for rows in ((inside, header, inside), (header, inside, header)):
        odd = names([1]) if rows[1] is header else names([0, 2])
        told = mismatch(*rows)
        assert f"{odd} had fewer batches, or left a step out. {name} needs" in told
        assert "drop_last=True" in told


def test_a_users_collective_beside_a_step() -> None:
    mine = call("barrier", 7, condition="under `if rank == 1` (line 6)")
    inside = call(note="bucket 1 of 1 (w)")
    told = mismatch(inside, mine, inside)
    assert "rank 1 called a collective at train.py:7 while the others were in a step" in told
    assert "stands under `if rank == 1` (line 6)" in told
    assert "ranks 0, 2 called" in mismatch(mine, inside, mine)


def test_a_call_that_was_skipped() -> None:
    told = mismatch(call(), call("barrier", 5, condition="after `if x: continue` (line 4)"), call())
    assert "ranks 0, 2 skipped the call at train.py:5, which stands after `if x: continue`" in told


def test_one_call_ahead_or_one_extra() -> None:
    a, b = call("barrier", 3, 1), call(SUM, 4, 2)
    again, ahead = call("barrier", 3, 3), call(SUM, 4, 3)
    told = mismatch((a, b, again), (a, b, ahead), (a, b, again))
    assert "rank 1 is one collective ahead: it did not make the call at train.py:3" in told
    assert "make the call at train.py:3 on all ranks, or on none" in told
    extra = call(SUM, 9, 2)  # between what all others do
    told = mismatch((a, b), (a, extra), (a, b))
    assert "took another branch" in told  # nothing is known yet of what follows
    c, d = call("barrier", 3, 1), call(SUM, 4, 2)
    told = mismatch((c, d, call(SUM, 4, 3)), (c, d, call("barrier", 3, 3)), (c, d, call(SUM, 4, 3)))
    assert "rank 1 made an extra call at train.py:3; the others (ranks 0, 2) went on" in told


def test_another_branch_and_the_same_line() -> None:
    told = mismatch(call(), call("barrier", 8, condition="under `if rank` (line 7)"), call())
    assert "rank 1 took another branch than the others" in told
    assert "stands under `if rank` (line 7)" in told
    assert "the same line calls something else on rank 1" in mismatch(
        call(), call("barrier"), call()
    )


def test_too_little_is_known() -> None:
    finding = Finding(MISMATCH, 5, (1,))
    cause = likely_cause(finding, {0: said(0), 1: said(1)})
    assert "too little is known" in cause.cause
    assert "ALLGRAD_DIAGNOSIS=full" in cause.fix


def test_a_rank_that_ended() -> None:
    ended = said(1, state="ended")
    assert "the program of rank 1 ended (early return" in absent(LEFT, ended)
    inside = (said(0, call(note="step header")), said(2, call(note="step header")))
    assert "rank 1 had fewer batches, or left the loop early" in absent(LEFT, ended, *inside)


def test_a_rank_that_died_or_was_stopped() -> None:
    assert "was killed (out of memory" in absent(GONE, said(1, state="gone"))
    told = absent(TIMEOUT, said(1, state="stopped", pid=77))
    assert "rank 1 was stopped by a signal" in told
    assert "kill -CONT 77" in told


def test_a_rank_that_waits_for_a_message() -> None:
    words = "receive of 8 bytes from rank 0, tag 0"
    told = absent(TIMEOUT, said(1, state="runs", message=words))
    assert f"rank 1 waits in a {words}" in told
    assert "each send needs a receive" in told


@pytest.mark.parametrize(
    ("line", "cause", "fix"),
    [
        ("time.sleep(9)", "rank 1 sleeps", "wait in a collective or not at all"),
        ("lock.acquire()", "waits for a lock", "held by another thread"),
        ("while True: pass", "computes: an endless loop", "raise `timeout`"),
    ],
)
def test_a_rank_that_is_busy(line: str, cause: str, fix: str) -> None:
    told = absent(TIMEOUT, said(1, state="runs", stack=[Place("train.py", 3, "main", line)]))
    assert cause in told
    assert fix in told


def test_a_rank_that_says_nothing() -> None:
    told = absent(TIMEOUT, said(1, state="silent"))
    assert "the host of rank 1, or the network between it and the others, is gone" in told
    earlier = said(1, call(), state="silent")
    others = (said(0, call(sequence=2)), said(2, call(sequence=2)))
    told = absent(TIMEOUT, earlier, *others, sequence=2)
    assert "rank 1 is stuck, slower than the time-out" in told


@pytest.mark.parametrize(
    ("module", "function", "found"),
    [
        ("allgrad.ddp.communicators.mpi_inquiry", "fail", True),
        ("allgrad.ddp.diagnosis.inquiry", "fail", True),
        ("allgrad.ddp.diagnosis.inquiry", "answer", False),
        ("inquiry.py", "fail", False),
    ],
)
def test_a_rank_that_is_late_because_it_tells_of_a_failure(module, function, found) -> None:
    stack = [
        Place(module, 7, "_send", ""),
        Place(module, 8, function, ""),
        Place("t.py", 9, "", ""),
    ]
    assert Statement(1, "runs", stack=stack).tells_of_another_failure == found
    assert not Statement(1, "runs").tells_of_another_failure
