"""``allgrad chaos``: its options."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from allgrad.launch.commands.parser import add_target, at_least_one, at_least_zero, seconds

_EXAMPLES = """\
example:
  allgrad chaos -n 2 examples/mnist/train.py --synthetic --synthetic-size 4000 --epochs 3 \\
      --save-every 5 --resume --checkpoint-dir {dir}

{dir} stands where the script takes the folder of its checkpoints; each run gets a new one. The
script must go on from its newest checkpoint when it is started again, and end with the same result
whenever it was interrupted. The exit code is 0 if no job was lost, no damaged checkpoint was taken,
and all results are equal.
"""


def add(commands: Any) -> None:
    """Add the command to the command line."""
    chaos = commands.add_parser(
        "chaos",
        help="run a script under faults and compare its result",
        description="Run a script undisturbed, then again and again while ranks, the launcher and "
        "saves are killed and checkpoints damaged; compare what comes out, bit for bit.",
        usage="allgrad chaos [-n N] [options] script.py [args ... with {dir}]",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    _add_options(chaos)
    chaos.set_defaults(execute=_execute)


def _execute(options: argparse.Namespace) -> int:
    from allgrad.launch.chaos.command import chaos  # noqa: PLC0415 - `allgrad --help` is quick

    return chaos(options)


def _add_options(chaos: argparse.ArgumentParser) -> None:
    add = chaos.add_argument
    add("-n", "--nproc", type=at_least_one, default=2, metavar="N", help="number of ranks (2)")
    add("-m", "--module", action="store_true", help="run a module, as `python -m` does")
    add("--kills", type=at_least_zero, default=20, metavar="K", help="how many kills (20)")
    add(
        "--damages",
        type=at_least_zero,
        default=20,
        metavar="D",
        help="how many checkpoints to damage at most, one whole one is always left (20)",
    )
    add("--seed", type=at_least_zero, default=0, metavar="S", help="of all choices (0)")
    add(
        "--every",
        type=seconds,
        metavar="S",
        help="longest time in seconds that a run is left in peace (a tenth of the undisturbed run)",
    )
    add(
        "--max-restarts",
        type=at_least_zero,
        default=10,
        metavar="K",
        help="as for `allgrad run` (10)",
    )
    add(
        "--compare",
        action="append",
        default=[],
        metavar="FILE",
        help="a file in {dir} that must be the same at the end; may be repeated",
    )
    add("--name", default="checkpoint", help="beginning of the checkpoints' names (checkpoint)")
    add("--json", type=Path, metavar="FILE", help="write the figures into a file")
    add_target(chaos)
