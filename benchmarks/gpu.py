"""Images per second on one GPU: allgrad eager and captured against PyTorch in its three ways.

    python benchmarks/gpu.py                          # four networks, bf16, all contestants
    python benchmarks/gpu.py --quick                  # fewer rounds: part of `make gpu-check`
    python benchmarks/gpu.py --networks resnet18 --dtype float32

A step is forward, loss, backward and SGD with momentum on a batch that lies on the GPU: channels
last and `cudnn.benchmark` on both sides. Contestants are processes that take turns, so that a GPU
whose clock drifts slows all alike; a round is timed as a whole, from an idle GPU to an idle GPU.
Said per network, as medians over rounds (range): images per second, the ratio to PyTorch eager and
to torch.compile within each round, the share of the measured ceiling of bf16 (or fp32) products
that the network's multiplications reach, and whether memory grew after the first steps. With two
GPUs or more, `gpu_overlap.py` then says how much of communication is hidden.

Needs a GPU and `pip install 'allgrad[gpu]'`; without torch, allgrad runs alone. Raw figures with
all versions go to benchmarks/results/gpu-<device>.json.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.metadata
import importlib.util
import json
import platform
import re
import statistics
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from step import spread

HERE = Path(__file__).resolve().parent
NETWORKS = ("convnet", "resnet20", "resnet18", "resnet50")
OURS = ("allgrad eager", "allgrad captured")
THEIRS = ("torch eager", "torch compile", "torch graph")
PACKAGES = (
    "allgrad", "cupy-cuda13x", "cupy-cuda12x", "nvidia-cudnn-frontend", "nvidia-cudnn-cu13",
    "nvidia-cudnn-cu12", "nvidia-nccl-cu13", "nvidia-nccl-cu12", "numpy", "torch", "triton",
)  # fmt: skip


class Contestant:
    """A process that steps one network in one way when told to.

    Attributes:
        about: what it said of itself after its first steps.
    """

    def __init__(self, name: str, network: str, dtype: str) -> None:
        self.name = name
        self._process = subprocess.Popen(
            [sys.executable, str(HERE / "gpu_worker.py"), name, network, dtype],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.about = self._read()

    def _read(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith("{"):  # libraries may print, too
                found: dict[str, Any] = json.loads(line)
                return found
        raise RuntimeError(f"{self.name} ended early; its error is above")

    def ask(self, **what: Any) -> dict[str, Any]:
        """Send a request, and return the answer."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(what) + "\n")
        self._process.stdin.flush()
        return self._read()

    def close(self) -> None:
        """End the process."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            self._process.wait(30)
        except subprocess.TimeoutExpired:
            self._process.kill()


@contextlib.contextmanager
def contestants(names: list[str], network: str, dtype: str) -> Iterator[list[Contestant]]:
    """All of a row, ended in any case; one that cannot start is left out, and said."""
    running: list[Contestant] = []
    try:
        for name in names:
            try:
                running.append(Contestant(name, network, dtype))
            except RuntimeError as error:
                print(f"  {error}", file=sys.stderr)
        yield running
    finally:
        for contestant in running:
            contestant.close()


def measure(network: str, options: argparse.Namespace, names: list[str]) -> dict[str, Any]:
    """One row: seconds per step of every contestant and round, and what they said."""
    with contestants(names, network, options.dtype) as field:
        steps = {c.name: max(5, round(options.seconds / c.ask(steps=5)["s"])) for c in field}
        times: dict[str, list[float]] = {c.name: [] for c in field}
        for turn in range(options.rounds):
            for c in field if turn % 2 == 0 else reversed(field):
                times[c.name].append(c.ask(steps=steps[c.name])["s"])
        after = {c.name: c.ask(memory=True) for c in field}
        about = {c.name: c.about for c in field}
    return {
        "network": network, "dtype": options.dtype, "steps": steps, "s_per_step": times,
        "about": about, "after": after,
    }  # fmt: skip


def ratios(row: dict[str, Any], of: str, over: str) -> list[float]:
    """Speed of `of` in units of that of `over`, round by round."""
    times = row["s_per_step"]
    return [b / a for a, b in zip(times[of], times[over], strict=True)]


def lines(row: dict[str, Any], ceilings: dict[str, float]) -> Iterator[str]:
    """The row as text, one line for each contestant."""
    for name, times in row["s_per_step"].items():
        about = row["about"][name]
        images = [about["batch"] / t for t in times]
        cells = [row["network"], str(about["batch"]), name, spread(images, form=".0f")]
        for other in ("torch eager", "torch compile"):
            there = other in row["s_per_step"] and name in OURS
            cells.append(spread(ratios(row, name, other)) if there else "")
        top = ceilings.get(f"{row['dtype']}_flops")
        flops = (
            6 * about["macs_per_image"] * statistics.median(images)
        )  # forward and twice backward
        cells.append(f"{100 * flops / top:.0f} %" if top and about["macs_per_image"] else "")
        grown = row["after"][name]["reserved"] - about["reserved"]
        cells.append(f"{grown / 1e6:+.0f} MB")
        yield f"| {' | '.join(cells)} |"


def measure_overlap() -> dict[str, Any]:
    """What `gpu_overlap.py` says on two GPUs."""
    command = [sys.executable, "-m", "allgrad.launch.cli", "run", "-n", "2"]
    done = subprocess.run(
        [*command, str(HERE / "gpu_overlap.py")], stdout=subprocess.PIPE, text=True, check=True
    )
    text = done.stdout[done.stdout.index("{") : done.stdout.rindex("}") + 1]
    found: dict[str, Any] = json.loads(text)
    return found


def versions(device: dict[str, Any]) -> dict[str, Any]:
    """What the figures depend on."""
    found: dict[str, Any] = {"python": platform.python_version(), **device}
    for name in PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found


def main() -> None:
    """Measure, print the table, save the raw figures."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--networks", nargs="+", default=list(NETWORKS), choices=NETWORKS)
    add("--dtype", choices=("bfloat16", "float16", "float32"), default="bfloat16")
    add("--rounds", type=int, default=7, help="(7)")
    add("--seconds", type=float, default=1.0, help="of each contestant in a round (1)")
    add("--quick", action="store_true", help="3 rounds of 0.3 s; resnet18 and resnet50 alone")
    add("--out", type=Path, help="JSON file of the raw figures")
    options = parser.parse_args()
    if options.quick:
        options.rounds, options.seconds, options.networks = 3, 0.3, ["resnet18", "resnet50"]
    has_torch = importlib.util.find_spec("torch") is not None
    names = [*OURS, *(THEIRS if has_torch else ())]
    with contestants(["ceilings"], "none", options.dtype) as field:
        if not field:
            sys.exit("benchmarks/gpu.py needs a GPU; the reason is above")
        device = field[0].about
        ceilings = field[0].ask(ceilings=True)
    print(f"{device['device']}: {ceilings}")
    print("| network | batch | contestant | images/s | x torch eager | x torch.compile | of peak |"
          " memory after |")  # fmt: skip
    print("|---|---|---|---|---|---|---|---|")
    rows = []
    for network in options.networks:
        rows.append(measure(network, options, names))
        print("\n".join(lines(rows[-1], ceilings)), flush=True)
    overlap = measure_overlap() if device["gpus"] > 1 else None
    if overlap is not None:
        print(f"hidden communication, {overlap['ranks']} GPUs: {overlap['hidden']}")
    slug = re.sub(r"[^a-z0-9]+", "-", device["device"].lower()).strip("-")
    out = options.out or HERE / "results" / f"gpu-{slug}.json"
    out.parent.mkdir(parents=True, exist_ok=True)
    record = {
        "versions": versions(device), "ceilings": ceilings, "rows": rows, "overlap": overlap
    }  # fmt: skip
    out.write_text(json.dumps(record, indent=1) + "\n")
    print(f"raw figures: {out}")


if __name__ == "__main__":
    main()
