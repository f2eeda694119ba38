"""``allgrad run``: from options to a finished job."""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, closing, contextmanager
from functools import partial
from pathlib import Path

from allgrad.ddp.communicators.link import Link
from allgrad.ddp.events import (
    EVENTS_VARIABLE,
    RESTART_VARIABLES,
    append_events,
    read_events,
    write_event,
)
from allgrad.ddp.tracing.command import finish
from allgrad.ddp.tracing.files import parse_steps
from allgrad.errors import LaunchError
from allgrad.launch import cores, leftovers, worker
from allgrad.launch.console import Console
from allgrad.launch.door import Door, host_timeout, tcp_door, unix_door
from allgrad.launch.hosts import slurm_hosts
from allgrad.launch.launchers import local, mpiexec, srun
from allgrad.launch.logs import RankLogs
from allgrad.launch.mpi_runtime import find_mpi, pmi_of
from allgrad.launch.outcome import Outcome, closing_lines
from allgrad.launch.placement import choose
from allgrad.launch.restart import Attempt, GiveUp, Restart, RestartPolicy, last_saved
from allgrad.launch.slurm import requeue
from allgrad.launch.spec import Command, LaunchSpec
from allgrad.launch.supervisor import Supervisor
from allgrad.launch.target import check_target

_LONGEST_FOLDER = 80  # a Unix socket's path has at most 108 bytes


def run(options: argparse.Namespace) -> int:
    """Start and supervise the job that the options describe; return its exit code.

    Raises:
        LaunchError: the job cannot be started as asked.
    """
    if options.debug or options.launcher == "threads":
        from allgrad.launch import debug  # noqa: PLC0415 - other jobs need nothing of it

        return debug.run(options)
    for name in ("pdb", "schedule"):
        if getattr(options, name):
            raise LaunchError(f"--{name} works with --debug: ranks as threads of one process")
    if options.requeue:
        requeue.check(os.environ)
    spec = spec_of(options)
    command = launcher_command(spec, os.environ)
    if options.verbose or options.dry_run:
        describe(spec)
    if options.dry_run:
        sys.stdout.write(command.shell() + "\n")
        return 0
    if spec.nproc > spec.cores and not spec.several_hosts:
        sys.stderr.write(
            f"allgrad: {spec.nproc} ranks share {spec.cores} cores, so they take turns\n"
        )
    console = _console(options, spec)
    outcome = _run_again_while_it_helps(spec, console, options)
    if options.trace is not None:
        for line in finish(options.trace):
            console.say(f"allgrad: {line}")
    if options.requeue and requeue.is_wanted(outcome):
        console.say(f"allgrad: {requeue.put_back(outcome, os.environ)}")
    return outcome.code


def _run_again_while_it_helps(
    spec: LaunchSpec, console: Console, options: argparse.Namespace
) -> Outcome:
    """Run the job, again where it failed and the policy says so, and say how it ended."""
    least = spec.nproc if options.min_ranks is None else options.min_ranks
    if least > spec.nproc:
        raise LaunchError(f"--min-ranks {least} is more than the {spec.nproc} ranks of -n")
    before = leftovers.segments()
    without: frozenset[str] = frozenset()
    policy = RestartPolicy(spec.nproc, options.max_restarts, least)
    end_at = None if options.timeout is None else time.monotonic() + options.timeout
    with closing(RankLogs(options.log_dir)) as logs, _signals_between() as asked:
        while True:
            attempt, lost = _attempt(spec, console, logs, options, policy.restarts, end_at)
            decision = policy.after(attempt)
            if isinstance(decision, GiveUp):
                break
            for line in closing_lines(attempt.outcome):
                console.say(line)
            console.say(f"allgrad: {decision.line}")
            if not _pause(decision.pause_s, asked, end_at):
                break
            if decision.nproc != spec.nproc or lost - without:
                without |= lost
                options.nproc = decision.nproc
                spec = spec_of(options, without)
    if policy.restarts:
        leftovers.remove_segments(before)  # those that were too young to be judged
    outcome = attempt.outcome
    if asked and outcome.signal is None:
        outcome = Outcome(128 + asked[0], (), asked[0])
    *lines, last = closing_lines(outcome) or [""]
    told = [f"allgrad: {text}" for text in (policy.summary(), decision.line) if text]
    if isinstance(decision, Restart):
        told = told[:1]
    for line in (*lines, *told, last):
        if line:
            console.say(line)
    return outcome


