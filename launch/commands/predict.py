"""``allgrad predict``: its options."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from allgrad.launch.commands.parser import at_least_one

_EXAMPLES = """\
examples:
  allgrad run -n 1 --trace runs/t train.py       # what one rank computes; two show the neighbours
  allgrad predict runs/t                         # named networks, 2 to 1024 ranks
  allgrad predict runs/t --network 10gbit --ranks 2 4 8 16
  allgrad predict runs/t --network infiniband-ndr --ranks 8 64 512 --ranks-per-host 8
  allgrad predict runs/t --network 25gbit,20us --factor 0.5   # cores of twice the speed

The model's gradients are cut into the buckets that the wrapper would cut, and go over the network
in the reducer's order while backward computes. docs/scaling.md says what is in it, and what not.
"""


def add(commands: Any) -> None:
    """Add the command to the command line."""
    parser = commands.add_parser(
        "predict",
        help="say what more ranks would bring, from a recorded timeline",
        description="Say how long a step takes on more ranks and over another network, from a "
        "timeline of `allgrad run --trace`.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("trace", type=Path, help="the folder or file that --trace was given")
    add(
        "--network",
        action="append",
        default=[],
        metavar="NAME",
        help="1gbit, 10gbit, 25gbit, 100gbit, infiniband-hdr, infiniband-ndr, nvlink, or a rate "
        "and a latency such as 40gbit,5us; may be repeated (default: all that have a name)",
    )
    add(
        "--ranks",
        type=at_least_one,
        nargs="+",
        default=[2, 8, 64, 1024],
        metavar="N",
        help="numbers of ranks (default: 2 8 64 1024)",
    )
    add(
        "--ranks-per-host",
        type=at_least_one,
        default=1,
        metavar="N",
        help="ranks that share a host and its link (default: 1)",
    )
    add(
        "--factor",
        type=_positive,
        default=1.0,
        metavar="F",
        help="computation takes F times what was recorded: other cores, another batch size",
    )
    add(
        "--bucket-cap-mb",
        type=_positive,
        metavar="MIB",
        help="as in the wrapper (default: its own)",
    )
    add(
        "--flat",
        action="store_true",
        help="ranks of a host do not add up in shared memory first (hierarchical=False)",
    )
    add("--json", type=Path, metavar="FILE", help="write all figures into this file, too")
    parser.set_defaults(execute=_execute)


def _positive(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"expected a number above 0, got {text!r}")
    return value


def _execute(options: argparse.Namespace) -> int:
    from allgrad.ddp.prediction.command import (  # noqa: PLC0415 - `allgrad --help` is quick
        Request,
        show,
    )

    request = Request(
        options.trace,
        tuple(options.network),
        tuple(options.ranks),
        options.ranks_per_host,
        options.factor,
        options.bucket_cap_mb,
        options.flat,
        options.json,
    )
    sys.stdout.write("".join(f"{line}\n" for line in show(request)))
    return 0
