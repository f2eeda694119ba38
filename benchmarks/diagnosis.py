"""What the diagnosis of desyncs and hangs costs: training steps with and without it, interleaved.

    python benchmarks/diagnosis.py [--ranks 2] [--rounds 30] [--output benchmarks/results/FILE.json]

One job under mpiexec holds two process groups with a copy of the network each: in one group
collectives are written down, compared with their purpose, watched over by a thread, and the
replicas are compared every 100 steps, as is the default; in the other one nothing of that happens
(``ALLGRAD_DIAGNOSIS=0`` and ``check_replicas_every=0``). Blocks of steps of both follow each other
in changing order, and the ratio of the two is taken per pair of blocks. Where a copy of the network
lies in memory can matter more than what is measured: half of the pairs are taken with the copies
made in reverse order.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import workloads

BOUND = 0.01  # the most that diagnosis may cost, as a share of the step
WORKLOADS = {"mlp": 100, "convnet": 100, "resnet20": 8}  # steps per block


def main() -> None:
    """Start the ranks, print the table, write the figures down."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--workloads", nargs="*", default=list(WORKLOADS))
    parser.add_argument("--output", type=Path)
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        _work(options.workloads, options.rounds)
        return
    mpiexec = Path(sys.executable).with_name("mpiexec")
    command = [str(mpiexec), "-n", str(options.ranks), sys.executable, __file__, "--worker",
               "--rounds", str(options.rounds), "--workloads", *options.workloads]  # fmt: skip
    done = subprocess.run(
        command,
        env=os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        text=True,
        timeout=1800,
        check=True,
    )
    rows = json.loads(done.stdout.splitlines()[-1])
    print(f"{'workload':10} {'off ms':>8} {'on ms':>8} {'cost':>8}  middle half of the rounds")
    for row in rows:
        low, high = row["quartiles"]
        print(f"{row['workload']:10} {row['off_ms']:8.3f} {row['on_ms']:8.3f} "
              f"{row['cost']:8.2%}  {low:.2%} to {high:.2%}, {row['rounds']} rounds")  # fmt: skip
    if options.output:
        about = {"machine": platform.processor() or platform.machine(), "cores": os.cpu_count(),
                 "ranks": options.ranks, "python": platform.python_version(),
                 "numpy": np.__version__, "bound": BOUND, "load": os.getloadavg()}  # fmt: skip
        options.output.write_text(json.dumps({"about": about, "rows": rows}, indent=1) + "\n")


def _work(names: list[str], rounds: int) -> None:
    from allgrad.ddp.communicators import mpi
    from allgrad.ddp.communicators.shm import ShmCommunicator
    from allgrad.ddp.diagnosis.settings import Settings
    from allgrad.ddp.environment import discover
    from allgrad.ddp.process_group import ProcessGroup

    groups = {}
    for name, enabled in (("off", False), ("on", True)):
        comm, _ = mpi.world()
        communicator = ShmCommunicator(comm, 600.0, Settings(enabled=enabled))
        groups[name] = ProcessGroup(communicator, discover())
    rows = [_row(name, groups, rounds) for name in names]
    if groups["on"].rank == 0:
        print(json.dumps(rows), flush=True)


def _row(workload: str, groups: dict[str, Any], rounds: int) -> dict[str, Any]:
    pairs = _pairs(workload, groups, rounds - rounds // 2)
    pairs += _pairs(workload, dict(reversed(groups.items())), rounds // 2)
    costs = sorted(on / off - 1 for off, on in pairs)
    quartiles = statistics.quantiles(costs, n=4)
    return {
        "workload": workload,
        "off_ms": 1e3 * statistics.median(off for off, _ in pairs),
        "on_ms": 1e3 * statistics.median(on for _, on in pairs),
        "cost": statistics.median(costs),
        "quartiles": [quartiles[0], quartiles[2]],
        "rounds": rounds,
        "steps_per_block": WORKLOADS[workload],
        "pairs_s": pairs,
    }


def _pairs(workload: str, groups: dict[str, Any], rounds: int) -> list[tuple[float, float]]:
    """Seconds per step without and with the diagnosis; copies are made in the order of `groups`."""
    import allgrad as ag
    from allgrad import ddp, nn

    steps = WORKLOADS[workload]
    rank = groups["on"].rank
    x, y = workloads.batch(workload, np.random.default_rng(rank))
    x, y = ag.tensor(x), ag.tensor(y)
    sides = {}
    for name, group in groups.items():
        ag.manual_seed(0)
        model = ddp.DistributedDataParallel(
            workloads.build(workload, nn, nn.functional),
            process_group=group,
            check_replicas_every=100 if name == "on" else 0,
        )
        sides[name] = (model, ag.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9), group)

    def block(name: str) -> float:
        model, optimizer, group = sides[name]
        group.communicator.barrier()
        begin = time.perf_counter()
        for _ in range(steps):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x), y).backward()
            optimizer.step()
        group.communicator.barrier()
        return (time.perf_counter() - begin) / steps

    for name in sides:
        block(name)
    pairs = []
    for number in range(rounds):
        order = ("off", "on") if number % 2 else ("on", "off")
        taken = {name: block(name) for name in order}
        pairs.append((taken["off"], taken["on"]))
    return pairs


if __name__ == "__main__":
    main()