@contextmanager
def _signals_between() -> Iterator[list[int]]:
    """Collect signals that arrive while no job runs; `Supervisor` treats them while one does."""
    asked: list[int] = []
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    previous = {n: signal.signal(n, lambda number, _: asked.append(number)) for n in numbers}
    try:
        yield asked
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _pause(seconds: float, asked: list[int], end_at: float | None) -> bool:
    """Wait before a restart; False if a signal or the time limit forbids it."""
    until = time.monotonic() + seconds
    while not asked and time.monotonic() < until:
        time.sleep(min(0.05, max(until - time.monotonic(), 0.0)))
    return not asked and (end_at is None or time.monotonic() < end_at)


def spec_of(options: argparse.Namespace, without: frozenset[str] = frozenset()) -> LaunchSpec:
    """Turn parsed options into a LaunchSpec, checking what can be checked before the start.

    Args:
        options: of the command line.
        without: names of hosts that were lost.

    Raises:
        LaunchError: the script does not exist, options contradict each other, there are more ranks
            than slots, or no MPI is installed.
    """
    check_target(options.target, options.module)
    there = shutil.which(srun.PROGRAM) is not None
    placement = choose(options, os.environ, srun=there, without=without)
    single = placement.launcher == "mpiexec" and placement.nproc == 1 and not placement.hosts
    launcher = "local" if single else placement.launcher
    available = cores.available_cores()
    far = bool(placement.hosts) or launcher == "srun"
    # Other hosts divide their own cores.
    threads = options.threads_per_rank or _own_threads(os.environ)
    if not threads and not far:
        threads = cores.threads_per_rank(len(available), placement.nproc)
    binds = options.bind == "core"
    sets = cores.bind_to_cores(available, placement.nproc, threads) if binds and not far else ()
    mpi = None if launcher == "local" else find_mpi(asked=options.mpiexec)
    return LaunchSpec(
        nproc=placement.nproc,
        target=options.target,
        args=tuple(options.args),
        module=options.module,
        python=sys.executable,
        worker=os.path.abspath(worker.__file__),
        threads_per_rank=threads,
        cores=len(available),
        bind=sets,
        env=(*options.env, *switches(options)),
        mpi=mpi,
        root=os.geteuid() == 0,
        launcher=launcher,
        hosts=placement.hosts,
        ranks_per_host=placement.ranks_per_host,
        remote_shell=options.remote_shell or "",
        bind_cores=binds and far,
        nodes=placement.nodes,
        pmi=pmi_of(mpi, options.mpi) if launcher == "srun" else "",
    )


def switches(options: argparse.Namespace) -> tuple[tuple[str, str], ...]:
    """Variables by which options of the command line reach `init_process_group` in the ranks.

    Raises:
        OptionError: an option has no such value.
    """
    found = []
    if options.link is not None:
        Link.parse(options.link)
        found.append(("ALLGRAD_LINK", options.link))
    if options.trace is not None:
        parse_steps(options.trace_steps)
        found.append(("ALLGRAD_TRACE", str(options.trace.absolute())))
        found.append(("ALLGRAD_TRACE_STEPS", options.trace_steps or ""))
    return tuple(found)


def _own_threads(environ: Mapping[str, str]) -> int:
    """Return OMP_NUM_THREADS where the user has set it, else 0."""
    text = environ.get("OMP_NUM_THREADS", "")
    return int(text) if text.isdigit() else 0


_LAUNCHERS = {"local": local, "mpiexec": mpiexec, "srun": srun}


def launcher_command(spec: LaunchSpec, environ: Mapping[str, str]) -> Command:
    """Return the command of the job's launcher."""
    return _LAUNCHERS[spec.launcher].command(spec, environ)


def describe(spec: LaunchSpec) -> None:
    """Say on stderr with what the job is started."""
    mpi = (
        "no MPI"
        if spec.mpi is None
        else f"{spec.mpi.mpiexec} ({spec.mpi.flavour}, {spec.mpi.version})"
    )
    threads = str(spec.threads_per_rank) if spec.threads_per_rank else "cores / ranks of each host"
    places = ", ".join(f"{host.name}: {ranks}" for host, ranks in spec.used_hosts)
    sys.stderr.write(
        f"allgrad: launcher {spec.launcher}, ranks {spec.nproc}"
        f"{f' ({places})' if places else ''}, cores {spec.cores}, threads per rank {threads}; "
        f"{mpi}{f', pmi {spec.pmi}' if spec.pmi else ''}\n"
    )


