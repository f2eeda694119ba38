"""Time to make a batch of CIFAR-shaped images, allgrad against PyTorch on the same cores.

    python benchmarks/input_pipeline.py
    python benchmarks/input_pipeline.py --rounds 9 --workers 4

The work: crop 32 x 32 out of the image padded by 4, flip, scale to [0, 1], normalise, collate 128.
The images are synthetic (allgrad.vision.datasets.SyntheticImages); this measures time, not
learning. torchvision has no build for every PyTorch, so PyTorch's side is a data set whose samples
are made of torch operations in the way of torchvision's transforms for tensors: from_numpy and
div(255), F.pad and slicing with torch.randint, flip(-1), sub_ and div_ by tensors made per call.
PyTorch's DataLoader runs without and with workers and the faster one counts. The contestants take
turns in one process with one thread each; shown are the median over rounds and the range.
A second table shows how much of the loader's time hides behind a training step.
Needs torch; raw figures go to benchmarks/results/input_pipeline-<date>.json.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - the usual name

from allgrad.utils.data import DataLoader, Dataset
from allgrad.vision import transforms
from allgrad.vision.datasets import SyntheticImages

MEAN, STD = [0.4914, 0.4822, 0.4465], [0.2470, 0.2435, 0.2616]
BATCH = 128
ONE_THREAD = {f"{name}_NUM_THREADS": "1" for name in ("OMP", "OPENBLAS", "MKL")}
STEPS = [
    transforms.RandomCrop(32, padding=4),
    transforms.RandomHorizontalFlip(),
    transforms.ToTensor(),
    transforms.Normalize(MEAN, STD),
]


class TorchImages(torch.utils.data.Dataset):
    """The same images, each made by torch operations."""

    def __init__(self, data: np.ndarray, targets: np.ndarray) -> None:
        self.data, self.targets = data, targets.tolist()

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        image = torch.from_numpy(self.data[index].transpose((2, 0, 1))).contiguous()
        image = image.to(torch.float32).div(255)
        image = F.pad(image, [4, 4, 4, 4])
        y = int(torch.randint(0, 9, (1,)).item())
        x = int(torch.randint(0, 9, (1,)).item())
        image = image[..., y : y + 32, x : x + 32]
        if torch.rand(1) < 0.5:
            image = image.flip(-1)
        image = image.clone()
        mean = torch.as_tensor(MEAN, dtype=image.dtype)
        std = torch.as_tensor(STD, dtype=image.dtype)
        return image.sub_(mean.view(-1, 1, 1)).div_(std.view(-1, 1, 1)), self.targets[index]


class OneByOne(Dataset[Any]):
    """Hides the batched path of a data set."""

    def __init__(self, dataset: Dataset[Any]) -> None:
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)  # type: ignore[arg-type]

    def __getitem__(self, index: int) -> Any:
        return self.dataset[index]


def contestants(images: int, workers: int) -> dict[str, Iterable[Any]]:
    """Every loader to be timed, by name."""
    dataset = SyntheticImages((3, 32, 32), 10, images, transform=transforms.Compose(STEPS))
    theirs = TorchImages(dataset.data, dataset.targets)
    single = OneByOne(dataset)
    more: dict[str, Any] = {"num_workers": workers, "persistent_workers": True}
    order: dict[str, Any] = {"batch_size": BATCH, "shuffle": True, "drop_last": True}
    return {
        "torch per sample, 0 workers": torch.utils.data.DataLoader(theirs, **order),
        f"torch per sample, {workers} workers": torch.utils.data.DataLoader(
            theirs, **order, **more
        ),
        "allgrad per sample, 0 workers": DataLoader(single, **order),
        f"allgrad per sample, {workers} workers": DataLoader(single, **order, **more),
        "allgrad batched, 0 workers": DataLoader(dataset, **order),
        "allgrad batched, thread": DataLoader(dataset, **order, prefetch_factor=2),
        "allgrad batched, 1 worker": DataLoader(
            dataset, **order, num_workers=1, persistent_workers=True
        ),
    }


def epoch_s(loader: Iterable[Any], step: Callable[[], object] | None = None) -> float:
    """Seconds per batch over an epoch."""
    count, began = 0, time.perf_counter()
    for _ in loader:
        if step is not None:
            step()
        count += 1
    return (time.perf_counter() - began) / count


def spread(values: list[float]) -> str:
    """``median (lowest-highest)`` in milliseconds."""
    low, mid, high = (1e3 * f(values) for f in (min, statistics.median, max))
    return f"{mid:7.3f} ({low:.3f}-{high:.3f})"


def compare(loaders: dict[str, Iterable[Any]], rounds: int) -> dict[str, list[float]]:
    """Times per batch of every loader, in turns."""
    times: dict[str, list[float]] = {name: [] for name in loaders}
    for loader in loaders.values():
        epoch_s(loader)  # starts the workers and warms the caches
    for turn in range(rounds):
        for name in list(loaders) if turn % 2 == 0 else reversed(loaders):
            times[name].append(epoch_s(loaders[name]))
    return times


def hidden(loaders: dict[str, Iterable[Any]], rounds: int) -> dict[str, list[float]]:
    """Times per batch with a step of a few milliseconds that computes in C code."""
    x = np.random.default_rng(0).random((640, 640), np.float32)
    out = np.empty_like(x)

    def step() -> None:
        np.matmul(x, x, out=out)

    times: dict[str, list[float]] = {"step alone": []}
    for _ in range(rounds):
        times["step alone"].append(epoch_s(range(40), step))
        for name in ("allgrad batched, 0 workers", "allgrad batched, thread"):
            times.setdefault(f"{name}, with step", []).append(epoch_s(loaders[name], step))
    return times


def verdict(times: dict[str, list[float]]) -> list[str]:
    """Ratios against the better of PyTorch's loaders, round by round."""

    def median(name: str) -> float:
        return statistics.median(times[name])

    best = min((n for n in times if n.startswith("torch")), key=median)
    lines = [f"ratios against the faster of PyTorch's ({best}):"]
    for name, ours in times.items():
        if name.startswith("allgrad"):
            ratios = [t / o for t, o in zip(times[best], ours, strict=True)]
            lines.append(
                f"  {name:34s} {statistics.median(ratios):6.2f}x "
                f"({min(ratios):.2f}-{max(ratios):.2f})"
            )
    return lines


