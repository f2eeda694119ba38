"""The command line: ``allgrad run -n 4 train.py --epochs 10``."""

from __future__ import annotations

import argparse
import difflib
import platform
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

import allgrad
from allgrad.errors import AllgradError, OptionError

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
_CHAOS_EXAMPLES = """\
example:
  allgrad chaos -n 2 examples/mnist/train.py --synthetic --synthetic-size 4000 --epochs 3 \\
      --save-every 5 --resume --checkpoint-dir {dir}

{dir} stands where the script takes the folder of its checkpoints; each run gets a new one. The
script must go on from its newest checkpoint when it is started again, and end with the same result
whenever it was interrupted. The exit code is 0 if no job was lost, no damaged checkpoint was taken,
and all results are equal.
"""


class Parser(argparse.ArgumentParser):
    """ArgumentParser whose errors are one line and suggest what was meant."""

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Refuse unknown options here, where the options of this command are known."""
        options, unknown = super().parse_known_args(args, namespace)
        if unknown:
            self._refuse("option", unknown[0].partition("=")[0], list(self._option_string_actions))
        return options, unknown

    def error(self, message: str) -> NoReturn:
        """Print the message, with suggestions for an unknown command, and exit with code 2."""
        match = re.match(r"argument command: invalid choice: '(.*?)'", message)
        if match is not None:
            self._refuse("command", match[1], [n for a in self._actions for n in a.choices or ()])
        self.exit(2, f"{self.prog}: {message}\nTry: {self.prog} --help\n")

    def _refuse(self, kind: str, given: str, known: list[str]) -> NoReturn:
        close = difflib.get_close_matches(given, known, n=2)
        meant = f"; did you mean {' or '.join(close)}?" if close else ""
        listed = " ".join(sorted(known))
        self.exit(2, f"{self.prog}: unknown {kind} {given}{meant}\nKnown: {listed}\n")


def _at_least_one(text: str) -> int:
    value = int(text) if re.fullmatch(r"-?\d+", text) else 0
    if value < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number of at least 1, got {text}")
    return value


def _at_least_zero(text: str) -> int:
    if not re.fullmatch(r"\d+", text):
        raise argparse.ArgumentTypeError(f"expected a whole number of at least 0, got {text}")
    return int(text)


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < float("inf"):
        raise argparse.ArgumentTypeError(f"expected a number of seconds >= 0, got {text}")
    return value


def _seeds(text: str) -> range:
    from allgrad.launch.debug import parse_seeds  # noqa: PLC0415 - only where it is asked for

    try:
        return parse_seeds(text)
    except OptionError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _assignment(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise argparse.ArgumentTypeError(f"expected NAME=VALUE, got {text}")
    return name, value


def build_parser() -> Parser:
    """Return the parser of the whole command line."""
    parser = Parser(
        prog="allgrad",
        description="All ranks, one gradient: train with data parallelism over MPI.",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=_version())
    commands = parser.add_subparsers(dest="command", metavar="command", parser_class=Parser)
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
    _add_run_options(run)
    _add_trace(commands)
    chaos = commands.add_parser(
        "chaos",
        help="run a script under faults and compare its result",
        description="Run a script undisturbed, then again and again while ranks, the launcher and "
        "saves are killed and checkpoints damaged; compare what comes out, bit for bit.",
        usage="allgrad chaos [-n N] [options] script.py [args ... with {dir}]",
        epilog=_CHAOS_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    _add_chaos_options(chaos)
    return parser


def _add_trace(commands: Any) -> None:
    trace = commands.add_parser(
        "trace",
        help="say what the steps of a recorded timeline wait for, and draw one",
        description="Say what the steps of a timeline of `allgrad run --trace` wait for.",
        allow_abbrev=False,
    )
    trace.add_argument("path", type=Path, help="the folder or file that --trace was given")
    trace.add_argument("--step", type=int, metavar="K", help="this step (default: a typical one)")
    trace.add_argument("--png", type=Path, metavar="FILE", help="draw the step into this file")


def _add_chaos_options(chaos: argparse.ArgumentParser) -> None:
    add = chaos.add_argument
    add("-n", "--nproc", type=_at_least_one, default=2, metavar="N", help="number of ranks (2)")
    add("-m", "--module", action="store_true", help="run a module, as `python -m` does")
    add("--kills", type=_at_least_zero, default=20, metavar="K", help="how many kills (20)")
    add(
        "--damages",
        type=_at_least_zero,
        default=20,
        metavar="D",
        help="how many checkpoints to damage at most, one whole one is always left (20)",
    )
    add("--seed", type=_at_least_zero, default=0, metavar="S", help="of all choices (0)")
    add(
        "--every",
        type=_seconds,
        metavar="S",
        help="longest time in seconds that a run is left in peace (a tenth of the undisturbed run)",
    )
    add(
        "--max-restarts",
        type=_at_least_zero,
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
    _add_target(chaos)


def _add_target(command: argparse.ArgumentParser) -> None:
    command.add_argument("target", metavar="script", help="script, or module with -m")
    rest = command.add_argument("args", nargs=argparse.REMAINDER, help="arguments of the script")
    rest.required = False  # so that only the script is asked for where both are missing


def _add_run_options(run: argparse.ArgumentParser) -> None:
    add = run.add_argument
    add(
        "-n",
        "--nproc",
        type=_at_least_one,
        default=1,
        metavar="N",
        help="number of ranks (default: 1)",
    )
    add("-m", "--module", action="store_true", help="run a module, as `python -m` does")
    add(
        "--threads-per-rank",
        type=_at_least_one,
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
        type=_assignment,
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
    add("--timeout", type=_seconds, metavar="S", help="end the job after S seconds, exit code 124")
    add(
        "--grace",
        type=_seconds,
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
        type=_at_least_zero,
        default=0,
        metavar="K",
        help="start a failed job again, K times without a new checkpoint in between (default: 0)",
    )
    add(
        "--min-ranks",
        type=_at_least_one,
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
    _add_target(run)


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
        return _command(options)
    except AllgradError as error:
        sys.stderr.write(f"allgrad {options.command}: {error}\n")
        return 2


def _command(options: argparse.Namespace) -> int:
    """Run the command; each imports what it needs itself, so that `allgrad --help` is quick."""
    if options.command == "trace":
        from allgrad.ddp.tracing.command import show  # noqa: PLC0415

        lines = show(options.path, options.step, options.png)
        sys.stdout.write("".join(f"{line}\n" for line in lines))
        return 0
    if options.command == "chaos":
        from allgrad.launch.chaos.command import chaos  # noqa: PLC0415

        return chaos(options)
    from allgrad.launch.run import run  # noqa: PLC0415

    return run(options)


if __name__ == "__main__":
    sys.exit(main())
