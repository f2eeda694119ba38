"""Why ranks disagree, most likely, and what to do: a table of rules over what they said.

Stage of the flow: pure functions, read by `report`. May import: `statement`, `activity`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

from allgrad.ddp.diagnosis.activity import activity
from allgrad.ddp.diagnosis.statement import Call, Statement

MISMATCH, LEFT, GONE, TIMEOUT = "mismatch", "left", "gone", "timeout"
STUCK = "stuck"  # of a collective of GPUs, before it is known why


@dataclass(frozen=True)
class Finding:
    """What a rank has noticed.

    Attributes:
        kind: MISMATCH: operations differ; LEFT: a rank has ended; GONE: its process is dead;
            TIMEOUT: it did not come; STUCK: a GPU does not get over a collective.
        sequence: number of the operation concerned.
        ranks: that have ended, are dead, or late; for MISMATCH those that differ, as far as known.
        seconds: how long was waited.
        detail: what a library says about it, or "".
    """

    kind: str
    sequence: int
    ranks: tuple[int, ...] = ()
    seconds: float = 0.0
    detail: str = ""


class Signature(NamedTuple):
    """The parts of a collective's words; None where it has no such part."""

    kind: str
    size_bytes: str | None
    dtype: str | None
    op: str | None
    root: str | None


_WORDS = re.compile(
    r"(?P<kind>.*?)(?: of (?P<size>\d+) bytes)?(?: \((?P<dtype>\w+), (?P<op>\w+)\))?"
    r"(?: (?:from|to) rank (?P<root>\d+))?"
)


def parse(what: str) -> Signature:
    """Take the words of `Call.what` apart.

    Example:
        >>> parse("all_reduce of a bucket of 8 bytes (float32, avg)")[:4]
        ('all_reduce of a bucket', '8', 'float32', 'avg')
    """
    found = _WORDS.fullmatch(what)
    return Signature(what, None, None, None, None) if found is None else Signature(*found.groups())


class Cause(NamedTuple):
    """Likely cause and fix, each a sentence or two without the full stop."""

    cause: str
    fix: str


class Evidence:
    """What is known, in the shape in which rules ask for it.

    Attributes:
        calls: per rank that came to the operation, the collective it belongs to.
        odd, usual: ranks that differ from the others, and those others.
        a, b: a call of each.
    """

    def __init__(self, finding: Finding, statements: Mapping[int, Statement]) -> None:
        self.finding, self.statements = finding, statements
        found = {r: s.call_at(finding.sequence) for r, s in sorted(statements.items())}
        self.calls = {rank: call for rank, call in found.items() if call is not None}
        self.odd, self.usual = self._sides()
        self.a, self.b = self._call_of(self.odd), self._call_of(self.usual)

    def _call_of(self, ranks: list[int]) -> Call | None:
        return next((self.calls[rank] for rank in ranks if rank in self.calls), None)

    def _sides(self) -> tuple[list[int], list[int]]:
        if self.finding.kind != MISMATCH:
            late = list(self.finding.ranks)
            return late, [rank for rank in self.statements if rank not in late]
        groups: dict[tuple[str, str], list[int]] = {}
        for rank, call in self.calls.items():
            groups.setdefault((call.what, call.note), []).append(rank)
        # the smaller group is the odd one; of equal ones that without the lowest rank
        ordered = sorted(groups.values(), key=lambda ranks: (len(ranks), -ranks[0]))
        if len(ordered) < 2:
            return list(self.finding.ranks), ordered[0] if ordered else []
        return ordered[0], ordered[-1]

    @property
    def odd_name(self) -> str:
        return names(self.odd)

    def signatures(self) -> tuple[Signature, Signature] | None:
        """Of the odd side and of the usual one, if both are known."""
        if self.a is None or self.b is None:
            return None
        return parse(self.a.what), parse(self.b.what)


def names(ranks: Sequence[int]) -> str:
    """The words "rank 1" or "ranks 0, 2"; long lists are cut."""
    shown = ", ".join(map(str, ranks[:12])) + (
        f" and {len(ranks) - 12} more" if len(ranks) > 12 else ""
    )
    return f"rank {shown}" if len(ranks) == 1 else f"ranks {shown}"


Rule = Callable[[Evidence], Cause | None]

# ---- different collectives ---------------------------------------------------------------------


