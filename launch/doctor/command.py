"""``allgrad doctor``: from options to a report and an exit code.

Outside of a job it looks at this host and starts a small job of its own. As one rank of a job it
meets the other ranks, and rank 0 speaks for all. MPI is started in a child process only: one that
does not fit ends the process that starts it, and the report would be lost.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import replace

from allgrad.ddp.communicators.thread import current_thread_rank
from allgrad.errors import LaunchError
from allgrad.launch.cores import available_cores
from allgrad.launch.doctor.checks import check
from allgrad.launch.doctor.checks.network import slow_network
from allgrad.launch.doctor.facts import MIB, Facts, World
from allgrad.launch.doctor.finding import BROKEN, Finding, broken, merged
from allgrad.launch.doctor.gather import gather
from allgrad.launch.doctor.report import Report
from allgrad.launch.doctor.self_test import Result
from allgrad.launch.hosts import slurm_hosts

JOB_TIMEOUT_S = 30
_DEFAULT_RANKS = 4  # at most; fewer where there are fewer cores
_PASSED_ON = {
    "nproc": "-n",
    "hosts": "-H",
    "hostfile": "--hostfile",
    "launcher": "--launcher",
    "mpiexec": "--mpiexec",
    "remote_shell": "--remote-shell",
}  # options that `allgrad run` has, too
_SELF_TEST = "allgrad.launch.doctor.self_test"
# With these MPI cannot start, or would be misled; the rest does not keep ranks from meeting.
_FATAL = frozenset(
    "mpi4py_missing mpi_library_missing mpi4py_libmpi_wrong mpiexec_missing wrong_mpi_for_mpi4py "
    "contradicting_variables stale_environment all_are_rank_0 launcher_of_another_mpi "
    "wrong_srun_mpi srun_without_pmi more_ranks_than_slots shm_unusable tmpdir_unusable "
    "interface_missing interface_down python_differs".split()
)


def doctor(options: argparse.Namespace) -> int:
    """Look, check, measure, report; return the exit code."""
    try:
        return _doctor(options)
    except KeyboardInterrupt:
        sys.stderr.write("allgrad doctor: interrupted\n")
        return 128 + signal.SIGINT
    except BrokenPipeError:
        # `allgrad doctor | head`: end as other programs do, and let Python flush nowhere.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE


def _doctor(options: argparse.Namespace) -> int:
    if options.hosts or options.hostfile or options.launcher:
        return _on_hosts(options)
    threads = current_thread_rank()
    if threads is not None and threads[1] != 0:
        return 0
    begin = time.monotonic()
    facts = gather(os.environ, options.nproc or _default_ranks(), options.mpiexec)
    findings = check([facts])
    seconds = time.monotonic() - begin
    why_not = _why_not(options, facts, findings, threads is not None)
    if facts.in_job and threads is None:
        report = _in_job(options, facts, findings, why_not)
    else:
        report = _alone(options, facts, findings, why_not)
    report = replace(report, seconds=seconds)
    if facts.place is not None and facts.in_job and facts.place.rank != 0:
        return _say_from_another_rank(report)
    text = report.to_json() if options.json else "\n".join(report.lines())
    sys.stdout.write(text + "\n")
    sys.stdout.flush()
    return report.exit_code(options.strict)


def _default_ranks() -> int:
    """As many as `allgrad run` would start in an allocation of Slurm; elsewhere a few."""
    with contextlib.suppress(LaunchError):  # a finding, later
        slots = sum(host.slots for host in slurm_hosts(os.environ))
        if slots:
            return slots
    return min(_DEFAULT_RANKS, len(available_cores()))


def _why_not(
    options: argparse.Namespace, facts: Facts, findings: Sequence[Finding], threads: bool
) -> str:
    """Why there is no self test; "" where there is one."""
    fatal = [finding.name for finding in findings if finding.name in _FATAL]
    if fatal:
        return f"{', '.join(fatal)} must be mended first"
    if any(f.severity == BROKEN and f.name == "shm_too_small" for f in findings):
        return "shm_too_small must be mended first"
    if options.no_self_test:
        return "--no-self-test"
    if threads:
        return "the ranks are threads of one process (--debug)"
    return "" if facts.total_ranks > 1 else "one rank has nobody to talk to; try -n 2"


def _alone(
    options: argparse.Namespace, facts: Facts, findings: Sequence[Finding], why_not: str
) -> Report:
    """Outside of a job: start one for the self test."""
    if why_not:
        return Report((facts,), tuple(findings), not_run=why_not)
    command = [sys.executable, "-m", "allgrad.launch.cli", "run", "-n", str(facts.ranks)]
    patience_s = JOB_TIMEOUT_S + options.seconds
    command += ["--no-prefix", "--timeout", str(patience_s), "-m", _SELF_TEST]
    command += ["--mib", str(_largest_mib(facts)), "--seconds", str(options.seconds)]
    command[4:4] = ["--mpiexec", options.mpiexec] if options.mpiexec else []
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=patience_s + 10,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return _failed(facts, findings, f"`allgrad run` did not end within {patience_s + 10} s")
    result = Result.find(done.stdout)
    if result is None or result.problem or done.returncode != 0:
        problem = result.problem if result is not None else ""
        return _failed(facts, findings, problem or _tail(done.returncode, done.stderr))
    return _measured((facts,), findings, result)


def _in_job(
    options: argparse.Namespace, facts: Facts, findings: Sequence[Finding], why_not: str
) -> Report:
    """As one rank of a job: compare with the others, measure together."""
    if why_not and (why_not != "--no-self-test" or facts.place is None):
        return Report((facts,), tuple(findings), not_run=why_not)
    mib = 0.0 if why_not else _largest_mib(facts)
    command = [sys.executable, "-m", _SELF_TEST]
    try:
        # Inherited descriptors stay open: MPICH's launcher speaks to its ranks through one.
        done = subprocess.run(
            [*command, "--facts", "--mib", str(mib), "--seconds", str(options.seconds)],
            input=facts.to_json(),
            capture_output=True,
            text=True,
            timeout=JOB_TIMEOUT_S + options.seconds,
            close_fds=False,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return _with_world(facts, World(problem=f"no connection within {JOB_TIMEOUT_S} s"))
    result = Result.find(done.stdout)
    if result is None:
        return _with_world(facts, World(problem=_tail(done.returncode, done.stderr)))
    if result.problem or not result.facts:
        return _with_world(facts, World(result.rank, result.size, result.problem))
    job = tuple(Facts.from_json(text) for text in result.facts)
    return replace(_measured(job, check(job), result), not_run=why_not)


def _with_world(facts: Facts, world: World) -> Report:
    facts = replace(facts, world=world)
    return Report((facts,), tuple(check([facts])), not_run="the ranks did not meet")


def _measured(job: tuple[Facts, ...], findings: Sequence[Finding], result: Result) -> Report:
    slow = slow_network(job, result.rows[-1].gigabytes_per_s) if result.rows else ()
    found = (*findings, *slow)
    return Report(job, found, result.rows, result.size, result.communicator)


def _failed(facts: Facts, findings: Sequence[Finding], problem: str) -> Report:
    finding = broken(
        "self_test_failed",
        f"{facts.ranks} ranks could not average an array: {problem}",
        f"see what `allgrad run -v -n {facts.ranks} -m {_SELF_TEST}` says",
    )
    found = merged([(0, facts.host.name, each) for each in (finding, *findings)], 1)
    return Report((facts,), tuple(found), not_run="it failed")


def _say_from_another_rank(report: Report) -> int:
    """Other ranks speak where they cannot reach rank 0: what keeps them from it."""
    fatal = [finding for finding in report.findings if finding.name in _FATAL]
    place, host = report.job[0].place, report.job[0].host.name
    rank = 0 if place is None else place.rank
    first_of_host = place is None or not place.local_rank
    if len(report.job) > 1 or not report.not_run or not first_of_host:
        return 0  # rank 0 has said it
    for finding in fatal:
        sys.stderr.write(
            f"[rank {rank} on {host}] {finding.severity}: {finding.name}\n"
            f"  cause: {finding.cause}\n  fix:   {finding.fix}\n"
        )
    return report.exit_code(strict=False) if fatal else 0


def _largest_mib(facts: Facts) -> float:
    """The largest array of the self test that surely fits into shared memory."""
    free = facts.shared_memory.free_bytes / MIB / max(facts.ranks_here, 1)
    return 25.0 if free > 100 else 1.0


def _tail(code: int, errors: str) -> str:
    lines = [line for line in errors.splitlines() if line.strip()]
    return f"exit code {code}: " + " | ".join(lines[-4:])


def _on_hosts(options: argparse.Namespace) -> int:
    """Start the doctor as the ranks of a job on these hosts."""
    command = [sys.executable, "-m", "allgrad.launch.cli", "run", "--no-prefix"]
    for name, option in _PASSED_ON.items():
        value = getattr(options, name)
        command += [option, str(value)] if value else []
    command += ["-m", "allgrad.launch.doctor"]
    command += ["--seconds", str(options.seconds)]
    flags = ("json", "no_self_test", "strict")
    command += [f"--{name.replace('_', '-')}" for name in flags if getattr(options, name)]
    return subprocess.run(command, stdin=subprocess.DEVNULL, check=False).returncode
