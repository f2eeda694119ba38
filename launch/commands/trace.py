"""``allgrad trace``: its options."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any


def add(commands: Any) -> None:
    """Add the command to the command line."""
    trace = commands.add_parser(
        "trace",
        help="say what the steps of a recorded timeline wait for, and draw one",
        description="Say what the steps of a timeline of `allgrad run --trace` wait for.",
        allow_abbrev=False,
    )
    trace.add_argument("path", type=Path, help="the folder or file that --trace was given")
    trace.add_argument("--step", type=int, metavar="K", help="this step (default: a typical one)")
    trace.add_argument("--png", type=Path, metavar="FILE", help="draw the step into this file")
    trace.set_defaults(execute=_execute)


def _execute(options: argparse.Namespace) -> int:
    from allgrad.ddp.tracing.command import show  # noqa: PLC0415 - `allgrad --help` is quick

    lines = show(options.path, options.step, options.png)
    sys.stdout.write("".join(f"{line}\n" for line in lines))
    return 0