def _same_but(field: str) -> Callable[[Evidence], tuple[Signature, Signature] | None]:
    """The signatures, if they differ in this field and in no other one."""

    def find(evidence: Evidence) -> tuple[Signature, Signature] | None:
        pair = evidence.signatures()
        if pair is None or pair[0] == pair[1]:
            return None
        odd, usual = pair
        return pair if odd._replace(**{field: getattr(usual, field)}) == usual else None

    return find


_by_root, _by_op, _by_size = map(_same_but, ("root", "op", "size_bytes"))


def _root(evidence: Evidence) -> Cause | None:
    pair = _by_root(evidence)
    if pair is None:
        return None
    return Cause(
        f"the ranks name different sources: {evidence.odd_name} says {pair[0].root}, the others "
        f"{pair[1].root}",
        "`src` must be the same number on all ranks: the rank that holds the value, not get_rank()",
    )


def _operation(evidence: Evidence) -> Cause | None:
    pair = _by_op(evidence)
    if pair is None:
        return None
    return Cause(
        f"{evidence.odd_name} reduces with {pair[0].op!r}, the others with {pair[1].op!r}",
        "pass the same op on all ranks",
    )


def _dtype(evidence: Evidence) -> Cause | None:
    pair = evidence.signatures()
    if pair is None or pair[0].kind != pair[1].kind or pair[0].dtype == pair[1].dtype:
        return None
    return Cause(
        f"the arrays have another dtype on {evidence.odd_name}: autocast, `.half()` or "
        "`.double()` there only, or a value that is an int on one rank and a float on the others",
        "use the same precision on all ranks; make counts and sums float on every rank",
    )


def _buckets(evidence: Evidence) -> Cause | None:
    a, b = evidence.a, evidence.b
    if a is None or b is None or not ("bucket" in a.note and "bucket" in b.note):
        return None
    if a.step != b.step:
        return Cause(
            f"{evidence.odd_name} is at step {a.step}, the others at step {b.step}: it has made "
            "another number of synchronised backward runs",
            "call backward equally often on all ranks, `no_sync` around the same ones",
        )
    return Cause(
        "the wrapped models are not cut into the same buckets: another order of the graph, "
        "another set of trainable parameters, or another bucket_cap_mb",
        "build the same model with the same options on every rank, and wrap all models in the "
        "same order",
    )


_HEADERS = ("step header", "what each rank does")
# notes of collectives that belong to every step and that no rank can serve for want of a batch
_IN_EVERY_STEP = ("SyncBatchNorm", "ZeroRedundancyOptimizer", "ModelAverager")


def _uneven(evidence: Evidence) -> Cause | None:
    """One side is in a step that the other does not make."""
    a, b = evidence.a, evidence.b
    if a is None or b is None:
        return None
    for there, other, absent in ((a, b, evidence.usual), (b, a, evidence.odd)):
        part = next((part for part in _IN_EVERY_STEP if there.note.endswith(part)), None)
        if part is not None and other.note in _HEADERS:
            return Cause(
                f"{names(absent)} had fewer batches, or left a step out. {part} needs all ranks in "
                "every step, so nobody can serve the steps of others there",
                "give all ranks the same number of batches: DistributedSampler with its defaults, "
                "or drop_last=True",
            )
    return None


def _internal(evidence: Evidence) -> Cause | None:
    a, b = evidence.a, evidence.b
    if a is None or b is None or bool(a.note) == bool(b.note):
        return None
    user, inside = (a, b) if not a.note else (b, a)
    ranks = evidence.odd if user is a else evidence.usual
    line = user.place.short if user.place else "a line that is not known"
    return Cause(
        f"{names(ranks)} called a collective at {line} while the others were in a step of the "
        f"wrapped model ({inside.note})" + _condition(user),
        "call it on all ranks, outside of the loop over batches or at the same batch of each",
    )


def _shifted(evidence: Evidence) -> Cause | None:
    """One side does now what the other has always done next."""
    a, b = evidence.a, evidence.b
    if a is None or b is None or a.place is None or b.place is None or a.place == b.place:
        return None
    odd, usual = evidence.odd_name, names(evidence.usual)
    if _next(evidence, b) == _key(a):
        return Cause(
            f"{odd} is one collective ahead: it did not make the call at {b.place.short}, after "
            f"which {a.place.short} follows. A branch was skipped, or left by `continue`, "
            "`return` or an exception that was caught" + _condition(b),
            f"make the call at {b.place.short} on all ranks, or on none",
        )
    if _next(evidence, a) == _key(b):
        return Cause(
            f"{odd} made an extra call at {a.place.short}; the others ({usual}) went on to "
            f"{b.place.short}" + _condition(a),
            f"make the call at {a.place.short} on all ranks, or on none",
        )
    return None


