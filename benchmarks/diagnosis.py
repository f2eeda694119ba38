"""What the diagnosis of desyncs and hangs costs: the same training, with it and without, in turns.

    python benchmarks/diagnosis.py [--ranks 2] [--steps 400] [--output benchmarks/results/FILE.json]

Where a copy of a network lies in memory changes its step by more than what is measured here, so
there is one copy, one communicator and one job under mpiexec, and the diagnosis is switched from
step to step, on all ranks alike and in an order drawn anew for every three steps:

    off      collectives are neither written down nor compared, replicas are not compared
    on       both are done; replicas are not compared
    replicas as on, and the replicas are compared in this very step (by default: every 100th)

A difference is that of two steps of the same three; a step takes the mean over the ranks. What the
diagnosis costs is ``on - off``, and a hundredth of ``replicas - on``; of each the median, with the
interval that holds 95 % of the medians of resampled triples. Beside it, `counted` is what can be
known without timing steps: collectives per step times what the calls take in a loop. The watch
thread runs through all of it; four looks a second are only counted.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import workloads
from numpy.typing import NDArray
from priority import lift_session

BOUND = 0.01  # the most that diagnosis may cost, as a share of the step
WORKLOADS = ("mlp", "convnet", "resnet20")
STATES = ("off", "on", "replicas")
CHECK_EVERY = 100
RESAMPLED = 4000


def main() -> None:
    """Start the ranks, print the table, write the figures down."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--steps", type=int, default=400, help="of each kind (400)")
    parser.add_argument("--workloads", nargs="*", default=list(WORKLOADS))
    parser.add_argument("--priority", action="store_true", help="above all other processes (root)")
    parser.add_argument("--output", type=Path)
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.priority and os.geteuid() != 0:
        parser.error("--priority needs root")
    if options.worker:
        lift_session()
        _work(options.workloads, options.steps)
        return
    load = [os.getloadavg()]
    rows = _run(options)
    load.append(os.getloadavg())
    print(f"{'workload':10} {'off ms':>8} {'cost':>8}  {'95 % interval':18} {'counted':>8}")
    for row in rows:
        low, high = (f"{share:+.2%}" for share in row["interval"])
        print(f"{row['workload']:10} {row['off_ms']:8.3f} {row['cost']:+8.2%}  "
              f"{low + ' to ' + high:18} {row['counted']:8.2%}")  # fmt: skip
    if options.output:
        about = {"machine": platform.processor() or platform.machine(), "cores": os.cpu_count(),
                 "ranks": options.ranks, "priority": options.priority,
                 "python": platform.python_version(), "numpy": np.__version__,
                 "bound": BOUND, "check_every": CHECK_EVERY,
                 "load_before_and_after": load}  # fmt: skip
        options.output.write_text(json.dumps({"about": about, "rows": rows}, indent=1) + "\n")


def _run(options: argparse.Namespace) -> list[dict[str, Any]]:
    mpiexec = Path(sys.executable).with_name("mpiexec")
    nice = ["nice", "-n", "-20"] if options.priority else []
    command = [*nice, str(mpiexec), "-n", str(options.ranks), sys.executable, __file__, "--worker",
               "--steps", str(options.steps), "--workloads", *options.workloads]  # fmt: skip
    done = subprocess.run(
        command,
        env=os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        text=True,
        timeout=1800,
        check=True,
    )
    rows: list[dict[str, Any]] = json.loads(done.stdout.splitlines()[-1])
    return rows


def _work(names: list[str], steps: int) -> None:
    from allgrad.ddp.communicators import mpi
    from allgrad.ddp.communicators.shm import ShmCommunicator
    from allgrad.ddp.diagnosis.settings import Settings
    from allgrad.ddp.environment import discover
    from allgrad.ddp.process_group import ProcessGroup

    comm, _ = mpi.world()
    communicator = ShmCommunicator(comm, 600.0, Settings(enabled=True))
    group = ProcessGroup(communicator, discover())
    rows = [_row(name, group, steps) for name in names]
    if group.rank == 0:
        print(json.dumps(rows), flush=True)


