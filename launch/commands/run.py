"""``allgrad run``: its options."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from allgrad.errors import OptionError
from allgrad.launch.commands.parser import (
    add_target,
    assignment,
    at_least_one,
    at_least_zero,
    seconds,
)

_EXAMPLES = """\
examples:
  allgrad run -n 2 examples/digits/train.py --epochs 5
  allgrad run -n 4 --log-dir runs/a --timeout 3600 train.py
  allgrad run -n 2 -m mypackage.train --lr 0.1
  allgrad run -n 4 --dry-run train.py
  allgrad run --debug -n 4 train.py
  allgrad run --debug -n 4 --schedule 1:200 train.py

The same script also runs as `python train.py` (one rank) and under `mpiexec -n 4 python train.py`.
The exit code is that of the rank that failed first: 1 for an exception, 128 + number for a signal,
124 when the time limit was reached, 2 when the job could not be started as asked.
"""


def add(commands: Any) -> None:
    """Add the command to the command line."""
    run = commands.add_parser(
        "run",
        help="start a script as several ranks on this host",
        description="Start a script as several ranks on this host, and stop all when one fails.",
        usage="allgrad run [-n N] [options] script.py [args ...]\n"
        "       allgrad run [-n N] [options] -m module [args ...]",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    _add_options(run)
    run.set_defaults(execute=_execute)


def _execute(options: argparse.Namespace) -> int:
    from allgrad.launch.run import run  # noqa: PLC0415 - `allgrad --help` is quick

    return run(options)


def _seeds(text: str) -> range:
    from allgrad.launch.debug import parse_seeds  # noqa: PLC0415 - only where it is asked for

    try:
        return parse_seeds(text)
    except OptionError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _add_options(run: argparse.ArgumentParser) -> None:
    add = run.add_argument
    add(
        "-n",
        "--nproc",
        type=at_least_one,
        default=1,
        metavar="N",
        help="number of ranks (default: 1)",
    )
    add("-m", "--module", action="store_true", help="run a module, as `python -m` does")
    add(
        "--threads-per-rank",
        type=at_least_one,
        metavar="N",
        help="threads of OpenMP and BLAS in each rank (default: OMP_NUM_THREADS, or cores of this "
        "process divided by ranks)",
    )
    add(
        "--bind",
        choices=("none", "core"),
        default="none",
        help="keep each rank on its own cores (default: none)",
    )
    add(
        "--env",
        type=assignment,
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="set a variable for the ranks; may be repeated",
    )
    add(
        "--no-prefix",
        dest="prefix",
        action="store_false",
        help="show lines without the [rank] before them",
    )
    add(
        "--log-dir",
        type=Path,
        metavar="DIR",
        help="write each rank's output to DIR/rank-N.log, and show rank 0 only",
    )
    add("--tee", action="store_true", help="with --log-dir: show all ranks all the same")
    add("--timeout", type=seconds, metavar="S", help="end the job after S seconds, exit code 124")
    add(
        "--grace",
        type=seconds,
        default=30.0,
        metavar="S",
        help="after SIGTERM or Ctrl-C let ranks go on for S seconds (default: 30); a second signal "
        "kills them",
    )
    add(
        "--link",
        metavar="LINK",
        help="let collectives take as long as over this link: 1gbit,50us or 10gbit or nvlink, ...",
    )
    add(
        "--max-restarts",
        type=at_least_zero,
        default=0,
        metavar="K",
        help="start a failed job again, K times without a new checkpoint in between (default: 0)",
    )
    add(
        "--min-ranks",
        type=at_least_one,
        metavar="M",
        help="with --max-restarts: go on with fewer ranks, down to M, when ranks are killed or "
        "cannot be started twice in a row (default: as -n)",
    )
    add(
        "--debug",
        action="store_true",
        help="run the ranks as threads of one process: same code, same bits, and breakpoint() "
        "works in any rank",
    )
    add(
        "--pdb",
        "--debug-post-mortem",
        action="store_true",
        help="with --debug: open the debugger where a rank fails, while the others hold",
    )
    add(
        "--schedule",
        type=_seeds,
        metavar="SEED",
        help="with --debug: one rank runs at a time, in an order that SEED decides and repeats; "
        "1:200 tries these seeds until one fails",
    )
    add(
        "--trace",
        type=Path,
        metavar="PATH",
        help="write a timeline of all ranks into this folder, or into this file if it ends in "
        ".json; look at it with `allgrad trace PATH`",
    )
    add("--trace-steps", metavar="A:B", help="record the steps from A to before B only")
    add("--dry-run", action="store_true", help="print the exact command and start nothing")
    add("-v", "--verbose", action="store_true", help="say which MPI is used, and how many threads")
    add_target(run)
