"""All-reduce on one host: allgrad's two paths, MPI's own Allreduce, and PyTorch's gloo.

    python benchmarks/allreduce.py --ranks 2       # table, benchmarks/results/allreduce_2ranks.json
    python benchmarks/allreduce.py --max-bytes 1048576 --rounds 9

Columns as nccl-tests prints them: time is the mean of one call within a round, median over rounds;
algbw = bytes / time; busbw = algbw * 2 (n - 1) / n; error is the largest deviation from the exact
result. All sides run in one session, take turns in every round, and are asleep while another is
measured. "bucket" is what gradients use: the array lies in the shared window. "array" is any other
numpy array given to all_reduce. gloo is left out where torch is not installed.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import importlib.util
import json
import os
import platform
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from multiprocessing.connection import Client, Connection, Listener
from pathlib import Path
from typing import Any

import numpy as np

KB, MB = 1 << 10, 1 << 20
SIZES = [KB, 4 * KB, 16 * KB, 64 * KB, 256 * KB, MB, 4 * MB, 16 * MB, 25 * MB, 64 * MB, 100 * MB]
PATHS = {"mpi": ("bucket", "array", "MPI_Allreduce"), "gloo": ("gloo",)}
ROUND_S = 0.12  # aim of one round of one path


def say(text: str) -> None:
    """Print at once, also into a pipe."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


# ---- the sides: processes that reduce on request -------------------------------------------------


def serve(side: str, address: str) -> None:
    """Connect to the parent and measure what it asks for, until it hangs up."""
    reduce_in = {"mpi": open_mpi, "gloo": open_gloo}[side]()
    rank = int(os.environ["RANK"]) if side == "gloo" else reduce_in["rank"]
    with Client(address, "AF_UNIX") as parent:
        parent.send((side, rank, reduce_in["versions"]))
        while True:
            try:
                path, size_bytes, repeats = parent.recv()
            except EOFError:
                break
            parent.send(measure(reduce_in, path, size_bytes, repeats, rank))
    reduce_in["close"]()


