"""Reproducible mode: are the bits the same everywhere, and what does it cost?

    python benchmarks/reproducible.py                    # both parts, about 6 minutes on 2 cores
    python benchmarks/reproducible.py --part bits --steps 100
    python benchmarks/reproducible.py --part cost --rounds 15

Bits: a small network with convolution, batch norm and dropout makes `--steps` steps of 8 logical
shards on every number of ranks, as threads, as processes with shared memory, and with plain MPI,
with several bucket sizes, with and without overlap, and interrupted half-way to go on with another
number of ranks. Printed are the SHA-256 of parameters, buffers and optimizer state.

Cost: two ranks, two logical shards, against the same network in normal mode. Both models live in
the same processes and take turns of a few steps; compared are the turns, pairwise. Also measured:
one rank that runs all shards, against the normal step of the same global batch on that rank.

Writes benchmarks/results/reproducible.json.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from workloads import BATCHES, batch, build, optimizer_of

SHARDS = 8
WORKLOADS = ("convnet", "resnet20")
TURN_S = 0.25  # aim of one turn of one mode


def say(text: str) -> None:
    """Print at once, also into a pipe."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


# ---- bits ------------------------------------------------------------------------------------


def train(steps: int, begin: int = 0, folder: str = "", **options: Any) -> str:
    """Make the steps from `begin` to `steps`; the SHA-256, which all ranks agree on.

    Args:
        steps: last step.
        begin: above 0: take up the checkpoint in `folder`.
        folder: where to save at the end, if given.
        options: of `DistributedDataParallel`, and `overlap`.
    """
    import allgrad as ag
    from allgrad import ddp, nn, optim
    from allgrad.utils.data import DataLoader, TensorDataset

    ag.manual_seed(7)
    rng = np.random.default_rng(0)
    pictures = ag.tensor(rng.standard_normal((186, 1, 6, 6), np.float32))
    data = TensorDataset(pictures, ag.tensor(rng.integers(0, 5, 186)))
    net = nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout2d(0.2), nn.Flatten(),
        nn.Linear(64, 16), nn.ReLU(), nn.Dropout(0.3), nn.Linear(16, 5),
    )  # fmt: skip
    model = ddp.DistributedDataParallel(net, logical_shards=SHARDS, **options)
    optimizer = optim.Adam(model.parameters(), lr=0.003)
    sampler = ddp.ShardedBatchSampler(data, 32, SHARDS, seed=1)  # last batch: shards of 4 and 3
    loader = DataLoader(data, batch_sampler=sampler)
    parts = {"model": model, "optimizer": optimizer, "loader": loader, "shards": model.logical}
    if begin:
        ddp.CheckpointManager(folder).load_latest(**parts)
    done = begin
    while done < steps:
        for x, y in loader:
            optimizer.zero_grad()
            for part, labels in model.shards(x, y):
                nn.functional.cross_entropy(model(part), labels).backward()
            optimizer.step()
            done += 1
            if done == steps:
                break
    if folder and not begin:
        ddp.CheckpointManager(folder).save(step=done, **parts)
    return ddp.fingerprint(model, optimizer, check=True)


def on_threads(size: int, steps: int, **options: Any) -> str:
    """The SHA-256 of a run on ranks that are threads of this process."""
    from allgrad import ddp

    def body() -> str:
        ddp.init_process_group()
        return train(steps, **options)

    return ddp.run_ranks(body, size)[0]


def on_processes(size: int, way: str, steps: int, **options: Any) -> str:
    """The SHA-256 of a run on processes; `way` is "shm" or "mpi"."""
    return ask_ranks(size, {"do": "train", "way": way, "steps": steps, "options": options})


