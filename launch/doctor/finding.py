"""What a check has found: a name, how bad it is, the cause and the fix."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

BROKEN, WARNING = "broken", "warning"


@dataclass(frozen=True)
class Finding:
    """Something to mend.

    Attributes:
        name: of the fault, as in docs/doctor.md.
        severity: "broken": jobs fail, hang or give wrong results; "warning": they run, but slower
            than they could, or not in every situation.
        cause: what is, and what comes of it.
        fix: what to do.
        where: "ranks 0-3 on node1" where it does not concern all ranks; else "".
    """

    name: str
    severity: str
    cause: str
    fix: str
    where: str = ""


def broken(name: str, cause: str, fix: str) -> Finding:
    """A finding that stops jobs, or makes them wrong."""
    return Finding(name, BROKEN, cause, fix)


def warning(name: str, cause: str, fix: str) -> Finding:
    """A finding that jobs survive."""
    return Finding(name, WARNING, cause, fix)


def merged(found: Sequence[tuple[int, str, Finding]], size: int) -> list[Finding]:
    """Say once what several ranks have found, the broken things first.

    Args:
        found: rank, hostname, and what was found there.
        size: number of ranks.
    """
    ranks: dict[Finding, list[int]] = {}
    hosts: dict[Finding, set[str]] = {}
    for rank, host, finding in found:
        ranks.setdefault(finding, []).append(rank)
        hosts.setdefault(finding, set()).add(host)
    placed = [
        replace(
            f, where="" if len(ranks[f]) == size else f"{spans(ranks[f])} on {_names(hosts[f])}"
        )
        for f in ranks
    ]
    return sorted(placed, key=lambda finding: finding.severity != BROKEN)


def spans(ranks: Sequence[int]) -> str:
    """Numbers of ranks in short.

    Example:
        >>> spans([0, 1, 2, 5])
        'ranks 0-2,5'
        >>> spans([3])
        'rank 3'
    """
    parts: list[list[int]] = []
    for rank in sorted(ranks):
        if parts and rank == parts[-1][1] + 1:
            parts[-1][1] = rank
        else:
            parts.append([rank, rank])
    text = ",".join(str(a) if a == b else f"{a}-{b}" for a, b in parts)
    return f"rank {text}" if len(ranks) == 1 else f"ranks {text}"


def _names(hosts: set[str]) -> str:
    few = sorted(hosts)[:3]
    return ", ".join(few) + (f" and {len(hosts) - 3} more" if len(hosts) > 3 else "")
