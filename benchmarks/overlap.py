"""How much of communication backward hides, and against PyTorch DDP on gloo over the same link.

    python benchmarks/overlap.py                        # all rows below
    python benchmarks/overlap.py --rows resnet20@link   # one of them
    python benchmarks/overlap.py --priority             # root, on a machine that does other things

Rows are `workload@link`: `link` is the link model in shared memory, whose rate is chosen so that
communication takes `--ratio` (0.6) of backward; `1gbit` and `10gbit` are two network namespaces
with shaped links (`netns.py`; needs root), where the batch size is chosen instead. Three ways to
step take turns, step by step in the same processes: communication during backward (overlap), all
of it after backward (after), none (compute). PyTorch DDP steps in the same rounds over the same
link, in the better of its two memory layouts. Said per row, as medians over rounds (range):

    ratio     (after - compute) / backward without communication
    gain      after / overlap
    hidden    (after - overlap) / what can be hidden: after - compute without the part of the last
              bucket, which is complete only when backward is over
    possible  after / (after - what can be hidden): the gain if all of it were
    work      time that a rank's own core spends on communication during backward (TCP's copies,
              sums): on one core per rank, nothing can hide it
    beside    as hidden, but without `work`, too

Raw figures go to benchmarks/results/overlap-<date>.json. Needs torch.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from netns import Hosts, HostsError, environment
from step import spread, versions

HERE = Path(__file__).resolve().parent
ROWS = ("resnet20@link", "resnet20@300mbit", "resnet20@1gbit", "resnet18@1gbit", "resnet18@10gbit")
# where the search for the batch size begins
BATCH = {
    ("resnet20", "1gbit"): 3,
    ("resnet20", "300mbit"): 10,
    ("resnet18", "1gbit"): 32,
    ("resnet18", "10gbit"): 6,
}
Times = dict[str, list[tuple[float, float, float, float]]]


@dataclass
class Setting:
    """What a row runs with."""

    workload: str
    batch: int
    rate: str  # "link" or what tc writes
    link: str | None = None
    cap_mb: float | None = None

    def options(self) -> dict[str, Any]:
        """For the workers."""
        cores = sorted(os.sched_getaffinity(0))[:2]
        return {
            "batch": self.batch,
            "cores": cores,
            "link": self.link,
            "bucket_cap_mb": self.cap_mb,
        }


class Contestant:
    """The two processes of one contestant and the sockets to them."""

    def __init__(
        self, name: str, setting: Setting, hosts: Hosts | None, priority: bool, **more: Any
    ) -> None:
        self.name = name
        self._folder = tempfile.TemporaryDirectory(prefix="allgrad-overlap-")
        path = f"{self._folder.name}/socket"
        given = json.dumps(setting.options() | more)
        worker = [sys.executable, str(HERE / "overlap_worker.py"), path, name, setting.workload]
        argv = [*(["nice", "-n", "-20"] if priority else []), *worker, given]
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(path)
            server.listen(2)
            server.settimeout(120)
            self._processes = self._start(argv, hosts)
            try:
                self._links = [server.accept()[0].makefile("rw") for _ in range(2)]
                self.report = self._read(self._links[0])
                self._read(self._links[1])
            except BaseException:
                self.close()
                raise

    def _start(self, argv: list[str], hosts: Hosts | None) -> list[subprocess.Popen[bytes]]:
        if self.name != "torch":
            if hosts is not None:
                argv = hosts.mpiexec(argv)
            else:
                argv = [str(Path(sys.executable).parent / "mpiexec"), "-n", "2", *argv]
            env = environment() if hosts is not None else _local_environment()
            return [subprocess.Popen(argv, env=env, stdin=subprocess.DEVNULL)]
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = str(free.getsockname()[1])
        meeting = {"WORLD_SIZE": "2", "MASTER_PORT": port, "MASTER_ADDR": "127.0.0.1"}
        if hosts is not None:
            meeting |= {"MASTER_ADDR": "10.77.0.1", "GLOO_SOCKET_IFNAME": "eth0"}
        return [
            subprocess.Popen(
                argv if hosts is None else hosts.command(rank, argv),
                env=environment() | meeting | {"RANK": str(rank)},
                stderr=subprocess.DEVNULL,  # a warning that namespaces have no name server
            )
            for rank in range(2)
        ]

    @staticmethod
    def _read(link: Any) -> Any:
        line = link.readline()
        if not line:
            raise RuntimeError("a contestant ended early; its error is above")
        return json.loads(line)

    def run(self, steps: int) -> dict[str, tuple[float, float, float]]:
        """Per way, seconds of a step, of its backward and of this core's work for communication.

        Medians; of the slower rank.
        """
        for link in self._links:
            link.write(json.dumps({"steps": steps}) + "\n")
            link.flush()
        ranks: list[Times] = [self._read(link)["times_s"] for link in self._links]
        found = {}
        for way in ranks[0]:
            whole = max(statistics.median(sum(t[:3]) for t in times[way]) for times in ranks)
            backward = max(statistics.median(t[1] for t in times[way]) for times in ranks)
            work = statistics.mean(statistics.median(t[3] for t in times[way]) for times in ranks)
            found[way] = (whole, backward, work)
        return found

    def close(self) -> None:
        """End the processes."""
        for link in getattr(self, "_links", []):
            link.close()
        for process in self._processes:
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
        self._folder.cleanup()


def _local_environment() -> dict[str, str]:
    kept = environment()
    for name in ("UCX_TLS", "UCX_NET_DEVICES"):
        kept.pop(name, None)
    return kept


@contextlib.contextmanager
def contestants(
    setting: Setting, hosts: Hosts | None, priority: bool, torch: bool = True
) -> Iterator[list[Contestant]]:
    """Those of a row: ours, and PyTorch in its layouts (none over a modelled link)."""
    makers: list[Callable[[], Contestant]] = [
        lambda: Contestant("allgrad", setting, hosts, priority)
    ]
    if torch and hosts is not None:
        makers += [
            partial(Contestant, "torch", setting, hosts, priority, channels_last=layout)
            for layout in (False, True)
        ]
    running: list[Contestant] = []
    try:
        for make in makers:
            running += [make()]
        yield running
    finally:
        for contestant in running:
            contestant.close()


def tune(setting: Setting, hosts: Hosts | None, ratio: float, priority: bool) -> Setting:
    """Choose the batch (or, over a modelled link, its rate) so that the ratio is about right."""
    for _ in range(3):
        with contestants(setting, hosts, priority, torch=False) as (ours,):
            taken = ours.run(5)
            total = sum(ours.report["buckets"])
        backward = taken["compute"][1]
        if hosts is None:
            # 2 (N-1)/N = 1 for two ranks; latency counts little
            gbit = total / (ratio * backward) * 8 / 1e9
            setting.link = f"{gbit:.4f}gbit,20us"
            break
        measured = (taken["after"][0] - taken["compute"][0]) / backward
        if abs(measured / ratio - 1) < 0.1:
            break
        setting.batch = max(1, round(setting.batch * min(4.0, max(0.25, measured / ratio))))
    return setting


def measure(name: str, options: argparse.Namespace) -> dict[str, Any]:
    """One row: times per round of every contestant and way."""
    workload, _, rate = name.partition("@")
    setting = Setting(
        workload,
        BATCH.get((workload, rate), 8),
        rate,
        "100gbit" if rate == "link" else None,
        options.bucket_cap_mb,
    )
    with contextlib.ExitStack() as stack:
        hosts = None if rate == "link" else stack.enter_context(Hosts(2, rate))
        setting = tune(setting, hosts, options.ratio, options.priority)
        field = stack.enter_context(contestants(setting, hosts, options.priority))
        first = sum(t[0] for t in field[0].run(2).values())
        steps = max(3, int(options.seconds / first))
        rounds: list[list[dict[str, tuple[float, float, float]]]] = []
        for turn in range(options.rounds):
            order = field if turn % 2 == 0 else field[::-1]
            taken = {id(c): c.run(steps) for c in order}
            rounds.append([taken[id(c)] for c in field])
        return {
            "row": name,
            "batch": setting.batch,
            "link": setting.link or rate,
            "bucket_bytes": field[0].report["buckets"],
            "steps": steps,
            "contestants": [c.name for c in field],
            "rounds": rounds,
        }


def figures(row: dict[str, Any]) -> dict[str, list[float]]:
    """Per round: ratio, gain, possible, hidden, and PyTorch's time in units of ours."""
    tail = row["bucket_bytes"][-1] / sum(row["bucket_bytes"])
    found: dict[str, list[float]] = {}
    for taken in row["rounds"]:
        ours = {way: times[0] for way, times in taken[0].items()}
        wire = ours["after"] - ours["compute"]
        work = taken[0]["overlap"][2]
        can = wire * (1 - tail)
        saved = ours["after"] - ours["overlap"]
        values = {
            "ratio": wire / taken[0]["compute"][1],
            "gain": ours["after"] / ours["overlap"],
            "possible": ours["after"] / (ours["after"] - can),
            "hidden": saved / can,
            "beside": saved / (can - work),
            "work": work,
            "backward gain": taken[0]["after"][1] / taken[0]["overlap"][1],
        }
        if len(taken) > 1:
            values["torch"] = min(t["overlap"][0] for t in taken[1:]) / ours["overlap"]
        for key, value in values.items():
            found.setdefault(key, []).append(value)
    return found


