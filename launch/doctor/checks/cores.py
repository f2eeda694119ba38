"""Do ranks and their threads fit the cores?"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby

from allgrad.launch.doctor.facts import Facts
from allgrad.launch.doctor.finding import Finding, warning

_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


def threads_of(facts: Facts) -> int:
    """Threads that the libraries of one rank use."""
    set_by_user = [facts.environ.get(name, "").partition(",")[0] for name in _THREADS]
    numbers = [int(text) for text in set_by_user if text.isdigit() and int(text) > 0]
    if numbers:
        return max(numbers)
    if facts.in_job:
        return len(facts.host.affinity) or 1
    # `allgrad run` divides the cores among the ranks.
    return max(1, len(facts.host.affinity) // facts.ranks)


def by_host(job: Sequence[Facts]) -> list[list[Facts]]:
    """The ranks of each host."""
    ordered = sorted(job, key=lambda facts: facts.host.name)
    return [list(group) for _, group in groupby(ordered, key=lambda facts: facts.host.name)]


def _ranks_of(group: Sequence[Facts], job: Sequence[Facts]) -> int:
    return group[0].ranks_here if len(job) == 1 else len(group)


def more_ranks_than_cores(facts: Facts) -> Iterator[Finding]:
    """Ranks that share cores take turns, and wait for each other at every collective."""
    cores = max(facts.host.cores, len(facts.host.affinity))
    if facts.ranks_here > cores:
        yield warning(
            "more_ranks_than_cores",
            f"{facts.ranks_here} ranks on {facts.host.name}, which has {cores} cores: they take "
            "turns, and the slowest decides",
            f"-n {cores}, or more hosts",
        )


def too_many_threads(job: Sequence[Facts]) -> Iterator[Finding]:
    """All ranks of a host together run more threads than there are cores for them."""
    for group in by_host(job):
        ranks = _ranks_of(group, job)
        if len(job) == 1:
            total = ranks * threads_of(group[0])
        else:
            total = sum(threads_of(facts) for facts in group)
        cores = len({core for facts in group for core in facts.host.affinity})
        if total <= max(cores, ranks):
            continue
        each = threads_of(group[0])
        named = next((n for n in _THREADS if group[0].environ.get(n)), None)
        value = f"{named}={group[0].environ[named]}" if named else f"{_THREADS[0]} is not set"
        yield warning(
            "too_many_threads",
            f"{value}: {ranks} ranks on {group[0].host.name} run {total} threads ({each} each) on "
            f"{cores} cores; they disturb each other, and steps can take several times as long",
            f"export OMP_NUM_THREADS={max(1, cores // ranks)}"
            + ("" if named else ", or start with `allgrad run`, which sets it"),
        )
        return


def one_core_for_all(job: Sequence[Facts]) -> Iterator[Finding]:
    """Ranks that were bound to the same core, while others are idle."""
    for group in by_host(job):
        ranks = _ranks_of(group, job)
        cores = {core for facts in group for core in facts.host.affinity}
        if ranks > 1 and len(cores) == 1 and group[0].host.cores > 1:
            yield warning(
                "one_core_for_all",
                f"all {ranks} ranks on {group[0].host.name} may use core {min(cores)} only, of "
                f"{group[0].host.cores}: they take turns",
                "start from a shell that is not bound (taskset -cp 0-N $$); Slurm: "
                "--cpus-per-task or --exclusive; Open MPI: --bind-to none",
            )
            return


def busy(facts: Facts) -> Iterator[Finding]:
    """Others compute here: the slowest rank, which all wait for, is one that shares its core."""
    cores = max(facts.host.cores, len(facts.host.affinity))
    if facts.host.load > 1.5 * cores + 1:
        yield warning(
            "busy_machine",
            f"{facts.host.load:.1f} processes wanted to run on the {cores} cores of "
            f"{facts.host.name} in the last minute: ranks will share cores with them, and the "
            "figures of the self test are not those of an idle machine",
            "look who they are (top), and wait, or take another host",
        )


def quota(facts: Facts) -> Iterator[Finding]:
    """A container's limit counts processor time, and libraries do not see it."""
    total = facts.ranks_here * threads_of(facts)
    if 0 < facts.host.quota < min(total, len(facts.host.affinity)):
        yield warning(
            "cpu_quota",
            f"a control group limits this process to {facts.host.quota:g} cores, but "
            f"{facts.ranks_here} ranks run {total} threads: they are stopped for parts of each "
            "100 ms",
            f"export OMP_NUM_THREADS={max(1, int(facts.host.quota // facts.ranks_here))}, or raise "
            "the limit (docker run --cpus, resources.limits.cpu)",
        )