def _skipped(evidence: Evidence) -> Cause | None:
    """A line above the call that the others make leaves the block, for some ranks."""
    for there, not_there in ((evidence.b, evidence.odd), (evidence.a, evidence.usual)):
        if there is not None and there.condition.startswith("after ") and there.place is not None:
            return Cause(
                f"{names(not_there)} skipped the call at {there.place.short}, which stands "
                f"{there.condition}",
                "leave the loop or function on all ranks, or make the call before",
            )
    return None


def _key(call: Call) -> tuple[str, int] | None:
    return None if call.place is None else (call.place.file, call.place.line)


def _next(evidence: Evidence, call: Call) -> tuple[str, int] | None:
    """The line whose collective has followed that of `call`, on any rank, so far."""
    for statement in evidence.statements.values():
        before = [c for c in statement.calls if c.sequence < evidence.finding.sequence]
        for earlier, later in pairwise(before):
            if _key(earlier) == _key(call) and _key(later) != _key(call):
                return _key(later)
    return None


def _condition(*calls: Call | None) -> str:
    """Words on the condition under which one of the calls stands, if it names a rank."""
    for call in calls:
        if call is not None and call.condition and call.place is not None:
            return f". The call at {call.place.short} stands {call.condition}"
    return ""


def _size(evidence: Evidence) -> Cause | None:
    pair, a, b = _by_size(evidence), evidence.a, evidence.b
    if pair is None or a is None or b is None:
        return None
    same_line = a.place == b.place
    return Cause(
        "the arrays have another size on "
        + evidence.odd_name
        + (
            ": the last, smaller batch of an epoch, samples of other lengths, or another model"
            if same_line
            else f": the ranks are at different lines{_condition(a, b)}"
        ),
        "give arrays of one shape: drop_last=True, padding to the longest, or all_gather_object "
        "for values of different sizes"
        if same_line
        else "make the same calls in the same order on all ranks",
    )


def _branch(evidence: Evidence) -> Cause | None:
    a, b = evidence.a, evidence.b
    if a is None or b is None:
        return None
    told = _condition(a, b)
    if a.place is not None and a.place == b.place:
        return Cause(
            f"the same line calls something else on {evidence.odd_name}: what it calls depends on "
            "the rank, or on data that differ",
            "make the same calls in the same order on all ranks",
        )
    return Cause(
        f"{evidence.odd_name} took another branch than the others: an `if` that depends on the "
        f"rank or on its data, a skipped call, or two calls in another order{told}",
        "take collectives out of such branches: every rank must make the same calls in the same "
        "order",
    )


# ---- ranks that do not come ----------------------------------------------------------------------


def _left(evidence: Evidence) -> Cause | None:
    if evidence.finding.kind != LEFT:
        return None
    waiting, odd = evidence.b, evidence.odd_name
    if waiting is not None and waiting.note:
        return Cause(
            f"{odd} had fewer batches, or left the loop early (`break`, `return`, sys.exit(0))",
            "give all ranks the same number of batches with DistributedSampler, or let ranks end "
            "early inside `with model.join():`",
        )
    return Cause(
        f"the program of {odd} ended (early return, sys.exit(0), fewer iterations) while the "
        "others had a collective to go" + _condition(waiting),
        "reach the same collectives on all ranks; do they have the same number of batches?",
    )


def _gone(evidence: Evidence) -> Cause | None:
    if evidence.finding.kind != GONE:
        return None
    return Cause(
        f"the process of {evidence.odd_name} was killed (out of memory, kill -9, a limit of the "
        "batch system), crashed in native code (SIGSEGV), or called os._exit",
        "look for its last words above, for the out-of-memory killer in `dmesg`, and for the "
        "memory limit of the job; `allgrad run` prints the signal",
    )


def _stopped(evidence: Evidence) -> Cause | None:
    stopped = [r for r in evidence.odd if evidence.statements[r].state == "stopped"]
    if not stopped:
        return None
    commands = " ".join(str(evidence.statements[r].pid) for r in stopped)
    return Cause(
        f"{names(stopped)} was stopped by a signal: Ctrl-Z, SIGSTOP, or a debugger",
        f"let it go on with `kill -CONT {commands}`, and start the job again",
    )


