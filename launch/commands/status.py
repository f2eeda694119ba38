"""``allgrad status``: its options."""

from __future__ import annotations

import argparse
from typing import Any

from allgrad.launch.commands.parser import at_least_zero


def add(commands: Any) -> None:
    """Add the command to the command line."""
    status = commands.add_parser(
        "status",
        help="look at a job of Slurm",
        description="Show jobs of Slurm at a glance: state, nodes, time, restarts, the newest "
        "checkpoint (of jobs of `allgrad sbatch`), and the last lines of the output.",
        usage="allgrad status [options] [JOB ...]",
        allow_abbrev=False,
    )
    add_argument = status.add_argument
    add_argument("jobs", nargs="*", metavar="JOB", help="12 or 12_3 (default: all your jobs)")
    add_argument(
        "--lines",
        type=at_least_zero,
        default=5,
        metavar="N",
        help="last lines of the output to show (5)",
    )
    add_argument("--json", action="store_true", help="as JSON")
    status.set_defaults(execute=_execute)


def _execute(options: argparse.Namespace) -> int:
    from allgrad.launch.slurm.status import status  # noqa: PLC0415 - `allgrad --help` is quick

    return status(options)
