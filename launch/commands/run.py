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

LAUNCHERS = ("auto", "local", "mpiexec", "srun", "threads")
_EXAMPLES = """\
examples:
  allgrad run -n 2 examples/digits/train.py --epochs 5
  allgrad run -n 4 --log-dir runs/a --timeout 3600 train.py
  allgrad run -H node1:4,node2:4 train.py            # 8 ranks, reached by ssh
  allgrad run --hostfile hosts --nproc-per-node 2 -m mypackage.train --lr 0.1
  allgrad run train.py                               # inside sbatch: all its tasks, by srun
  allgrad run -n 4 --dry-run train.py
  allgrad run --debug -n 4 train.py
  allgrad run --debug -n 4 --schedule 1:200 train.py

The same script also runs as `python train.py` (one rank), under `mpiexec -n 4 python train.py` and
`srun python train.py`. The exit code is that of the rank that failed first: 1 for an exception,
128 + number for a signal, 255 for a host that is gone; 124 when the time limit was reached, 2 when
the job could not be started as asked.
"""


def add(commands: Any) -> None:
    """Add the command to the command line."""
    run = commands.add_parser(
        "run",
        help="start a script as several ranks, here or on several hosts",
        description="Start a script as several ranks, here or on several hosts, and stop all when "
        "one fails.",
        usage="allgrad run [-n N] [options] script.py [args ...]\n"
        "       allgrad run [-n N] [options] -m module [args ...]",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    _add_places(run.add_argument_group("how many ranks, where"))
    _add_resources(run.add_argument_group("what each rank gets"))
    _add_output(run.add_argument_group("output"))
    _add_ends(run.add_argument_group("ends and restarts"))
    _add_insight(run.add_argument_group("looking into a job"))
    add_target(run)
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


def _add_places(group: Any) -> None:
    add = group.add_argument
    add(
        "-n",
        "--nproc",
        type=at_least_one,
        metavar="N",
        help="number of ranks in all (default: 1; all slots of the hosts; all tasks of the Slurm "
        "allocation)",
    )
    add(
        "--nproc-per-node",
        "--nproc_per_node",
        type=at_least_one,
        metavar="N",
        help="number of ranks on each host",
    )
    add("--nnodes", type=at_least_one, metavar="N", help="take the first N of the hosts")
    add(
        "-H",
        "--hosts",
        metavar="HOST:SLOTS,...",
        help="hosts, each with the number of ranks that it takes: node1:4,node2:4",
    )
    add("--hostfile", metavar="FILE", help="the same from a file; a line: node1:4, node1 slots=4")
    add(
        "--launcher",
        choices=LAUNCHERS,
        default="auto",
        help="what starts the ranks (default: auto, which takes mpiexec for several hosts, srun in "
        "a Slurm allocation, mpiexec here, and nothing for one rank; threads is --debug)",
    )
    add(
        "--mpi",
        default="auto",
        metavar="TYPE",
        help="how srun connects the ranks: pmi2, pmix, ... (default: auto, by the MPI found)",
    )
    add(
        "--mpiexec",
        metavar="PROGRAM",
        help="the mpiexec of the MPI that mpi4py uses (default: the one beside this Python, or the "
        "first on PATH)",
    )
    add(
        "--remote-shell",
        "--launcher-exec",
        metavar="PROGRAM",
        help="what mpiexec starts ranks on other hosts with, called as ssh is (default: ssh)",
    )
    add("-m", "--module", action="store_true", help="run a module, as `python -m` does")


def _add_resources(group: Any) -> None:
    add = group.add_argument
    add(
        "--threads-per-rank",
        type=at_least_one,
        metavar="N",
        help="threads of OpenMP and BLAS in each rank (default: OMP_NUM_THREADS, or the cores of "
        "the rank's host divided by the ranks there)",
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
        "--link",
        metavar="LINK",
        help="let collectives take as long as over this link: 1gbit,50us or 10gbit or nvlink, ...",
    )


def _add_output(group: Any) -> None:
    add = group.add_argument
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
    add("--dry-run", action="store_true", help="print the exact command and start nothing")
    add("-v", "--verbose", action="store_true", help="say which MPI is used, and how many threads")


def _add_ends(group: Any) -> None:
    add = group.add_argument
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
        "cannot be started twice in a row, or a host is gone (default: as -n)",
    )
    add(
        "--requeue",
        action="store_true",
        help="in a batch job of Slurm: put the job back into the queue after its ranks have saved "
        "and left because of SIGUSR1 or SIGUSR2, so that it goes on later",
    )


def _add_insight(group: Any) -> None:
    add = group.add_argument
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