def _row(workload: str, group: Any, steps: int) -> dict[str, Any]:
    taken, per_step = _triples(workload, group, steps)
    communicator = group.communicator
    everyone = np.empty((communicator.size, *taken.shape))
    communicator.all_gather_into(everyone, taken)
    off, on, replicas = everyone.mean(axis=0).T
    counted_us = _calls_us(communicator)
    step_us = 1e6 * float(np.median(off))
    looks_us = counted_us["look"] * 4 * step_us / 1e6
    interval = _interval(on - off, replicas - on)
    return {
        "workload": workload,
        "off_ms": step_us / 1e3,
        "on_off_us": 1e6 * float(np.median(on - off)),
        "replicas_on_us": 1e6 * float(np.median(replicas - on)),
        "cost": _cost_s(on - off, replicas - on) * 1e6 / step_us,
        "interval": [1e6 * seconds / step_us for seconds in interval],
        "collectives_per_step": per_step,
        "calls_us": counted_us,
        "counted": (per_step * counted_us["collective"] + looks_us) / step_us,
        "steps": steps,
        "triples_s": np.round(everyone.mean(axis=0), 7).tolist(),
    }


def _cost_s(recorded: NDArray[Any], compared: NDArray[Any]) -> float:
    return float(np.median(recorded) + np.median(compared) / CHECK_EVERY)


def _interval(recorded: NDArray[Any], compared: NDArray[Any]) -> tuple[float, float]:
    """Seconds between which 95 % of the costs of resampled triples lie."""
    numbers, count = np.random.default_rng(0), len(recorded)
    picks = [numbers.integers(count, size=count) for _ in range(RESAMPLED)]
    low, high = np.percentile([_cost_s(recorded[p], compared[p]) for p in picks], [2.5, 97.5])
    return float(low), float(high)


class Switch:
    """Switches the diagnosis of one communicator and one wrapped model between steps.

    All ranks must set the same state: a rank that is off signs its collectives with 0.
    """

    def __init__(self, communicator: Any, reducer: Any) -> None:
        from allgrad.ddp.communicators import shared

        self._communicator, self._reducer, self._shared = communicator, reducer, shared
        self._recorder, self._word = communicator.flight, shared.check_word
        self._compare = communicator._check_signature

    def set(self, state: str) -> None:
        """One of `STATES`, for what follows."""
        off = state == "off"
        self._communicator.flight = None if off else self._recorder
        self._shared.check_word = (lambda signature, note: 0) if off else self._word
        self._communicator._check_signature = (lambda operation: None) if off else self._compare
        self._reducer.check_every = 1 if state == "replicas" else 0


def _triples(workload: str, group: Any, count: int) -> tuple[NDArray[np.float64], float]:
    """Seconds of this rank's steps, (count, 3) in the order of `STATES`; collectives per step."""
    import allgrad as ag
    from allgrad import ddp, nn

    x, y = workloads.batch(workload, np.random.default_rng(group.rank))
    x, y = ag.tensor(x), ag.tensor(y)
    ag.manual_seed(0)
    model = ddp.DistributedDataParallel(
        workloads.build(workload, nn, nn.functional), process_group=group, check_replicas_every=0
    )
    optimizer = ag.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9)
    switch = Switch(group.communicator, model._reducer)

    def step() -> float:
        begin = perf_counter()
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()
        return perf_counter() - begin

    numbers = np.random.default_rng(1)  # the same on all ranks
    taken = np.zeros((count, len(STATES)))
    for number in range(-5, count):  # the first five are not counted
        for state in numbers.permutation(len(STATES)).tolist():
            switch.set(STATES[state])
            taken[max(0, number), state] = step()
    switch.set("on")
    before = group.communicator.flight.number
    step()
    return taken, group.communicator.flight.number - before


def _calls_us(communicator: Any, calls: int = 20_000) -> dict[str, float]:
    """Microseconds of what is done per collective, and per look of the watch thread."""
    from allgrad.ddp.diagnosis.flight import FlightRecorder, check_word

    recorder, board = FlightRecorder(), communicator._board
    sequence = communicator._sequence

    def collective() -> None:
        check = check_word(12345, "bucket 1 of 2: 100000 bytes")
        recorder.add(1, 1, 12345, "bucket 1 of 2: 100000 bytes", 1)
        board.differing(sequence, check)

    found = {}
    for name, call in (("collective", collective), ("look", communicator._inquiry.answer)):
        begin = perf_counter()
        for _ in range(calls):
            call()
        found[name] = 1e6 * (perf_counter() - begin) / calls
    return found


if __name__ == "__main__":
    main()
