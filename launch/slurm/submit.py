"""``allgrad sbatch``: from options to a submitted job."""

from __future__ import annotations

import argparse
import os
import re
import shlex
import sys
from pathlib import Path

from allgrad.errors import LaunchError
from allgrad.launch.slurm.commands import call
from allgrad.launch.slurm.script import WARNING, BatchSpec, batch_script
from allgrad.launch.target import check_target

_TIME = re.compile(r"\d+(:\d+){0,2}|\d+-\d+(:\d+){0,2}|UNLIMITED", re.IGNORECASE)
_SIGNAL = re.compile(r"(?:[RB]{1,2}:)?((?:SIG)?[A-Z0-9]+@\d+)")
# Options that travel to sbatch as they are, in the order of the script.
_PASSED = ("partition", "account", "qos", "time", "nodes", "ntasks")
_PLACES = ("cpus_per_task", "gpus_per_node", "mem")


def sbatch(options: argparse.Namespace) -> int:
    """Write the script, and submit it; return the exit code.

    Raises:
        LaunchError: an option is not as Slurm wants it, or Slurm refuses the job.
    """
    spec = spec_of(options)
    text = batch_script(spec)
    if options.write is not None:
        options.write.write_text(text)
    command = ("sbatch", "--parsable", *(("--wait",) if options.wait else ()))
    if options.dry_run:
        sys.stdout.write(text)
        sys.stderr.write(f"allgrad: would be given to: {shlex.join(command)}\n")
        return 0
    _make_folder(spec.output)
    done = call(*command, stdin=text, timeout_s=None if options.wait else 60.0)
    job = done.stdout.strip().partition(";")[0]
    if not job:
        raise LaunchError(f"sbatch refuses the job: {_reason(done.stderr, options)}")
    sys.stdout.write(f"{job}\n")  # alone on stdout: JOB=$(allgrad sbatch ...)
    sys.stderr.write(
        f"allgrad: submitted job {job}; its output goes to {_output_of(spec, job)}; look at it by "
        f"`allgrad status {job}`, end it by `scancel {job}`\n"
    )
    return done.returncode


def spec_of(options: argparse.Namespace) -> BatchSpec:
    """Turn parsed options into a BatchSpec, checking what can be checked here.

    Raises:
        LaunchError: see `sbatch`.
    """
    check_target(options.target, options.module)
    tasks = _tasks(options.args_file)
    array = options.array or (f"0-{len(tasks) - 1}" if tasks else None)
    output = options.output or ("%x-%A_%a.out" if array else "%x-%j.out")
    return BatchSpec(
        program=_program(),
        target=options.target,
        args=tuple(options.args),
        module=options.module,
        options=tuple(_directives(options, array, output).items()),
        more=tuple(options.sbatch),
        run_options=_run_options(options),
        tasks=tasks,
        output=output,
    )


def _directives(options: argparse.Namespace, array: str | None, output: str) -> dict[str, str]:
    """The options of sbatch, by their names."""
    if options.time is not None and not _TIME.fullmatch(options.time):
        raise LaunchError(
            f"--time {options.time}: expected minutes, hours:minutes:seconds or "
            "days-hours:minutes:seconds, such as 90, 1:30:00 or 2-12:00:00"
        )
    named: dict[str, object] = {"job-name": options.job_name or _name_of(options.target)}
    named["output"] = output
    named |= {name: getattr(options, name) for name in _PASSED}
    named["ntasks-per-node"] = options.ntasks_per_node
    if options.ntasks_per_node is None and options.ntasks is None and options.gpus_per_node:
        named["ntasks-per-node"] = _gpu_count(options.gpus_per_node)  # a rank per GPU
    named |= {name.replace("_", "-"): getattr(options, name) for name in _PLACES}
    named["array"] = array
    found = {name: str(value) for name, value in named.items() if value is not None}
    if options.requeue:
        found |= {"requeue": "", "open-mode": "append"}  # the output of all runs stays
    warning = options.signal or (WARNING if options.requeue else None)
    return found if warning is None else found | {"signal": _to_us(warning)}


def _to_us(text: str) -> str:
    """Let a signal go to the batch shell, which is `allgrad run`: it tells all ranks."""
    match = _SIGNAL.fullmatch(text)
    if match is None:
        raise LaunchError(
            f"--signal {text}: expected SIGNAL@SECONDS, such as USR1@120: the signal comes so many "
            "seconds before the end"
        )
    return f"B:{match[1]}"


def _gpu_count(text: str) -> int:
    match = re.fullmatch(r"(?:[\w.-]+:)?(\d+)", text)
    if match is None or int(match[1]) < 1:
        raise LaunchError(f"--gpus-per-node {text}: expected a number, or TYPE:NUMBER as a100:4")
    return int(match[1])


def _run_options(options: argparse.Namespace) -> tuple[str, ...]:
    found: list[str] = ["--requeue"] if options.requeue else []
    for name in ("max_restarts", "min_ranks", "log_dir", "mpi", "threads_per_rank", "bind"):
        value = getattr(options, name)
        if value is not None:
            found += [f"--{name.replace('_', '-')}", str(value)]
    for name, value in options.env:
        found += ["--env", f"{name}={value}"]
    return tuple(found)


def _tasks(path: Path | None) -> tuple[tuple[str, ...], ...]:
    """The arguments of each task: a line each; empty lines and comments do not count."""
    if path is None:
        return ()
    try:
        lines = [line.strip() for line in path.read_text().splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise LaunchError(f"--args-file {path}: {error}") from error
    found = []
    for number, line in enumerate(lines, 1):
        try:
            words = tuple(shlex.split(line, comments=True))
        except ValueError as error:
            raise LaunchError(f"--args-file {path}, line {number}: {error}: {line}") from error
        if words:
            found.append(words)
    if not found:
        raise LaunchError(f"--args-file {path}: no line in it; expected arguments such as --lr 0.1")
    return tuple(found)


def _name_of(target: str) -> str:
    path = Path(target)
    # examples/digits/train.py is "digits": half of all scripts are called train.py
    plain = path.stem in ("train", "main", "run") and path.parent.name
    return plain or path.stem


def _program() -> tuple[str, ...]:
    """How this allgrad is called where no environment is activated."""
    beside = Path(sys.executable).parent / "allgrad"
    if os.access(beside, os.X_OK):
        return (str(beside),)
    return (sys.executable, "-m", "allgrad.launch.cli")


def _output_of(spec: BatchSpec, job: str) -> str:
    """The name of the output, as far as it is known: tasks of an array have their own numbers."""
    known = {"%j": job, "%A": job, "%x": dict(spec.options)["job-name"], "%a": "TASK"}
    if "array" in dict(spec.options):
        del known["%j"]
    return re.sub("%.", lambda match: known.get(match[0], match[0]), spec.output)


def _make_folder(output: str) -> None:
    """Slurm ends a job without a word if the folder of its output is missing."""
    folder = Path(output).parent
    if "%" not in str(folder):
        folder.mkdir(parents=True, exist_ok=True)


def _reason(text: str, options: argparse.Namespace) -> str:
    lines = [line.partition("error: ")[2] or line for line in text.strip().splitlines()]
    reason = "; ".join(lines) or "it says nothing"
    if "partition" in reason.lower():
        known = " ".join(sorted({*call("sinfo", "-h", "-o", "%R").stdout.split()}))
        return f"{reason}; --partition {options.partition} was asked for, there are: {known}"
    return reason
