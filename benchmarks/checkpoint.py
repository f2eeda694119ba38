"""How long a training step pauses for a checkpoint: written there and then, or in the background.

    python benchmarks/checkpoint.py                     # 200 MB, benchmarks/results/checkpoint.json
    allgrad run -n 2 benchmarks/checkpoint.py --mb 50

The state is a model with momentum. Both ways take turns in every round. "copy" is the time for
which an asynchronous save keeps the training; "written" is when it is on the disk.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import tempfile
import time
from pathlib import Path

import allgrad as ag
from allgrad import ddp, nn, optim

SIDE = 1024


def main() -> None:
    """Measure on all ranks; rank 0 prints and writes the figures."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--mb", type=int, default=200, help="size of the state (200)")
    parser.add_argument("--rounds", type=int, default=9, help="(9)")
    parser.add_argument("--folder", type=Path, help="where to write (a temporary folder)")
    parser.add_argument("--json", type=Path, help="(benchmarks/results/checkpoint.json)")
    options = parser.parse_args()
    ddp.init_process_group()
    layers = max(options.mb * (1 << 20) // (2 * 4 * SIDE * SIDE), 1)
    model = nn.Sequential(*(nn.Linear(SIDE, SIDE, bias=False) for _ in range(layers)))
    optimizer = optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    model(ag.ones(1, SIDE)).sum().backward()
    optimizer.step()
    seconds: dict[str, list[float]] = {"synchronous": [], "copy": [], "written": []}
    with tempfile.TemporaryDirectory(dir=options.folder) as own:
        folder = ddp.broadcast_object(own)
        with ddp.CheckpointManager(folder, keep=1) as manager:
            parts = {"model": model, "optimizer": optimizer}
            manager.async_save(step=0, **parts).wait()  # the first copy pays for its memory
            for step in range(1, 2 * options.rounds, 2):
                begin = time.perf_counter()
                manager.save(step=step, **parts)
                seconds["synchronous"].append(time.perf_counter() - begin)
                begin = time.perf_counter()
                saving = manager.async_save(step=step + 1, **parts)
                seconds["copy"].append(time.perf_counter() - begin)
                saving.wait()
                seconds["written"].append(time.perf_counter() - begin)
        ddp.barrier()
    if ddp.get_rank() == 0:
        report(options, layers, seconds)
    ddp.destroy_process_group()


def report(options: argparse.Namespace, layers: int, seconds: dict[str, list[float]]) -> None:
    """Print the medians with their spread and save all figures."""
    size_mb = 2 * 4 * SIDE * SIDE * layers / (1 << 20)
    print(f"state of {size_mb:.0f} MiB, {ddp.get_world_size()} rank(s), n = {options.rounds}")
    for name, values in seconds.items():
        ms = sorted(1000 * value for value in values)
        print(f"  {name:12s} median {statistics.median(ms):7.1f} ms  ({ms[0]:.1f} to {ms[-1]:.1f})")
    ratio = statistics.median(seconds["synchronous"]) / statistics.median(seconds["copy"])
    print(f"  the step pauses {ratio:.1f} times shorter")
    path = options.json or Path(__file__).parent / "results" / "checkpoint.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    facts = {
        "benchmark": "checkpoint",
        "state_mib": size_mb,
        "ranks": ddp.get_world_size(),
        "machine": platform.processor() or platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "python": platform.python_version(),
        "load_average": os.getloadavg(),
        "ratio_of_medians": ratio,
        "seconds": seconds,
    }
    path.write_text(json.dumps(facts, indent=1) + "\n")


if __name__ == "__main__":
    main()
