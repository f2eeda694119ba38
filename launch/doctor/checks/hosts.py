"""Are the hosts of a job alike?"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial

from allgrad.launch.doctor.facts import Facts
from allgrad.launch.doctor.finding import Finding, broken, spans, warning

_MUST_MATCH = ("allgrad", "mpi4py")
_SHOULD_MATCH = ("numpy", "safetensors", "ml-dtypes")
_SKEW_S = 1.0


def _kinds(job: Sequence[Facts], look: Callable[[Facts], str]) -> dict[str, list[int]]:
    kinds: dict[str, list[int]] = {}
    for rank, facts in enumerate(job):
        kinds.setdefault(look(facts), []).append(rank)
    return kinds


def _described(kinds: dict[str, list[int]], job: Sequence[Facts]) -> str:
    return "; ".join(
        f"{kind or 'none'} in {spans(ranks)} (on {job[ranks[0]].host.name})"
        for kind, ranks in kinds.items()
    )


def _version(package: str, facts: Facts) -> str:
    return facts.software.packages.get(package, "")


def versions_differ(job: Sequence[Facts]) -> Iterator[Finding]:
    """Packages of different versions on different hosts."""
    for package in (*_MUST_MATCH, *_SHOULD_MATCH):
        kinds = _kinds(job, partial(_version, package))
        if len(kinds) > 1:
            make = broken if package in _MUST_MATCH else warning
            yield make(
                "versions_differ",
                f"{package} differs between ranks: {_described(kinds, job)}",
                "install the same on all hosts: one environment on a shared disk, or the same "
                "`pip freeze` on each",
            )
    kinds = _kinds(job, lambda facts: facts.software.onednn_version)
    if len(kinds) > 1:
        yield warning(
            "versions_differ",
            f"oneDNN differs between ranks: {_described(kinds, job)}; results may differ in the "
            "last bits, and the slowest rank decides",
            "install the same onednn-cpu-gomp on all hosts",
        )


def python_differs(job: Sequence[Facts]) -> Iterator[Finding]:
    """Another interpreter on another host."""
    kinds = _kinds(job, lambda facts: facts.software.version)
    if len(kinds) > 1:
        yield broken(
            "python_differs",
            f"Python differs between ranks: {_described(kinds, job)}",
            "name the interpreter by its absolute path, the same on all hosts",
        )
        return
    kinds = _kinds(job, lambda facts: facts.software.executable)
    if len(kinds) > 1:
        yield warning(
            "python_differs",
            f"ranks run different installations of Python: {_described(kinds, job)}",
            "name the interpreter by its absolute path, the same on all hosts",
        )


def mpi_differs(job: Sequence[Facts]) -> Iterator[Finding]:
    """Another MPI library on another host."""
    kinds = _kinds(job, lambda facts: facts.mpi.library)
    if len(kinds) > 1:
        yield broken(
            "mpi_differs",
            f"the MPI library differs between ranks: {_described(kinds, job)}",
            "install the same MPI on all hosts; MPI4PY_LIBMPI names one",
        )


def clocks_differ(job: Sequence[Facts]) -> Iterator[Finding]:
    """Clocks of hosts that go apart."""
    skews = {facts.host.name: facts.world.clock_s for facts in job}
    worst = max(skews, key=lambda name: abs(skews[name]), default="")
    if worst and abs(skews[worst]) > _SKEW_S:
        late = "behind" if skews[worst] > 0 else "ahead of"
        yield warning(
            "clock_skew",
            f"the clock of {worst} is {abs(skews[worst]):.1f} s {late} that of "
            f"{job[0].host.name}: logs and times of files contradict each other",
            "let the hosts follow one time server: timedatectl set-ntp true (chrony, "
            "systemd-timesyncd)",
        )
