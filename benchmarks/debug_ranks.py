"""Many ranks as threads of one process: does the MNIST network still train at the cores' speed?

    python benchmarks/debug_ranks.py                # table, benchmarks/results/debug_ranks.json
    python benchmarks/debug_ranks.py --ranks 1 64 --rounds 5

Every job is ``allgrad run --debug -n N examples/mnist/train.py --synthetic`` with 20 steps of 64
images per rank: wall time from start to end of the process, its processor time, and the images of
all ranks per second. The numbers of ranks take turns in every round; the table has median and
range. On a machine that others use, compare processor times.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

import allgrad

ROOT = Path(__file__).parents[1]
BATCH = 64


def run_job(ranks: int, steps: int, folder: str) -> dict[str, float]:
    """Train once; returns wall and processor seconds and images per second over the whole job."""
    size = max(256 * ranks, 2 * BATCH)  # four steps per epoch
    argv = [
        sys.executable, "-m", "allgrad.launch.cli", "run", "--debug", "-n", str(ranks),
        "--threads-per-rank", "1", str(ROOT / "examples/mnist/train.py"), "--synthetic",
        "--synthetic-size", str(size), "--max-steps", str(steps), "--batch-size", str(BATCH),
        "--epochs", str(steps), "--checkpoint-dir", folder,
    ]  # fmt: skip
    begin = time.perf_counter()
    child = os.posix_spawn(
        argv[0],
        argv,
        dict(os.environ),
        file_actions=[(os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0)],
    )
    _, status, usage = os.wait4(child, 0)
    wall_s = time.perf_counter() - begin
    if status != 0:
        raise SystemExit(f"the job of {ranks} ranks failed, status {status}")
    cpu_s = usage.ru_utime + usage.ru_stime
    images = ranks * steps * BATCH
    return {
        "wall_s": wall_s,
        "cpu_s": cpu_s,
        "images_per_s": images / wall_s,
        "cpu_ms_per_1000_images": 1e6 * cpu_s / images,
        "peak_memory_mib": usage.ru_maxrss / 1024,
    }


def spread(values: list[float]) -> str:
    """Median and range."""
    return f"{statistics.median(values):9.2f} ({min(values):.2f} to {max(values):.2f})"


def cpu_name() -> str:
    """The processor as the kernel names it."""
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return "unknown"


def main() -> None:
    """Measure, print and save."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--ranks", type=int, nargs="+", default=[1, 8, 64])
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    table: dict[int, list[dict[str, float]]] = {ranks: [] for ranks in options.ranks}
    load = [os.getloadavg()[0]]
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(options.rounds):
            for ranks in options.ranks:
                table[ranks].append(run_job(ranks, options.steps, folder))
    load.append(os.getloadavg()[0])
    for ranks, rows in table.items():
        print(f"{ranks} ranks, {options.steps} steps of {BATCH} images each")
        for name in rows[0]:
            print(f"  {name:24}{spread([row[name] for row in rows])}")
    facts: dict[str, Any] = {
        "benchmark": "debug_ranks",
        "steps": options.steps,
        "batch_size": BATCH,
        "cores": len(os.sched_getaffinity(0)),
        "load": load,  # of the machine, before and after
        "cpu": cpu_name(),
        "python": platform.python_version(),
        "versions": {"allgrad": allgrad.__version__, "numpy": np.__version__},
        "ranks": {str(ranks): rows for ranks, rows in table.items()},
    }
    target = ROOT / "benchmarks/results/debug_ranks.json"
    target.parent.mkdir(exist_ok=True)
    target.write_text(json.dumps(facts, indent=1) + "\n")
    print(f"all figures: {target}")


if __name__ == "__main__":
    main()
