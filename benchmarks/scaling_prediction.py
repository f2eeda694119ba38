"""Predicted against measured steps, on emulated hosts whose links are shaped (needs root).

    python benchmarks/scaling_prediction.py                     # 2 and 4 hosts at 1 and 10 Gbit/s
    python benchmarks/scaling_prediction.py --rows resnet20@2x1gbit --priority

A row is `workload@hostsxrate`. In every round the same ranks make steps whose gradients do not
travel, with a trace, and steps as usual; the former are predicted, the latter measured. What the
link and the host can do is measured beforehand, on the same link, with all-reduces alone. The
workload `paced` sleeps where others compute: four ranks that compute on two cores would slow each
other down, which four hosts do not (see `paced.py`).

Raw figures go to benchmarks/results/scaling_prediction-<date>.json.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from netns import Hosts, HostsError
from scaling_job import HERE, Job, Place
from step import spread, versions

from allgrad.ddp.communicators.link import Link
from allgrad.ddp.prediction.network import TCP, Network
from allgrad.ddp.prediction.profile import profile_of
from allgrad.ddp.prediction.simulation import Cluster, predict
from allgrad.ddp.tracing.chrome import load

# workload@hostsxrate: what the worker gets; the batch, or MB and seconds of forward and backward.
# Of each kind the link carries less, and more, than backward can hide.
ROWS: dict[str, dict[str, Any]] = {
    "resnet20@2x1gbit": {"batch": 4},
    "resnet20@2x10gbit": {"batch": 4},
    "resnet18@2x10gbit": {"batch": 4},
    "paced 4 MB@2x1gbit": {"paced": (4.0, 0.025, 0.05)},
    "paced 12 MB@2x1gbit": {"paced": (12.0, 0.025, 0.05)},
    "paced 20 MB@2x10gbit": {"paced": (20.0, 0.025, 0.05)},
    "paced 3 MB@4x1gbit": {"paced": (3.0, 0.025, 0.05)},
    "paced 8 MB@4x1gbit": {"paced": (8.0, 0.025, 0.05)},
    "paced 10 MB@4x10gbit": {"paced": (10.0, 0.05, 0.1)},
}


def calibrated(job: Job, name: str) -> tuple[Network, dict[str, Any]]:
    """What this link and this host can do, from all-reduces alone; and the raw figures."""
    told = job.ask(calibrate=True)[0]["calibration"]
    alone = {int(size): seconds for size, seconds in told["alone_s"].items()}
    launch_s, look_s = told["launch_s"], told["look_s"]
    work_s = statistics.median(taken - launch_s - looks * look_s for taken, looks in told["core_s"])
    byte_s = max(0.0, work_s) / 2 / _wire_bytes(job.ranks, told["core_bytes"])
    costs = replace(TCP, launch_s=launch_s, poll_s=look_s, byte_s=byte_s)
    # the time of two sizes alone gives the rate: copies are in it, and are not counted twice
    sizes = sorted(alone)[-2:]
    more = _wire_bytes(job.ranks, sizes[1]) - _wire_bytes(job.ranks, sizes[0])
    rate = more / max(1e-9, alone[sizes[1]] - alone[sizes[0]])
    rounds = 1 if job.ranks == 2 else 2
    link = Link(max(1e-6, (alone[4] - launch_s) / rounds), rate)
    return Network(name, link, costs), told


def _wire_bytes(hosts: int, size: int) -> float:
    return float(size) if hosts == 2 else 2 * (hosts - 1) / hosts * size


@dataclass(frozen=True)
class Row:
    """What is run where.

    Attributes:
        workload: of `workloads.py`, or "paced".
        given: to the worker.
        hosts, rate: how many, and what tc writes.
        priority: whether ranks go before all other processes.
    """

    workload: str
    given: dict[str, Any]
    hosts: int
    rate: str
    priority: bool

    @classmethod
    def named(cls, name: str, priority: bool) -> Row:
        """One of `ROWS`."""
        title, _, where = name.partition("@")
        hosts, _, rate = where.partition("x")
        return cls(title.split()[0], ROWS[name], int(hosts), rate, priority)


def measure(row: Row, rounds: int, seconds: float) -> dict[str, Any]:
    """Predict and measure, in turns.

    Args:
        row: what is run where.
        rounds: how often.
        seconds: per round and kind of step.

    Raises:
        HostsError: hosts cannot be made here.
    """
    cores = sorted(os.sched_getaffinity(0))
    with Hosts(row.hosts, row.rate) as hosts:
        place = Place("hosts", hosts, cores=cores, priority=row.priority)
        job = Job(place, "allgrad", row.workload, row.hosts, **row.given)
        try:
            network, told = calibrated(job, row.rate)
            first = statistics.median(job.steps(5)[0])
            steps = max(6, int(seconds / first))
            cluster = Cluster(row.hosts, 1, network)
            taken = [_round(job, network, cluster, steps, turn) for turn in range(rounds)]
        finally:
            job.close()
    return {"options": row.given, "steps": steps, "calibration": told,
            "network": {"bytes_per_s": network.link.bandwidth_bytes_per_s,
                        "latency_s": network.link.latency_s, **vars(network.costs)},
            "rounds": taken}  # fmt: skip


def _round(job: Job, network: Network, cluster: Cluster, steps: int, turn: int) -> dict[str, float]:
    """Steps of both kinds, and what the ones say of the others."""
    folder = job.folder / f"trace{turn}"
    measured_first = job.steps(steps // 2)
    job.ask(compute=steps, trace=str(folder))
    measured = [a + b for a, b in zip(measured_first, job.steps(steps // 2), strict=True)]
    profile = profile_of(load(folder))
    named = Network.parse(network.name)
    predicted = predict(profile, cluster)
    return {
        "compute_s": profile.compute_s,
        "predicted_s": predicted.step_s,
        "with_jitter_s": predicted.step_s + predicted.slowest_s,
        "by_name_s": predict(profile, Cluster(cluster.hosts, 1, named)).step_s,
        "measured_s": statistics.median(max(times) for times in zip(*measured, strict=True)),
    }


def line(row: dict[str, Any]) -> str:
    """The row as text."""
    rounds = row["rounds"]
    ms = {key: [r[key] for r in rounds] for key in rounds[0]}
    network = row["network"]
    errors = [100 * (r["predicted_s"] / r["measured_s"] - 1) for r in rounds]
    named = statistics.median(100 * (r["by_name_s"] / r["measured_s"] - 1) for r in rounds)
    return (
        f"| {row['row']} | {network['bytes_per_s'] / 1e6:.0f} MB/s, "
        f"{network['poll_s'] * 1e6:.0f} us, {network['byte_s'] * 1e9:.2f} ns | "
        f"{spread(ms['compute_s'], 1e3, '.1f')} | {spread(ms['measured_s'], 1e3, '.1f')} | "
        f"{spread(ms['predicted_s'], 1e3, '.1f')} | {spread(errors, 1, '+.1f')} % | "
        f"{named:+.1f} % |"
    )


def main() -> None:
    """Measure, print the table, save the raw figures."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--rows", nargs="+", default=list(ROWS), choices=list(ROWS), metavar="ROW")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2.0, help="per round and kind of step")
    parser.add_argument("--priority", action="store_true", help="above all other processes (root)")
    parser.add_argument("--out", type=Path, help="JSON file of the raw figures")
    options = parser.parse_args()
    print("| row | link, look, byte | compute, ms | measured, ms | predicted, ms | error | "
          "error with the named network |")  # fmt: skip
    print("|---|---|---|---|---|---|---|")
    rows = []
    for name in options.rows:
        try:
            row = Row.named(name, options.priority)
            rows.append({"row": name} | measure(row, options.rounds, options.seconds))
        except HostsError as error:
            print(f"| {name} | skipped: {error} |")
            continue
        print(line(rows[-1]), flush=True)
    date = time.strftime("%Y-%m-%d")
    out = options.out or HERE / "results" / f"scaling_prediction-{date}.json"
    record = {"versions": versions(), "priority": options.priority, "rows": rows}
    out.write_text(json.dumps(record, indent=1))
    print(f"medians over {options.rounds} rounds (range); raw figures: {out}")


if __name__ == "__main__":
    main()