def _console(options: argparse.Namespace, spec: LaunchSpec) -> Console:
    only_first = options.log_dir is not None and not options.tee
    return Console(
        sys.stdout.buffer,
        sys.stderr.buffer,
        prefix=options.prefix and spec.nproc > 1,
        raw=spec.nproc == 1,
        shows=lambda rank: rank == 0 or not only_first,
    )


def _attempt(
    spec: LaunchSpec,
    console: Console,
    logs: RankLogs,
    options: argparse.Namespace,
    restarts: int,
    end_at: float | None,
) -> tuple[Attempt, frozenset[str]]:
    """Run the job once; also tell which hosts it has lost."""
    command = launcher_command(spec, os.environ)
    before = leftovers.segments()
    with _private_folder() as folder, _door(spec, folder) as door:
        events_file = os.environ.get(EVENTS_VARIABLE) or str(folder / "events")
        _, begin = read_events(events_file)
        report = partial(write_event, events_file)
        report("start", nproc=spec.nproc, restarts=restarts)
        env = command.environment(os.environ) | _terminal_size(spec.nproc)
        # Launchers that are killed leave files in TMPDIR: they get our folder, which is removed.
        # The worker gives the script its own TMPDIR back.
        env |= {"TMPDIR": str(folder), "ALLGRAD_TMPDIR": os.environ.get("TMPDIR", "")}
        env |= {"ALLGRAD_SUPERVISOR": door.address, EVENTS_VARIABLE: events_file}
        started_again = requeue.requeues(os.environ) + restarts
        env |= dict.fromkeys(RESTART_VARIABLES[:2], str(started_again))
        supervisor = Supervisor(
            command.argv,
            env,
            spec.nproc,
            door,
            console,
            logs,
            grace_s=options.grace,
            timeout_s=options.timeout,
            end_at=end_at,
            report=report,
            relay=partial(append_events, events_file),
            kill_others=options.max_restarts > 0,
        )
        try:
            outcome = supervisor.run()
        except BrokenPipeError:
            # `allgrad run ... | head`: end as other programs do, and let Python flush nowhere.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            outcome = Outcome(128 + signal.SIGPIPE)
        saved = last_saved(read_events(events_file, begin)[0])
        report("end", code=outcome.code)
    leftovers.remove_segments(before, supervisor.segments)
    lost = _hosts_of(supervisor.lost_ranks, spec)
    left = [host.slots for host in spec.hosts if host.name not in lost]
    room = sum(left) if lost else None
    started = supervisor.started
    return Attempt(outcome, spec.nproc, started, saved, supervisor.timed_out, room), lost


def _hosts_of(ranks: Iterable[int], spec: LaunchSpec) -> frozenset[str]:
    """What the user calls the hosts of these ranks."""
    hosts = [host.name for host, count in spec.used_hosts for _ in range(count)]
    return frozenset(hosts[rank] for rank in ranks if rank < len(hosts))


def _door(spec: LaunchSpec, folder: Path) -> AbstractContextManager[Door]:
    """The way to the supervisor, from where the ranks will be."""
    if not spec.several_hosts:
        return unix_door(folder, spec.nproc)
    names = [host.name for host, _ in spec.used_hosts]
    # Slurm may know its nodes by names that nobody else does.
    strict = not set(names) <= {host.name for host in slurm_hosts(os.environ)}
    return tcp_door(names, spec.nproc, strict=strict, host_timeout_s=host_timeout(os.environ))


@contextmanager
def _private_folder() -> Iterator[Path]:
    parent = tempfile.gettempdir()
    with tempfile.TemporaryDirectory(
        prefix="allgrad-", dir=parent if len(parent) < _LONGEST_FOLDER else "/tmp"
    ) as name:
        yield Path(name)


def _terminal_size(nproc: int) -> dict[str, str]:
    """Tell ranks how wide our terminal is: they write into a pipe and cannot ask."""
    if not sys.stderr.isatty():
        return {}
    prefix = len(f"[{nproc - 1}] ") if nproc > 1 else 0
    size = shutil.get_terminal_size()
    return {"COLUMNS": str(max(size.columns - prefix - 1, 20)), "LINES": str(size.lines)}
