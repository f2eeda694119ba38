"""Kills, saves cut short and damaged checkpoints: what is lost, and how long a restart takes.

    python benchmarks/chaos.py                  # 200 kills, 200 damaged checkpoints and more
    python benchmarks/chaos.py --full           # 1,000 each
    python benchmarks/chaos.py --kills 20       # shorter

First part, in one process: a folder of four checkpoints is damaged at random, loaded, and what was
loaded compared with what had been written. Second part: `allgrad chaos` on chaos_train.py (a
network with dropout and batch norm on two ranks, saved every 5 steps, every other time in the
background); the end of each training is compared bit for bit with an undisturbed one. The time of a
restart is that from the kill to the end of the first training step of the new run.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import platform
import random
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from allgrad import nn
from allgrad.checkpoint import CheckpointManager
from allgrad.errors import CheckpointError
from allgrad.launch.chaos import damage
from allgrad.launch.chaos.campaign import Campaign, Plan
from allgrad.launch.chaos.command import summary

HERE = Path(__file__).parent
GENERATIONS = 4


def say(text: str) -> None:
    """Print at once, also into a pipe."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def model_of(step: int, seed: int) -> nn.Linear:
    """A model that no other step or seed has."""
    model = nn.Linear(30, 20)
    numbers = np.random.default_rng([seed, step])
    for parameter in model.parameters():
        parameter.detach().numpy()[...] = numbers.standard_normal(parameter.shape)
    return model


def bits(model: nn.Linear) -> bytes:
    """All its parameters."""
    return b"".join(parameter.detach().numpy().tobytes() for parameter in model.parameters())


def damage_files(count: int, seed: int) -> dict[str, Any]:
    """Damage `count` checkpoints; return how many were refused and what went wrong."""
    rng = random.Random(seed)
    kinds: Counter[str] = Counter()
    accepted, lost, begin = 0, 0, time.perf_counter()
    while kinds.total() < count:
        with tempfile.TemporaryDirectory(prefix="allgrad-chaos-") as folder:
            manager = CheckpointManager(folder, keep=GENERATIONS)
            for step in range(GENERATIONS):
                manager.save(step=step, model=model_of(step, seed))
            spoiled: set[int] = set()
            for _ in range(rng.randint(1, GENERATIONS - 1)):
                whole = damage.whole_generations(Path(folder))
                done = damage.spoil(whole, rng)
                if done is not None:
                    kinds[done.kind] += 1
                    spoiled |= {generation.content.step for generation in done.spoiled}
            newest = max(set(range(GENERATIONS)) - spoiled)
            model = model_of(999, seed)
            try:
                loaded = CheckpointManager(folder).load_latest(model=model)
            except CheckpointError:
                loaded = None
            # a damage that changed nothing (a blank of the manifest) leaves a newer one whole
            if loaded is None or loaded.step < newest:
                lost += 1
            elif bits(model) != bits(model_of(loaded.step, seed)):
                accepted += 1
    return {
        "damages": dict(kinds),
        "damaged": kinds.total(),
        "wrong_data_accepted": accepted,
        "whole_ones_not_found": lost,
        "seconds": round(time.perf_counter() - begin, 3),
    }


def versions() -> dict[str, Any]:
    """Machine and software."""
    import allgrad

    return {
        "machine": platform.processor() or platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "python": platform.python_version(),
        "numpy": np.__version__,
        "allgrad": allgrad.__version__,
    }


def main() -> int:
    """Run both parts; exit code 1 if anything was lost or wrong."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--full", action="store_true", help="1,000 kills and 1,000 damaged checkpoints")
    add("--kills", type=int, help="(200)")
    add("--damages", type=int, help="in each of the two parts; in the second at most (200)")
    add("--ranks", type=int, default=2, help="(2)")
    add("--steps", type=int, default=2000, help="of one training (2000)")
    add("--every", type=float, help="longest time in peace, seconds (a tenth of a training)")
    add("--seed", type=int, default=0, help="(0)")
    add("--json", type=Path, help="(benchmarks/results/chaos.json)")
    options = parser.parse_args()
    kills = options.kills or (1000 if options.full else 200)
    damages = options.damages or (1000 if options.full else 200)
    logging.getLogger("allgrad.checkpoint").setLevel(logging.CRITICAL)  # it names each damage

    files = damage_files(damages, options.seed)
    say(
        f"in one process: {files['damaged']} checkpoints damaged, wrong data accepted "
        f"{files['wrong_data_accepted']}, whole ones not found {files['whole_ones_not_found']}"
    )
    script = str(HERE / "chaos_train.py")
    plan = Plan(
        script=(script, "--dir", "{dir}", "--steps", str(options.steps)),
        nproc=options.ranks,
        kills=kills,
        damages=damages,
        seed=options.seed,
        every_s=options.every,
        max_restarts=50,  # kills may come one after the other before anything is saved
    )
    load = [os.getloadavg()]
    with tempfile.TemporaryDirectory(prefix="allgrad-chaos-") as folder:
        report = Campaign(plan, Path(folder), say).run()
    load.append(os.getloadavg())
    for line in summary(report):
        say(line)
    result = {
        "settings": {key: str(value) for key, value in vars(options).items()},
        "versions": versions(),
        "load_average_before_and_after": load,
        "files": files,
        "jobs": report.as_dict() | {"restart_s_all": [round(t, 3) for t in report.restart_s]},
    }
    path = options.json or HERE / "results" / "chaos.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result, indent=1) + "\n")
    say(f"raw figures in {path}")
    wrong = files["wrong_data_accepted"] or files["whole_ones_not_found"] or report.problems
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
