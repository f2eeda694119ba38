"""Strong and weak scaling over ranks of the MNIST and CIFAR workloads, beside PyTorch DDP on gloo.

    python benchmarks/scaling.py                                   # 1 and 2 ranks here
    python benchmarks/scaling.py --launcher mpiexec --options "-hosts a,b" --ranks 1 2 4
    python benchmarks/scaling.py --launcher srun --options "--mpi=pmi2 -N 2" --ranks 1 2 4
    python benchmarks/scaling.py --launcher hosts --rate 1gbit     # emulated hosts, one rank each

Weak scaling keeps the batch of a rank, and its efficiency is time of one rank / time of N; strong
scaling divides the batch among the ranks, and its efficiency is time of one / (N * time of N).
Both are taken within each round, in which all numbers of ranks and both frameworks take turns;
the table has medians over rounds (range). A step's time is that of its slowest rank. PyTorch runs
in two memory layouts where the workload has images; the faster one on the most ranks counts.
The dotted line of the picture is what `allgrad predict` says, from a trace of the one rank.

Ranks are pinned to a core each (not under srun, which does that). Random data: this measures time.
A table is printed; raw figures and the picture go to benchmarks/results/scaling-<date>.json, .png.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shlex
import statistics
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from netns import Hosts, HostsError
from scaling_job import HERE, LAUNCHERS, Job, Place
from step import spread, versions
from workloads import BATCHES, IMAGES

from allgrad.ddp.prediction.network import Network
from allgrad.ddp.prediction.profile import profile_of
from allgrad.ddp.prediction.simulation import Cluster, predict
from allgrad.ddp.tracing.chrome import load

MODES = ("weak", "strong")
NAMES = {"convnet": "MNIST ConvNet", "resnet20": "CIFAR ResNet-20", "resnet18": "CIFAR ResNet-18"}
Times = dict[str, dict[int, list[float]]]  # by contestant and ranks, a figure per round


@dataclass(frozen=True)
class Series:
    """One workload in one mode.

    Attributes:
        workload: of `workloads.py`.
        mode: "weak" or "strong".
        ranks: numbers of ranks, ascending, the first one 1.
        batch: of one rank (weak), or of all (strong).
    """

    workload: str
    mode: str
    ranks: tuple[int, ...]
    batch: int

    def batch_of(self, ranks: int) -> int:
        """Samples of each rank."""
        return self.batch if self.mode == "weak" else max(1, self.batch // ranks)

    def efficiency(self, one_s: float, many_s: float, ranks: int) -> float:
        """See the description of the module."""
        return one_s / many_s if self.mode == "weak" else one_s / (ranks * many_s)


@contextlib.contextmanager
def jobs_of(series: Series, place: Place, torch: bool) -> Iterator[list[Job]]:
    """All contestants of a series, ended in any case."""
    names = ["allgrad"]
    if torch:
        names += ["torch", "torch channels_last"][: 2 if series.workload in IMAGES else 1]
    running: list[Job] = []
    try:
        for name in names:
            for ranks in series.ranks:
                batch = series.batch_of(ranks)
                running.append(Job(place, name, series.workload, ranks, batch=batch))
        yield running
    finally:
        for job in running:
            job.close()


def measure(series: Series, place: Place, options: argparse.Namespace) -> dict[str, Any]:
    """All contestants of a series in turns."""
    times: Times = {}
    with jobs_of(series, place, options.torch) as jobs:
        counts = {}
        for job in jobs:
            one = statistics.median(max(t) for t in zip(*job.steps(3), strict=True))
            counts[id(job)] = max(3, min(300, int(options.seconds / one)))
        for turn in range(options.rounds):
            for job in jobs if turn % 2 == 0 else reversed(jobs):
                taken = zip(*job.steps(counts[id(job)]), strict=True)
                figure = statistics.median(max(ranks) for ranks in taken)
                times.setdefault(job.name, {}).setdefault(job.ranks, []).append(figure)
        predicted = _predicted(series, jobs, options) if options.mode_predicts(series) else {}
    return {"workload": series.workload, "mode": series.mode, "ranks": list(series.ranks),
            "batch": series.batch, "times_s": times, "predicted_efficiency": predicted}  # fmt: skip


def _predicted(series: Series, jobs: list[Job], options: argparse.Namespace) -> dict[int, float]:
    """Efficiency by number of ranks, from a trace of the one rank."""
    one = next(job for job in jobs if job.ranks == 1 and job.name == "allgrad")
    one.ask(compute=30, trace=str(one.folder / "trace"))
    profile = profile_of(load(one.folder / "trace"))
    emulated = options.launcher == "hosts"
    network = Network.parse(options.rate if emulated else "100gbit")
    clusters = {
        n: Cluster(n, 1, network) if emulated else Cluster(1, n, network) for n in series.ranks
    }
    return {n: predict(profile, cluster).efficiency for n, cluster in clusters.items()}


def best_torch(times: Times, most: int) -> str | None:
    """The memory layout that is faster on the most ranks."""
    names = [name for name in times if name.startswith("torch")]
    return min(names, key=lambda n: statistics.median(times[n][most]), default=None)


def efficiencies(row: dict[str, Any], name: str, ranks: int) -> list[float]:
    """Round by round."""
    series = Series(row["workload"], row["mode"], tuple(row["ranks"]), row["batch"])
    times = row["times_s"][name]
    pairs = zip(times[1], times[ranks], strict=True)
    return [series.efficiency(one, many, ranks) for one, many in pairs]


def lines(row: dict[str, Any]) -> Iterator[str]:
    """The rows of the table for a series, one per number of ranks."""
    times = row["times_s"]
    torch = best_torch(times, row["ranks"][-1])
    for ranks in row["ranks"]:
        batch = row["batch"] if row["mode"] == "weak" else row["batch"] // ranks
        cells = [NAMES.get(row["workload"], row["workload"]), row["mode"], str(ranks), str(batch)]
        cells.append(spread(times["allgrad"][ranks], 1e3, ".1f"))
        cells.append(spread(efficiencies(row, "allgrad", ranks), 100, ".0f") + " %")
        if torch is not None:
            ratios = [
                theirs / ours
                for theirs, ours in zip(times[torch][ranks], times["allgrad"][ranks], strict=True)
            ]
            cells.append(spread(times[torch][ranks], 1e3, ".1f"))
            cells.append(spread(efficiencies(row, torch, ranks), 100, ".0f") + " %")
            cells.append(f"**{spread(ratios)}**")
        yield f"| {' | '.join(cells)} |"


def draw(rows: list[dict[str, Any]], path: Path) -> None:
    """Efficiency over ranks, one panel per series."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.2 * len(rows), 3.6), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    for axes, row in zip(figure.subplots(1, len(rows), squeeze=False)[0], rows, strict=True):
        _panel(axes, row)
    figure.savefig(path)


