"""``allgrad doctor``: its options."""

from __future__ import annotations

import argparse
from typing import Any

from allgrad.launch.commands.parser import at_least_one, seconds

_EXAMPLES = """\
examples:
  allgrad doctor                                        this machine
  allgrad doctor -n 8                                   would 8 ranks fit here?
  allgrad doctor -H node1:4,node2:4                     compare hosts, measure the network
  mpiexec -n 4 allgrad doctor                           any launcher: is it the right one?
  srun --mpi=pmi2 -n 4 allgrad doctor
  allgrad run -n 4 -m allgrad.launch.doctor

The exit code is 0 if ranks can run, with or without warnings; 2 if something is broken; with
--strict, 1 if there are warnings.
"""


def add(commands: Any) -> None:
    """Add the command to the command line."""
    doctor = commands.add_parser(
        "doctor",
        help="look for what keeps ranks from running, or slows them down",
        description="Look at MPI, launcher, cores, memory, network, GPUs and Slurm, measure an\n"
        "all-reduce, and say what to mend before a job fails.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = doctor.add_argument
    add(
        "-n",
        "--nproc",
        type=at_least_one,
        metavar="N",
        help="number of ranks that are to run (default: tasks of the Slurm allocation; cores, at "
        "most 4)",
    )
    add("-H", "--hosts", metavar="HOST:SLOTS,...", help="look at these hosts, as ranks of one job")
    add("--hostfile", metavar="FILE", help="as -H, one host per line")
    add(
        "--launcher",
        choices=("local", "mpiexec", "srun"),
        help="run as ranks of a job that this starts, as with `allgrad run`",
    )
    add("--mpiexec", metavar="PROGRAM", help="as for `allgrad run`")
    add("--remote-shell", metavar="PROGRAM", help="with -H: as for `allgrad run`")
    add("--seconds", type=seconds, default=2.0, metavar="S", help="of the self test (2)")
    add("--no-self-test", action="store_true", help="start no ranks and measure nothing")
    add("--json", action="store_true", help="print everything as one object of JSON")
    add("--strict", action="store_true", help="exit code 1 if there are warnings")
    doctor.set_defaults(execute=_execute)


def _execute(options: argparse.Namespace) -> int:
    from allgrad.launch.doctor.command import doctor  # noqa: PLC0415 - `allgrad --help` is quick

    return doctor(options)