def line(row: dict[str, Any]) -> str:
    """The row as text."""
    f = figures(row)
    ways = {
        way: [taken[0][way][0] for taken in row["rounds"]]
        for way in ("compute", "after", "overlap")
    }
    torch = spread(f["torch"]) if "torch" in f else "-"
    return (
        f"| {row['row']}, batch {row['batch']}, {row['link']} | {spread(f['ratio'])} | "
        + " | ".join(spread(times, 1e3, ".1f") for times in ways.values())
        + f" | {spread(f['hidden'])} | {spread(f['gain'])} | {spread(f['possible'])} | "
        f"{spread(f['backward gain'])} | {spread(f['work'], 1e3, '.1f')} | "
        f"{spread(f['beside'])} | {torch} |"
    )


def main() -> None:
    """Measure, print the table, save the raw figures."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--rows", nargs="+", default=list(ROWS), metavar="WORKLOAD@LINK")
    parser.add_argument("--ratio", type=float, default=0.6)
    parser.add_argument("--bucket-cap-mb", type=float, help="default: that of the wrapper")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2.0, help="per contestant and round")
    parser.add_argument("--priority", action="store_true", help="above all other processes (root)")
    parser.add_argument("--out", type=Path, help="JSON file of the raw figures")
    options = parser.parse_args()
    if options.priority and os.geteuid() != 0:
        parser.error("--priority needs root")
    print("| row | ratio | compute, ms | after, ms | overlap, ms | hidden | gain | possible | "
          "gain of backward | work, ms | beside | PyTorch / allgrad |")  # fmt: skip
    print("|---|---|---|---|---|---|---|---|---|---|---|---|")
    rows = []
    for name in options.rows:
        try:
            row = measure(name, options)
        except HostsError as error:
            print(f"| {name} | skipped: {error} |")
            continue
        rows.append(row)
        print(line(row), flush=True)
    out = options.out or HERE / "results" / f"overlap-{time.strftime('%Y-%m-%d')}.json"
    record = {"versions": versions(), "rounds": options.rounds, "ratio": options.ratio,
              "priority": options.priority, "rows": rows}  # fmt: skip
    out.write_text(json.dumps(record, indent=1))
    print(f"medians over {options.rounds} rounds (range); raw figures: {out}")


if __name__ == "__main__":
    main()
