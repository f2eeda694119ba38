"""The one text that all ranks raise: who differs, where each is, the likely cause and the fix.

Stage of the flow: pure functions of what the ranks have said. May import: `causes`, `activity`,
`statement`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from allgrad.ddp.diagnosis.activity import activity, user_lines
from allgrad.ddp.diagnosis.causes import (
    GONE,
    LEFT,
    MISMATCH,
    STUCK,
    TIMEOUT,
    Finding,
    likely_cause,
    names,
)
from allgrad.ddp.diagnosis.statement import Call, Statement

_MOST_LINES = 24  # groups of ranks that are told apart in one text


def compose(
    finding: Finding, statements: Mapping[int, Statement], show_record: bool = False
) -> str:
    """Write the report.

    Args:
        finding: what was noticed, by whichever rank was first.
        statements: of all ranks, by rank.
        show_record: end with the last collectives of every rank.
    """
    finding = settled(finding, statements)
    lines = [_headline(finding, statements), *_groups(finding, statements)]
    lines += _cause_lines(finding, statements)
    if show_record:
        lines += _records(statements)
    return "\n".join(lines)


def settled(finding: Finding, statements: Mapping[int, Statement]) -> Finding:
    """Of a collective of GPUs that does not end: did some ranks not come, or issue another one?"""
    if finding.kind != STUCK or finding.sequence == 0:
        return finding
    calls = {rank: said.call_at(finding.sequence) for rank, said in statements.items()}
    late = tuple(rank for rank, call in calls.items() if call is None)
    if late:
        return replace(finding, kind=TIMEOUT, ranks=late)
    if len({(call.what, call.note) for call in calls.values() if call is not None}) > 1:
        return replace(finding, kind=MISMATCH)
    return finding


def by_name(
    finding: Finding, statements: Mapping[int, Statement], members: Sequence[int] | None
) -> tuple[Finding, dict[int, Statement]]:
    """Ranks of a group under the numbers that they have in the job."""
    if members is None:
        return finding, dict(statements)
    renamed = {members[r]: replace(s, rank=members[r]) for r, s in statements.items()}
    return replace(finding, ranks=tuple(members[r] for r in finding.ranks)), renamed


def stall_warning(finding: Finding, statements: Mapping[int, Statement], timeout_s: float) -> str:
    """The words of a rank that has waited for long and goes on waiting."""
    late = names(finding.ranks)
    head = f"has waited {finding.seconds:.0f} s for {late}, and goes on until {timeout_s:g} s:"
    body = _groups(finding, statements)
    return "\n".join([head, *body, *_cause_lines(finding, statements)])


def _cause_lines(finding: Finding, statements: Mapping[int, Statement]) -> list[str]:
    cause = likely_cause(finding, statements)
    ends = ["" if text.endswith("?") else "." for text in cause]
    return [f"Likely cause: {cause.cause}{ends[0]}", f"Fix: {cause.fix}{ends[1]}"]


def _headline(finding: Finding, statements: Mapping[int, Statement]) -> str:
    ranks = names(finding.ranks)
    awaited = _awaited(finding, statements)
    if finding.kind == MISMATCH:
        return f"ranks call different collectives{_at_step(finding, statements)}:"
    said = f" (NCCL says: {finding.detail})" if finding.detail else ""
    if finding.kind == STUCK and finding.sequence == 0:
        return f"collectives of GPUs have failed{said}:"
    if finding.kind == STUCK:
        verb = "has failed" if said else f"has not ended for {finding.seconds:g} s"
        return f"{awaited} {verb}{said}:"
    if finding.detail:
        return f"{awaited} has failed{said}; not arrived at it: {ranks}:"
    if finding.kind == LEFT:
        return f"waits in {awaited}, which {ranks} will never have arrived at: the program ended:"
    if finding.kind == GONE:
        return f"waits in {awaited}, which {ranks} will never have arrived at: the process is dead:"
    return f"waited {finding.seconds:g} s in {awaited}; not arrived at it: {ranks}:"


def _at_step(finding: Finding, statements: Mapping[int, Statement]) -> str:
    calls = [statement.call_at(finding.sequence) for statement in statements.values()]
    steps = sorted({call.step for call in calls if call is not None and call.step})
    return f" at step {' and '.join(map(str, steps))}" if steps else ""


def _awaited(finding: Finding, statements: Mapping[int, Statement]) -> str:
    for rank, statement in statements.items():
        call = statement.call_at(finding.sequence)
        if rank not in finding.ranks and call is not None:
            return call.what
    return f"operation {finding.sequence}"


def _groups(finding: Finding, statements: Mapping[int, Statement]) -> list[str]:
    """One line per set of ranks that have the same to say, and stacks of those that do not come."""
    groups: dict[tuple[str, ...], list[int]] = {}
    for rank, statement in sorted(statements.items()):
        groups.setdefault(_told(finding, statement), []).append(rank)
    lines = []
    for told, ranks in list(groups.items())[:_MOST_LINES]:
        lines.append(f"  {names(ranks)}: {told[0]}")
        lines += [f"    {more}" for more in told[1:]]
    if len(groups) > _MOST_LINES:
        lines.append(f"  ... and {len(groups) - _MOST_LINES} more groups of ranks")
    return lines


def _told(finding: Finding, statement: Statement) -> tuple[str, ...]:
    call = statement.call_at(finding.sequence)
    late = statement.rank in finding.ranks and finding.kind != MISMATCH
    if call is not None and not late:
        verb = "calls" if finding.kind == MISMATCH else "waits in"
        return (f"{verb} {call_words(call)}",)
    return _absent(statement)


def _absent(statement: Statement) -> tuple[str, ...]:
    """A rank that has not come to the collective: what it does, since when, and its stack."""
    last = statement.last
    before = f"its last collective was {call_words(last)}" if last else "it has made no collective"
    if statement.state == "ended":
        return (f"has ended; {before}",)
    if statement.state == "silent" and last is None:
        return (f"does not answer: {statement.detail}",)  # who has said nothing is not known
    if statement.state in ("gone", "stopped", "silent"):
        return (f"does not answer: {statement.detail}; {before}",)
    if statement.state == "waits" and last is not None:
        return (f"waits elsewhere, in {call_words(last)}",)
    lines = user_lines(statement.stack)
    where = f" at {lines[0]}" if lines else ""
    more = [f"called from {line}" for line in lines[1:]]
    doing = f"waits in a {statement.message}" if statement.message else activity(statement.stack)
    return (f"{doing}{where}; {before}", *more)


def call_words(call: Call) -> str:
    """Collective, purpose, step and line of a call."""
    note = f" for {call.note}" if call.note else ""
    step = f", step {call.step}" if call.step else ""
    where = f", at {call.place}" if call.place is not None else ""
    return f"{call.what}{note}{step}{where}"


def _records(statements: Mapping[int, Statement]) -> list[str]:
    lines = []
    for rank, statement in sorted(statements.items()):
        lines.append(f"Last collectives of rank {rank}, the newest at the end:")
        lines += record_lines(statement.calls)
    return lines


def record_lines(calls: Sequence[Call]) -> list[str]:
    """One line per collective of a flight record."""
    return [f"  {call.number}: {call_words(call)} ({call.age_s:.3f} s ago)" for call in calls]