def resumed(steps: int) -> str:
    """The SHA-256 of a run that 3 ranks begin and 4 ranks end, in the middle of an epoch."""
    with tempfile.TemporaryDirectory() as folder:
        on_threads(3, steps // 2 + 1, folder=folder)
        return on_threads(4, steps, begin=steps // 2 + 1, folder=folder)


def compare_bits(steps: int) -> dict[str, str]:
    """The SHA-256 of every configuration."""
    runs: dict[str, Callable[[], str]] = {}
    for size in (1, 2, 3, 4, 8):
        runs[f"{size} threads"] = lambda size=size: on_threads(size, steps)
    for size in (1, 2, 3, 4, 8):
        runs[f"{size} processes, shared memory"] = lambda n=size: on_processes(n, "shm", steps)
    for size in (2, 3, 4, 8):
        runs[f"{size} processes, plain MPI"] = lambda n=size: on_processes(n, "mpi", steps)
    for cap in (0, 0.002):
        title = f"bucket_cap_mb={cap}"
        runs[f"3 threads, {title}"] = lambda c=cap: on_threads(3, steps, bucket_cap_mb=c)
        runs[f"3 processes, plain MPI, {title}"] = lambda c=cap: on_processes(
            3, "mpi", steps, bucket_cap_mb=c
        )
    runs["2 threads, no overlap"] = lambda: on_threads(2, steps, overlap=False)
    runs["2 processes, shared memory, no overlap"] = lambda: on_processes(
        2, "shm", steps, overlap=False, bucket_cap_mb=0
    )
    runs["3 threads, then 4 threads from a checkpoint"] = lambda: resumed(steps)
    found = {}
    for title, run in runs.items():
        begin = time.perf_counter()
        found[title] = run()
        say(f"{found[title]}  {title}  ({time.perf_counter() - begin:.0f} s)")
    distinct = set(found.values())
    say(f"{len(found)} configurations, {steps} steps: {len(distinct)} different state(s)")
    return found


# ---- cost ------------------------------------------------------------------------------------


def make_step(workload: str, shards: int | None, samples: int) -> Callable[[], None]:
    """One training step of the workload on this rank; `shards` is None for normal mode."""
    import allgrad as ag
    from allgrad import ddp, nn, optim
    from allgrad.nn import functional as F  # noqa: N812 - the usual name

    ag.manual_seed(0)
    net: Any = build(workload, nn, F)
    arrays = batch(workload, np.random.default_rng(ddp.get_rank()))
    x, target = (ag.tensor(np.concatenate([a] * samples)) for a in arrays)
    model = ddp.DistributedDataParallel(net, logical_shards=shards)
    kind, settings = optimizer_of(workload)
    optimizer = getattr(optim, kind)(net.parameters(), **settings)
    loss_of = F.nll_loss if workload == "convnet" else F.cross_entropy

    def step() -> None:
        optimizer.zero_grad()
        for images, labels in model.shards(x, target):
            loss_of(model(images), labels).backward()
        optimizer.step()

    return step


def measure(workload: str, rounds: int, shards: int) -> dict[str, Any]:
    """Seconds per step, by mode, of turns that alternate; on all ranks at the same time."""
    from allgrad import ddp

    own = shards // ddp.get_world_size()
    steps = {
        "normal": make_step(workload, None, own),
        "reproducible": make_step(workload, shards, own),
    }
    for step in [*steps.values()] * 4:
        step()
    begin = time.perf_counter()
    steps["normal"]()
    turn = ddp.broadcast_object(max(1, int(TURN_S / (time.perf_counter() - begin))))
    seconds: dict[str, list[float]] = {mode: [] for mode in steps}
    for number in range(rounds):
        order = list(steps.items())
        for mode, step in order if number % 2 == 0 else order[::-1]:
            ddp.barrier()
            begin = time.perf_counter()
            for _ in range(turn):
                step()
            ddp.barrier()
            seconds[mode].append((time.perf_counter() - begin) / turn)
    return {"steps_per_turn": turn, "seconds_per_step": seconds}


def compare_cost(rounds: int) -> dict[str, Any]:
    """Every workload on 2 ranks with 2 shards, and on 1 rank with 2 shards."""
    found = {}
    for workload in WORKLOADS:
        for size in (2, 1):
            result = ask_ranks(
                size, {"do": "measure", "workload": workload, "rounds": rounds, "shards": 2}
            )
            normal, mode = result["seconds_per_step"].values()
            ratios = sorted(b / a for a, b in zip(normal, mode, strict=True))
            result["cost"] = statistics.median(ratios) - 1
            low, high = ratios[len(ratios) // 4], ratios[-1 - len(ratios) // 4]
            title = f"{workload}, batch {BATCHES[workload][0]} per shard, 2 shards, {size} rank(s)"
            say(
                f"{title}: normal {1e3 * statistics.median(normal):.2f} ms, reproducible "
                f"{1e3 * statistics.median(mode):.2f} ms, cost {100 * result['cost']:+.1f} % "
                f"(quartiles {100 * (low - 1):+.1f} to {100 * (high - 1):+.1f})"
            )
            found[title] = result
    return found


# ---- ranks that are processes ----------------------------------------------------------------


def ask_ranks(size: int, task: dict[str, Any]) -> Any:
    """Start `size` processes under mpiexec for one task; what rank 0 found."""
    folder = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    mpiexec = shutil.which("mpiexec", path=folder)
    if mpiexec is None:
        raise SystemExit("no mpiexec; run: pip install 'mpi4py>=4' mpich")
    with tempfile.TemporaryDirectory() as place:
        task["answer"] = f"{place}/answer.json"
        script = [sys.executable, os.path.abspath(__file__), "--rank", json.dumps(task)]
        environment = os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
        subprocess.run(
            [mpiexec, "-n", str(size), *script], env=environment, check=True, timeout=1200
        )
        return json.loads(Path(task["answer"]).read_text())


def be_rank(task: dict[str, Any]) -> None:
    """Do the task as one of several ranks."""
    from allgrad import ddp

    plain = task.get("way") == "mpi"
    ddp.init_process_group(shared_memory=False if plain else None)
    answer: Any
    if task["do"] == "train":
        answer = train(task["steps"], **task["options"])
    else:
        answer = measure(task["workload"], task["rounds"], task["shards"])
    if ddp.get_rank() == 0:
        Path(task["answer"]).write_text(json.dumps(answer))
    ddp.destroy_process_group()


def cpu_name() -> str:
    """The processor as the kernel names it."""
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return "unknown"


def main() -> None:
    """Be a parent, or one of its ranks."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--part", choices=("bits", "cost", "both"), default="both")
    parser.add_argument("--steps", type=int, default=1000, help="of each run that is compared")
    parser.add_argument("--rounds", type=int, default=21, help="turns of each mode")
    parser.add_argument("--rank", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.rank:
        be_rank(json.loads(options.rank))
        return
    facts: dict[str, Any] = {
        "benchmark": "reproducible",
        "cpu": cpu_name(),
        "cores": len(os.sched_getaffinity(0)),
        "python": platform.python_version(),
        "numpy": np.__version__,
    }
    target = Path(__file__).parent / "results" / "reproducible.json"
    if target.exists():
        facts = json.loads(target.read_text()) | facts
    if options.part in ("cost", "both"):
        facts["cost"] = compare_cost(options.rounds)
    if options.part in ("bits", "both"):
        facts["steps"], facts["fingerprints"] = options.steps, compare_bits(options.steps)
    target.write_text(json.dumps(facts, indent=1) + "\n")
    say(f"raw figures: {target}")


if __name__ == "__main__":
    main()
