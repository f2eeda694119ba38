"""The command line: ``allgrad run -n 4 train.py --epochs 10``."""

from __future__ import annotations

import platform
import sys
from collections.abc import Sequence

import numpy as np

import allgrad
from allgrad.errors import AllgradError
from allgrad.launch.commands import (
    chaos,
    completion,
    doctor,
    predict,
    run,
    sbatch,
    status,
    trace,
)
from allgrad.launch.commands.parser import Parser

COMMANDS = (
    run,
    sbatch,
    status,
    doctor,
    trace,
    predict,
    chaos,
    completion,
)  # in the order of --help


_EPILOG = """\
allgrad COMMAND --help tells more. To begin with:
  allgrad run -n 2 train.py        two ranks on this host
  allgrad doctor                   is everything as it must be?
"""


def build_parser() -> Parser:
    """Return the parser of the whole command line."""
    parser = Parser(
        prog="allgrad",
        description="All ranks, one gradient: train with data parallelism over MPI.",
        epilog=_EPILOG,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=_version())
    commands = parser.add_subparsers(
        title="commands", dest="command", metavar="command", parser_class=Parser
    )
    for command in COMMANDS:
        command.add(commands)
    return parser


def _version() -> str:
    python = platform.python_version()
    return f"allgrad {allgrad.__version__} (python {python}, numpy {np.__version__})"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code.

    Args:
        argv: arguments; default those of this process.
    """
    parser = build_parser()
    options = parser.parse_args(argv)
    if options.command is None:
        parser.print_help()
        return 2
    options.argv = list(sys.argv[1:] if argv is None else argv)
    try:
        return int(options.execute(options))
    except AllgradError as error:
        sys.stderr.write(f"allgrad {options.command}: {error}\n")
        return 2


if __name__ == "__main__":
    sys.exit(main())