def open_mpi() -> dict[str, Any]:
    """This process as a rank of allgrad; only it imports MPI."""
    from mpi4py import MPI

    from allgrad import ddp
    from allgrad.ddp.communicators.mpi import library
    from allgrad.ddp.process_group import default_group

    ddp.init_process_group("mpi")
    communicator = default_group().communicator
    memory: dict[int, np.ndarray] = {}

    def buffer(path: str, size_bytes: int) -> np.ndarray:
        if path != "bucket":
            return np.empty(size_bytes // 4, np.float32)
        if size_bytes not in memory:
            memory.clear()
            memory[size_bytes] = communicator.allocate(size_bytes).view(np.float32)
        return memory[size_bytes]

    def reducer(path: str, array: np.ndarray) -> Callable[[], object]:
        if path == "MPI_Allreduce":
            return lambda: MPI.COMM_WORLD.Allreduce(MPI.IN_PLACE, array)
        return lambda: communicator.all_reduce(array)

    return {
        "rank": communicator.rank,
        "size": communicator.size,
        "buffer": buffer,
        "reducer": reducer,
        "barrier": communicator.barrier,
        "close": ddp.destroy_process_group,
        "versions": {"mpi": library(), "mpi4py": importlib.metadata.version("mpi4py")},
    }


def open_gloo() -> dict[str, Any]:
    """This process as a rank of gloo; only it imports torch."""
    import torch
    import torch.distributed as dist

    torch.set_num_threads(1)
    dist.init_process_group("gloo")

    def reducer(path: str, array: np.ndarray) -> Callable[[], object]:
        tensor = torch.from_numpy(array)
        return lambda: dist.all_reduce(tensor)

    return {
        "rank": dist.get_rank(),
        "size": dist.get_world_size(),
        "buffer": lambda path, size_bytes: np.empty(size_bytes // 4, np.float32),
        "reducer": reducer,
        "barrier": dist.barrier,
        "close": dist.destroy_process_group,
        "versions": {"torch": torch.__version__},
    }


def measure(
    reduce_in: dict[str, Any], path: str, size_bytes: int, repeats: int, rank: int
) -> tuple[float, float]:
    """(seconds per call, largest error) of `repeats` calls; the values are checked before."""
    array = reduce_in["buffer"](path, size_bytes)
    call = reduce_in["reducer"](path, array)
    pattern = np.arange(array.size, dtype=np.float32) % 1000
    size = reduce_in["size"]
    array[:] = pattern * (rank + 1)
    call()
    error = float(np.abs(array - pattern * (size * (size + 1) // 2)).max())
    array[:] = 0  # repeated sums must not overflow
    reduce_in["barrier"]()
    call()
    begin = time.perf_counter()
    for _ in range(repeats):
        call()
    return (time.perf_counter() - begin) / repeats, error


# ---- the parent: starts the sides, lets them take turns -----------------------------------------


class Side:
    """The processes of one side, and a connection to each."""

    def __init__(self, name: str, ranks: int, folder: str) -> None:
        self.name = name
        address = f"{folder}/{name}"
        listener = Listener(address, "AF_UNIX", backlog=ranks)
        self.processes = start_processes(name, ranks, address)
        self.connections: list[Connection] = []
        self.versions: dict[str, str] = {}
        for _ in range(ranks):
            connection = listener.accept()
            self.versions |= connection.recv()[2]
            self.connections.append(connection)
        listener.close()

    def measure(self, path: str, size_bytes: int, repeats: int) -> tuple[float, float]:
        """Time (of the slowest rank) and error (largest of all ranks)."""
        for connection in self.connections:
            connection.send((path, size_bytes, repeats))
        results = [connection.recv() for connection in self.connections]
        return max(r[0] for r in results), max(r[1] for r in results)

    def close(self) -> None:
        for connection in self.connections:
            connection.close()
        for process in self.processes:
            process.wait(timeout=60)


def start_processes(side: str, ranks: int, address: str) -> list[subprocess.Popen[bytes]]:
    """The ranks of one side; they connect to `address` when they are ready."""
    script = [sys.executable, os.path.abspath(__file__), "--serve", side, "--address", address]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    if side == "mpi":
        return [subprocess.Popen(["mpiexec", "-n", str(ranks), *script], env=environment)]
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    environment |= {"WORLD_SIZE": str(ranks)}
    return [
        subprocess.Popen(script, env=environment | {"RANK": str(rank)}) for rank in range(ranks)
    ]


def run(sides: list[Side], sizes: list[int], rounds: int) -> dict[str, dict[int, Any]]:
    """Seconds per call of every round, and the largest error, by path and size."""
    table: dict[str, dict[int, Any]] = {p: {} for side in sides for p in PATHS[side.name]}
    for size_bytes in sizes:
        turns = [(side, path) for side in sides for path in PATHS[side.name]]
        repeats = {}
        for side, path in turns:  # a first round to choose the number of calls, not counted
            seconds, error = side.measure(path, size_bytes, 3)
            repeats[path] = int(min(2000, max(3, ROUND_S / max(seconds, 1e-6))))
            table[path][size_bytes] = {"seconds": [], "error": error}
        for number in range(rounds):
            for side, path in turns if number % 2 == 0 else reversed(turns):
                seconds, error = side.measure(path, size_bytes, repeats[path])
                entry = table[path][size_bytes]
                entry["seconds"].append(seconds)
                entry["error"] = max(entry["error"], error)
        say(f"  {size_bytes} bytes measured")
    return table


def print_table(table: dict[str, dict[int, Any]], ranks: int) -> None:
    """One block per path, then how many times faster than gloo."""
    for path, rows in table.items():
        say(f"\n# {path}, {ranks} ranks")
        say(f"{'size':>12} {'count':>11} {'type':>8} {'redop':>6} {'time':>10} {'min':>10} "
            f"{'max':>10} {'algbw':>8} {'busbw':>8} {'error':>7}")  # fmt: skip
        say(f"{'(B)':>12} {'(elements)':>11} {'':>8} {'':>6} {'(us)':>10} {'(us)':>10} "
            f"{'(us)':>10} {'(GB/s)':>8} {'(GB/s)':>8}")  # fmt: skip
        for size_bytes, row in rows.items():
            seconds = statistics.median(row["seconds"])
            algbw = size_bytes / seconds / 1e9
            busbw = algbw * 2 * (ranks - 1) / ranks
            say(f"{size_bytes:>12} {size_bytes // 4:>11} {'float':>8} {'sum':>6} "
                f"{seconds * 1e6:>10.1f} {min(row['seconds']) * 1e6:>10.1f} "
                f"{max(row['seconds']) * 1e6:>10.1f} {algbw:>8.2f} {busbw:>8.2f} "
                f"{row['error']:>7.0g}")  # fmt: skip
    if "gloo" in table:
        say("\n# times faster than gloo (medians)")
        others = [path for path in table if path != "gloo"]
        say(f"{'size (B)':>12} " + " ".join(f"{path:>14}" for path in others))
        for size_bytes in table["gloo"]:
            base = statistics.median(table["gloo"][size_bytes]["seconds"])
            ratios = [base / statistics.median(table[p][size_bytes]["seconds"]) for p in others]
            say(f"{size_bytes:>12} " + " ".join(f"{ratio:>14.1f}" for ratio in ratios))


def save(table: dict[str, dict[int, Any]], ranks: int, versions: dict[str, str]) -> Path:
    """Write all rounds with what they were measured on; returns the file."""
    folder = Path(__file__).parent / "results"
    folder.mkdir(exist_ok=True)
    target = folder / f"allreduce_{ranks}ranks.json"
    facts = {
        "benchmark": "allreduce",
        "ranks": ranks,
        "dtype": "float32",
        "op": "sum",
        "cores": len(os.sched_getaffinity(0)),
        "machine": platform.processor() or platform.machine(),
        "cpu": cpu_name(),
        "python": platform.python_version(),
        "versions": versions | {"numpy": np.__version__},
        "paths": {path: {str(s): row for s, row in rows.items()} for path, rows in table.items()},
    }
    target.write_text(json.dumps(facts, indent=1) + "\n")
    return target


def cpu_name() -> str:
    """The processor as the kernel names it."""
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return "unknown"


def main() -> None:
    """Be a parent, or one of its ranks."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=7, help="at least 5 for a fair median")
    parser.add_argument("--max-bytes", type=int, default=SIZES[-1])
    parser.add_argument("--serve", choices=PATHS, help=argparse.SUPPRESS)
    parser.add_argument("--address", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        serve(options.serve, options.address)
        return
    names = ["mpi", "gloo"] if importlib.util.find_spec("torch") else ["mpi"]
    sizes = [size for size in SIZES if size <= options.max_bytes]
    with tempfile.TemporaryDirectory() as folder:
        sides: list[Side] = []
        try:
            sides.extend(Side(name, options.ranks, folder) for name in names)
            table = run(sides, sizes, options.rounds)
        finally:
            for side in sides:
                side.close()
    versions = {k: v for side in sides for k, v in side.versions.items()}
    print_table(table, options.ranks)
    say(f"\nraw figures: {save(table, options.ranks, versions)}")


if __name__ == "__main__":
    main()
