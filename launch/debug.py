"""``allgrad run --debug``: from options to a process whose threads are the ranks.

The command line process becomes that process (``exec``): numbers of threads and the seed of hashes
must stand in the environment before NumPy is imported, and a debugger needs this terminal. The
second time round the work is done by ``debug_host`` and, for a range of seeds, ``debug_seeds``.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Mapping

from allgrad.ddp.tracing.command import finish
from allgrad.errors import LaunchError, OptionError
from allgrad.launch import cores
from allgrad.launch.launchers.environment import rank_environment, stale_variables
from allgrad.launch.run import switches
from allgrad.launch.spec import Command, LaunchSpec
from allgrad.launch.target import check_target

_PREPARED = "ALLGRAD_DEBUG_PREPARED"  # number of the process whose environment is as it must be


def run(options: argparse.Namespace) -> int:
    """Run the ranks as threads; return the exit code of the job.

    Does not return the first time: the process is started anew with the right environment.

    Raises:
        LaunchError: the job cannot be started as asked.
    """
    spec = spec_of(options)
    if options.dry_run:
        sys.stdout.write(command(spec, options, os.environ).shell() + "\n")
        sys.stderr.write(describe(spec, options) + "\n")
        return 0
    if os.environ.pop(_PREPARED, "") != str(os.getpid()):
        _restart(command(spec, options, os.environ))
    if options.verbose:
        sys.stderr.write(describe(spec, options) + "\n")
    if options.schedule is not None and len(options.schedule) > 1:
        from allgrad.launch.debug_seeds import run_seeds  # noqa: PLC0415 - only where needed

        return run_seeds(spec, options)
    from allgrad.launch.debug_host import run_job  # noqa: PLC0415 - not for --dry-run

    code = run_job(spec, options, None if options.schedule is None else options.schedule[0])
    if options.trace is not None:
        sys.stderr.writelines(f"allgrad: {line}\n" for line in finish(options.trace))
    return code


def spec_of(options: argparse.Namespace) -> LaunchSpec:
    """Turn parsed options into a LaunchSpec.

    Raises:
        LaunchError: the script does not exist, or an option means nothing for threads.
    """
    check_target(options.target, options.module)
    if options.schedule is not None and options.link is not None:
        raise LaunchError("--link takes its time by the clock, which --schedule does without")
    if options.max_restarts or options.min_ranks is not None:
        raise LaunchError("--max-restarts and --min-ranks start processes again, not threads")
    if options.hosts is not None or options.hostfile is not None or (options.nnodes or 1) > 1:
        raise LaunchError(
            "--debug and --launcher threads run all ranks in one process; leave hosts out"
        )
    nproc = options.nproc or options.nproc_per_node or 1
    available = cores.available_cores()
    text = os.environ.get("OMP_NUM_THREADS", "")
    own = int(text) if text.isdigit() and int(text) > 0 else None
    share = cores.threads_per_rank(len(available), nproc)
    threads = options.threads_per_rank or own or share
    bind = cores.bind_to_cores(available, nproc, threads) if options.bind == "core" else ()
    return LaunchSpec(
        nproc=nproc,
        target=options.target,
        args=tuple(options.args),
        module=options.module,
        python=sys.executable,
        threads_per_rank=threads,
        cores=len(available),
        bind=bind,
        env=(*options.env, *switches(options)),
    )


def command(spec: LaunchSpec, options: argparse.Namespace, environ: Mapping[str, str]) -> Command:
    """Return the command of the process that holds all ranks: this one, prepared."""
    env = rank_environment(spec, environ, "ALLGRAD_RANK")
    env.pop("ALLGRAD_BIND", None)  # the host binds its threads itself
    if options.schedule is not None:
        # the order of a set of strings must not differ between two runs of one seed
        env["PYTHONHASHSEED"] = environ.get("PYTHONHASHSEED", "0")
    argv = (spec.python, "-m", "allgrad.launch.cli", *options.argv)
    drop = tuple(name for name in stale_variables(environ) if name not in env)
    return Command(argv, env, drop)


def _restart(prepared: Command) -> None:
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    environment = prepared.environment(os.environ) | {_PREPARED: str(os.getpid())}
    try:
        os.execve(prepared.argv[0], prepared.argv, environment)
    except OSError as error:
        raise LaunchError(f"cannot start {prepared.argv[0]}: {error}") from error


def describe(spec: LaunchSpec, options: argparse.Namespace) -> str:
    """Say in one line with what the job is started."""
    seeds = options.schedule
    if seeds is None:
        order = "running freely"
    elif len(seeds) == 1:
        order = f"one at a time by seed {seeds[0]}"
    else:
        order = f"one at a time by seeds {seeds[0]} to {seeds[-1]} until one fails"
    return (
        f"allgrad: {spec.nproc} ranks as threads of one process, {order}; cores {spec.cores}, "
        f"threads per rank {spec.threads_per_rank}; no MPI"
    )


def parse_seeds(text: str) -> range:
    """Return the seeds that ``--schedule`` names: "7" or "1:200", both ends included.

    Raises:
        OptionError: it is neither.

    Example:
        >>> list(parse_seeds("7")), len(parse_seeds("1:200"))
        ([7], 200)
    """
    match = re.fullmatch(r"(\d+)(?::(\d+))?", text)
    if match is None or (match[2] is not None and int(match[2]) < int(match[1])):
        raise OptionError(f"expected a seed such as 7, or a range such as 1:200, got {text}")
    return range(int(match[1]), int(match[2] or match[1]) + 1)