def _panel(axes: Any, row: dict[str, Any]) -> None:
    ranks = row["ranks"]
    torch = best_torch(row["times_s"], ranks[-1])
    for name, label, colour in (("allgrad", "allgrad", "#0072B2"), (torch, "PyTorch", "#D55E00")):
        if name is None:
            continue
        found = [efficiencies(row, name, n) for n in ranks]
        middle = [statistics.median(values) for values in found]
        spans = [[m - min(v) for m, v in zip(middle, found, strict=True)],
                 [max(v) - m for m, v in zip(middle, found, strict=True)]]  # fmt: skip
        axes.errorbar(ranks, middle, spans, marker="o", capsize=3, color=colour, label=label)
    if row["predicted_efficiency"]:
        values = [row["predicted_efficiency"][n] for n in ranks]
        axes.plot(ranks, values, ":", color="#0072B2", label="predicted")
    axes.set_xscale("log", base=2)
    axes.set_xticks(ranks, [str(n) for n in ranks])
    axes.set_ylim(0, 1.1)
    axes.set_xlabel("ranks")
    axes.set_ylabel("efficiency against one rank")
    axes.set_title(f"{NAMES.get(row['workload'], row['workload'])}, {row['mode']}", fontsize=10)
    axes.grid(color="#dddddd", linewidth=0.6)
    axes.legend(frameon=False, fontsize=8)


@contextlib.contextmanager
def place_of(options: argparse.Namespace) -> Iterator[Place]:
    """Where ranks run; emulated hosts are made and removed."""
    cores = sorted(os.sched_getaffinity(0)) if options.launcher != "srun" else []
    given = tuple(shlex.split(options.options))
    if options.launcher != "hosts":
        yield Place(options.launcher, None, given, cores, options.priority)
        return
    with Hosts(max(options.ranks), options.rate) as hosts:
        yield Place("hosts", hosts, given, cores, options.priority)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    add = parser.add_argument
    add("--workloads", nargs="+", default=["convnet", "resnet20"], choices=list(BATCHES))
    add("--modes", nargs="+", default=list(MODES), choices=MODES)
    add("--ranks", nargs="+", type=int, default=[1, 2], help="1 is always among them")
    add("--launcher", choices=LAUNCHERS, default="local")
    add("--options", default="", help="of mpiexec, srun or `allgrad run`, as one word")
    add("--rate", default="1gbit", help="of the links of emulated hosts")
    add("--batch", type=int, help="default: that of the workload")
    add("--no-torch", dest="torch", action="store_false", help="leave PyTorch out")
    add("--rounds", type=int, default=7)
    add("--seconds", type=float, default=1.5, help="per contestant and round")
    add("--priority", action="store_true", help="above all other processes (root)")
    add("--out", type=Path, help="JSON file of the raw figures; the picture lies beside it")
    options = parser.parse_args()
    options.ranks = sorted({1, *options.ranks})
    return options


def save(rows: list[dict[str, Any]], options: argparse.Namespace) -> Path:
    """Write figures and picture of what there is so far; return where the figures are."""
    date = time.strftime("%Y-%m-%d")
    out = options.out or HERE / "results" / f"scaling-{options.launcher}-{date}.json"
    record = {"versions": versions(), "launcher": options.launcher, "rounds": options.rounds,
              "rate": options.rate if options.launcher == "hosts" else None,
              "priority": options.priority, "rows": rows}  # fmt: skip
    out.write_text(json.dumps(record, indent=1))
    draw(rows, out.with_suffix(".png"))
    return Path(out)


def main() -> None:
    """Measure, print the table, save figures and picture."""
    options = _options()
    # on hosts whose network is not known here, nothing is predicted
    known = options.launcher == "hosts" or (options.launcher == "local" and not options.options)
    options.mode_predicts = lambda series: known and series.mode == "weak"
    print("| workload | scaling | ranks | batch of a rank | allgrad, ms | efficiency | "
          "PyTorch, ms | efficiency | PyTorch / allgrad |")  # fmt: skip
    print("|---|---|---|---|---|---|---|---|---|")
    rows: list[dict[str, Any]] = []
    try:
        with place_of(options) as place:
            for workload in options.workloads:
                batch = options.batch or BATCHES[workload][0]
                for mode in options.modes:
                    series = Series(workload, mode, tuple(options.ranks), batch)
                    rows.append(measure(series, place, options))
                    print("\n".join(lines(rows[-1])), flush=True)
                    out = save(rows, options)
    except HostsError as error:
        raise SystemExit(f"no emulated hosts: {error}") from error
    print(f"medians over {options.rounds} rounds (range); {out} and {out.with_suffix('.png')}")


if __name__ == "__main__":
    main()