def _message(evidence: Evidence) -> Cause | None:
    waiting = [r for r in evidence.odd if evidence.statements[r].message]
    if not waiting:
        return None
    return Cause(
        f"{names(waiting)} waits in a {evidence.statements[waiting[0]].message}, for which nobody "
        "has done the other half",
        "each send needs a receive on the other side, with the same tag, before the other side "
        "goes on to a collective of all ranks",
    )


_FIXES = (
    ("data loader", "the data set or its source hangs there, or never ends; bound its waits"),
    ("lock", "a lock is held by another thread or taken twice; look at who holds it"),
    ("sleeps", "the program sleeps there; wait in a collective or not at all"),
    ("network", "a server does not answer; set a time-out on the request"),
    ("child process", "a child process does not end; give it a time-out"),
    ("queue", "what fills the queue has died or waits itself"),
    ("keyboard", "nobody answers there; `allgrad run --debug` holds the other ranks meanwhile"),
    ("debugger", "`allgrad run --debug` holds the other ranks while one is in a debugger"),
    ("checkpoint", "storage is slow or hangs; raise `timeout` of init_process_group"),
)


def _busy(evidence: Evidence) -> Cause | None:
    for rank in evidence.odd:
        statement = evidence.statements[rank]
        if statement.state not in ("runs", "waits") or not statement.stack:
            continue
        doing = activity(statement.stack)
        fix = next((fix for word, fix in _FIXES if word in doing), None)
        return Cause(
            f"{names([rank])} {doing}" + ("" if fix else ": an endless loop, or work that takes "
            "longer than the others wait"),
            fix or "end the loop, share the work out, or raise `timeout` of init_process_group",
        )  # fmt: skip
    return None


def _unreachable(evidence: Evidence) -> Cause | None:
    """On another host, where not even its watch thread answers."""
    silent = [r for r in evidence.odd if evidence.statements[r].state == "silent"]
    if not silent or any(evidence.statements[rank].calls for rank in silent):
        return None
    return Cause(
        f"the host of {names(silent)}, or the network between it and the others, is gone; or a "
        "call holds up the whole process there",
        "look whether the host runs and can be reached (ping, cables, its log); start again "
        "without it, or let `allgrad run --max-restarts` do so",
    )


def _silent(evidence: Evidence) -> Cause | None:
    return Cause(
        f"{evidence.odd_name} is stuck, slower than the time-out, or gone another way",
        "look at its process (`py-spy dump --pid ...`); raise `timeout` of init_process_group if "
        "it merely needs longer",
    )


def _stuck(evidence: Evidence) -> Cause | None:
    """All ranks have issued the collective of GPUs, and it does not end."""
    if evidence.finding.kind != STUCK:
        return None
    if evidence.finding.detail:
        return Cause(
            "a GPU, the link between GPUs, or the process of another rank has failed",
            "look at the first rank that failed; NCCL_DEBUG=WARN lets NCCL say more, `nvidia-smi` "
            "and the kernel's log (Xid) tell of a broken GPU or link",
        )
    return Cause(
        "a GPU is still busy with what it was given before, or the link between GPUs stands still",
        "raise the time-out of init_process_group if a step may take that long; else "
        "NCCL_DEBUG=WARN lets NCCL say more, NCCL_SOCKET_IFNAME names the network to use, and "
        "NCCL_P2P_DISABLE=1 shows whether the direct link between GPUs is to blame",
    )


_MISMATCH_RULES: tuple[Rule, ...] = (
    _buckets, _uneven, _internal, _root, _skipped, _shifted, _operation, _dtype, _size, _branch,
)  # fmt: skip
_ABSENT_RULES: tuple[Rule, ...] = (
    _stuck, _left, _gone, _stopped, _message, _busy, _unreachable, _silent,
)  # fmt: skip


def likely_cause(finding: Finding, statements: Mapping[int, Statement]) -> Cause:
    """The first rule that fits what the ranks have said.

    Args:
        finding: what was noticed.
        statements: of all ranks, by rank.
    """
    evidence = Evidence(finding, statements)
    rules = _MISMATCH_RULES if finding.kind == MISMATCH else _ABSENT_RULES
    for rule in rules:
        cause = rule(evidence)
        if cause is not None:
            return cause
    return Cause(
        "ranks went different ways, but too little is known of them to say where",
        "set ALLGRAD_DIAGNOSIS=full and look at the collectives that each rank made",
    )
