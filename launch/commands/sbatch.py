"""``allgrad sbatch``: its options."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from allgrad.launch.commands.parser import add_target, assignment, at_least_one, at_least_zero

_EXAMPLES = """\
examples:
  allgrad sbatch --nodes 2 --ntasks-per-node 4 --time 1:00:00 train.py --epochs 10
  allgrad sbatch --nodes 2 --gpus-per-node 4 --partition gpu train.py
  allgrad sbatch --time 4:00:00 --requeue train.py          # goes on when preempted or out of time
  allgrad sbatch --array 0-9%3 train.py --seed {task}       # ten seeds, three at a time
  allgrad sbatch --args-file sweep.txt train.py             # a task per line of arguments
  allgrad sbatch --nodes 2 --dry-run train.py               # print the script, submit nothing

{task} and {job} in the script's arguments are the numbers of the array's task and of the job. The
job's number is printed on stdout alone. The script must use ddp.graceful_exit() for --requeue.
"""


def add(commands: Any) -> None:
    """Add the command to the command line."""
    sbatch = commands.add_parser(
        "sbatch",
        help="write a batch script for Slurm and submit it",
        description="Write a batch script that sets resources and calls `allgrad run`, and give it "
        "to Slurm's sbatch.",
        usage="allgrad sbatch [options] script.py [args ...]\n"
        "       allgrad sbatch [options] -m module [args ...]",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    _add_resources(sbatch.add_argument_group("resources, as for sbatch").add_argument)
    _add_end(sbatch.add_argument_group("end and restart").add_argument)
    _add_ranks(sbatch.add_argument_group("ranks, as for allgrad run").add_argument)
    _add_script(sbatch.add_argument_group("the script").add_argument)
    add_target(sbatch)
    sbatch.set_defaults(execute=_execute)


def _execute(options: argparse.Namespace) -> int:
    from allgrad.launch.slurm.submit import sbatch  # noqa: PLC0415 - `allgrad --help` is quick

    return sbatch(options)


def _add_resources(add: Any) -> None:
    add("--nodes", "-N", type=at_least_one, metavar="N", help="number of nodes")
    add(
        "--ntasks-per-node",
        type=at_least_one,
        metavar="N",
        help="ranks per node (default: one per GPU, or one)",
    )
    add("--ntasks", "-n", type=at_least_one, metavar="N", help="ranks in all")
    add("--cpus-per-task", "-c", type=at_least_one, metavar="N", help="cores per rank")
    add("--gpus-per-node", metavar="[TYPE:]N", help="GPUs per node")
    add("--mem", metavar="SIZE", help="memory per node, such as 64G")
    add("--time", "-t", metavar="TIME", help="limit: 90 (minutes), 1:30:00 or 2-12:00:00")
    add("--partition", "-p", metavar="NAME", help="where to run")
    add("--account", "-A", metavar="NAME", help="who pays")
    add("--qos", "-q", metavar="NAME", help="quality of service")
    add("--array", "-a", metavar="TASKS", help="an array of jobs, such as 0-9 or 0-9%%3")
    add("--job-name", "-J", metavar="NAME", help="default: the script's name")
    add("--output", "-o", metavar="FILE", help="default: %%x-%%j.out, in the folder of this call")
    add(
        "--sbatch",
        action="append",
        default=[],
        metavar="OPTION",
        help="another option of sbatch, as --sbatch=--constraint=a100; may be repeated",
    )


def _add_end(add: Any) -> None:
    add(
        "--requeue",
        action="store_true",
        help="when the job is preempted or at its time limit: save, leave, and go on later in the "
        "same job",
    )
    add("--signal", metavar="SIG@S", help="warn the ranks S seconds before the end (USR1@120)")
    add(
        "--max-restarts",
        type=at_least_zero,
        metavar="K",
        help="inside the job: start failed ranks again",
    )
    add("--min-ranks", type=at_least_one, metavar="M", help="with --max-restarts: go on with fewer")


def _add_ranks(add: Any) -> None:
    add("--mpi", metavar="KIND", help="how srun connects the ranks: pmi2, pmix, ...")
    add("--threads-per-rank", type=at_least_one, metavar="N", help="threads of each rank")
    add("--bind", choices=("none", "core"), help="keep each rank on its own cores")
    add("--log-dir", metavar="DIR", help="a file of output per rank")
    add(
        "--env",
        type=assignment,
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="set a variable for the ranks; may be repeated",
    )


def _add_script(add: Any) -> None:
    add("-m", "--module", action="store_true", help="run a module, as `python -m` does")
    add(
        "--args-file",
        type=Path,
        metavar="FILE",
        help="an array with a task per line of FILE, which holds its further arguments",
    )
    add("--write", type=Path, metavar="FILE", help="write the batch script into FILE, too")
    add("--wait", action="store_true", help="wait for the job's end; its exit code is ours")
    add("--dry-run", action="store_true", help="print the batch script and submit nothing")
