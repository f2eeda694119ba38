"""The text of a batch script, from frozen values: it sets resources and calls ``allgrad run``."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass

from allgrad.errors import LaunchError

WARNING = "B:USR1@120"  # to `allgrad run`, two minutes before the end
_TASK, _JOB = "{task}", "{job}"
_VARIABLES = {_TASK: '"$SLURM_ARRAY_TASK_ID"', _JOB: '"$SLURM_JOB_ID"'}
_NAMES = {  # what Slurm puts into the name of the output, see sbatch(1)
    "%j": "${SLURM_JOB_ID}",
    "%A": "${SLURM_ARRAY_JOB_ID}",
    "%a": "${SLURM_ARRAY_TASK_ID}",
    "%x": "${SLURM_JOB_NAME}",
    "%u": "${USER}",
}


@dataclass(frozen=True)
class BatchSpec:
    """One batch job, as the user asked for it.

    Attributes:
        program: how ``allgrad`` is called on the nodes.
        target: path of a script, or name of a module where ``module`` is true.
        args: arguments of the script; "{task}" and "{job}" in them are Slurm's numbers.
        module: whether ``target`` is a module.
        options: of sbatch, by their names without dashes; an empty value stands for a flag.
        more: further options of sbatch, as the user wrote them.
        run_options: of ``allgrad run``.
        tasks: further arguments of each task of an array, by its number.
        output: pattern of the output's file name.
    """

    program: tuple[str, ...]
    target: str
    args: tuple[str, ...] = ()
    module: bool = False
    options: tuple[tuple[str, str], ...] = ()
    more: tuple[str, ...] = ()
    run_options: tuple[str, ...] = ()
    tasks: tuple[tuple[str, ...], ...] = ()
    output: str = "%x-%j.out"


def batch_script(spec: BatchSpec) -> str:
    """Return the text of a job's script.

    Raises:
        LaunchError: the output's name has a pattern that only Slurm could fill in.
    """
    directives = [f"--{name}={value}" if value else f"--{name}" for name, value in spec.options]
    lines = ["#!/bin/bash", *(f"#SBATCH {text}" for text in (*directives, *spec.more)), ""]
    # Where `allgrad status` finds what the job has saved.
    lines.append(f"export ALLGRAD_EVENTS={_events_file(spec.output)}")
    target = ("-m", spec.target) if spec.module else (spec.target,)
    words = [*spec.program, "run", *spec.run_options, *target, *spec.args]
    command = "exec " + " ".join(quote(word) for word in words)
    if spec.tasks:
        lines += _choice(spec.tasks)
        command += ' "$@"'
    # exec: the signal that Slurm sends to the batch shell then reaches `allgrad run`.
    return "\n".join([*lines, command]) + "\n"


def _choice(tasks: tuple[tuple[str, ...], ...]) -> list[str]:
    cases = [f"    {i}) set -- {' '.join(map(quote, words))} ;;" for i, words in enumerate(tasks)]
    last = (
        f'    *) echo "no task $SLURM_ARRAY_TASK_ID: there are 0 to {len(tasks) - 1}" >&2; exit 2'
    )
    return ['case "$SLURM_ARRAY_TASK_ID" in', *cases, f"{last} ;;", "esac"]


def quote(word: str) -> str:
    """Quote a word for the shell, in which "{task}" and "{job}" stand for Slurm's numbers.

    Example:
        >>> print(quote("runs/my sweep/{task}"))
        'runs/my sweep/'"$SLURM_ARRAY_TASK_ID"
    """
    parts = re.split(r"(\{task\}|\{job\})", word)
    return "".join(_VARIABLES.get(p) or shlex.quote(p) for p in parts if p) or "''"


def _events_file(output: str) -> str:
    """The file of events beside the output, as a word for the shell.

    Example:
        >>> print(_events_file("logs/%x-%j.out"))
        "$PWD/logs/${SLURM_JOB_NAME}-${SLURM_JOB_ID}.events"
    """
    parts = re.split(r"(%.)", re.sub(r"\.[^./]*$", "", output))
    unknown = [part for part in parts if part.startswith("%") and part not in _NAMES]
    if unknown or '"' in output:
        raise LaunchError(
            f"--output {output}: expected a name with {' '.join(_NAMES)} at most, so that the job "
            f"and `allgrad status` find each other; got {unknown[0] if unknown else 'a quote'}"
        )
    text = "".join(_NAMES.get(p) or re.sub(r"([$`\\])", r"\\\1", p) for p in parts)
    return f'"{text}.events"' if text.startswith("/") else f'"$PWD/{text}.events"'
