"""``allgrad chaos``: from options to a report."""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path

from allgrad.errors import LaunchError
from allgrad.launch.chaos.campaign import PLACE, Campaign, Plan, Report
from allgrad.launch.target import check_target


def chaos(options: argparse.Namespace) -> int:
    """Run the campaign that the options describe; return the exit code.

    Raises:
        LaunchError: the script does not exist, takes no ``{dir}``, or fails without faults.
    """
    check_target(options.target, options.module)
    target = ("-m", options.target) if options.module else (options.target,)
    if not any(PLACE in word for word in options.args):
        raise LaunchError(
            f"none of the script's arguments is or holds {PLACE}; write it where the folder of the "
            f"checkpoints stands: allgrad chaos train.py --checkpoint-dir {PLACE}"
        )
    plan = Plan(
        script=(*target, *options.args),
        nproc=options.nproc,
        kills=options.kills,
        damages=options.damages,
        seed=options.seed,
        every_s=options.every,
        max_restarts=options.max_restarts,
        compare=tuple(options.compare),
        name=options.name,
    )
    with tempfile.TemporaryDirectory(prefix="allgrad-chaos-") as folder:
        report = Campaign(plan, Path(folder), _say).run()
    for line in summary(report):
        _say(line)
    if options.json is not None:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(report.as_dict(), indent=1) + "\n")
    return 1 if report.problems else 0


def summary(report: Report) -> list[str]:
    """The figures of a campaign, and what went wrong."""
    figures = report.as_dict()
    times = figures["restart_s"]
    lines = [
        f"kills {figures['killed']}: {_listed(figures['kills'])}; "
        f"saves cut short {report.saves_cut}; ranks stopped for a while {report.stops}",
        f"damaged checkpoints {figures['damaged']}: {_listed(figures['damages'])}; "
        f"loads checked {report.loads_checked}",
    ]
    if times["n"]:
        lines.append(
            f"from a kill to the resumed training: median {times['median']:.2f} s, 90 % within "
            f"{times['p90']:.2f} s, longest {times['worst']:.2f} s, n = {times['n']}"
        )
    lines += report.problems
    if not report.problems:
        lines.append(
            f"{report.rounds} trainings: none lost, no bad file taken, all end with the bits of "
            "the undisturbed one"
        )
    return lines


def _listed(counts: dict[str, int]) -> str:
    return ", ".join(f"{kind} {count}" for kind, count in sorted(counts.items())) or "none"


def _say(text: str) -> None:
    sys.stdout.write(f"allgrad chaos: {text}\n")
    sys.stdout.flush()