def main() -> None:
    """Measure, print, save."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--images", type=int, default=6400)
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args()
    if os.environ.get("OMP_NUM_THREADS") != "1":  # read when NumPy is loaded, so start again
        os.execve(sys.executable, [sys.executable, *sys.argv], os.environ | ONE_THREAD)
    torch.set_num_threads(1)
    loaders = contestants(options.images, options.workers)
    times = compare(loaders, options.rounds)
    times |= hidden(loaders, options.rounds)
    about = {
        "machine": f"{platform.machine()}, {len(os.sched_getaffinity(0))} cores, {_cpu()}",
        "versions": {p: importlib.metadata.version(p) for p in ("allgrad", "numpy", "torch")},
        "python": platform.python_version(),
        "data": "synthetic, 32 x 32 x 3 uint8",
        "batch": BATCH,
        "images": options.images,
        "rounds": options.rounds,
    }
    print(
        f"{about['machine']}; {about['versions']}; synthetic images, batch {BATCH}, ms per batch:"
    )
    for name, values in times.items():
        print(f"  {name:42s} {spread(values)}")
    print("\n".join(verdict({k: v for k, v in times.items() if "step" not in k})))
    print("PyTorch's transforms are written in torch operations as torchvision's are, see --help.")
    folder = Path(__file__).resolve().parent / "results"
    folder.mkdir(exist_ok=True)
    path = folder / f"input_pipeline-{time.strftime('%Y-%m-%d')}.json"
    path.write_text(json.dumps(about | {"times_s": times}, indent=1) + "\n")
    print(f"raw figures: {path}")


def _cpu() -> str:
    """The processor's name, where Linux tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((x.split(":", 1)[1].strip() for x in lines if x.startswith("model name")), "")


if __name__ == "__main__":
    main()
