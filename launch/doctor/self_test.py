"""One rank of the self test: joins the others, compares facts, measures all-reduce.

    python -m allgrad.launch.doctor.self_test [--facts] [--mib M]

A program of its own because a misconfigured MPI ends the process that starts it. Its result is one
line of JSON behind a mark, among whatever MPI prints.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import statistics
import sys
import time
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from allgrad import ddp
from allgrad.ddp import torchrun
from allgrad.ddp.communicators.base import Communicator
from allgrad.ddp.environment import RankEnvironment, discover
from allgrad.ddp.process_group import default_group
from allgrad.ddp.tracing.clock import align
from allgrad.errors import AllgradError

MARK = "allgrad-doctor-result "
PATIENCE_S = 12.0
_KIB = 1 << 10
_SIZES = (4, 64 * _KIB, _KIB * _KIB, 25 * _KIB * _KIB)  # the last is a bucket of gradients
_LEAST, _MOST = 3, 1000
_PR_SET_PDEATHSIG = 1


@dataclass(frozen=True)
class Row:
    """All-reduces of one size: bytes per rank, median and extremes in microseconds."""

    size_bytes: int
    rounds: int
    median_us: float
    least_us: float
    most_us: float

    @property
    def gigabytes_per_s(self) -> float:
        """Bytes of the array per second of an all-reduce, in 10^9."""
        return self.size_bytes / self.median_us / 1e3


@dataclass(frozen=True)
class Result:
    """What one rank has to tell.

    Attributes:
        rank, size: as MPI sees them; a size of 0: MPI did not start.
        communicator: "shm", "mpi", "hierarchical" ...
        clock_s: see `facts.World`.
        problem: what went wrong.
        rows: on rank 0, the measurements.
        facts: on rank 0, those of all ranks, as JSON; none if none were given.
    """

    rank: int = 0
    size: int = 0
    communicator: str = ""
    clock_s: float = 0.0
    problem: str = ""
    rows: tuple[Row, ...] = ()
    facts: tuple[str, ...] = ()

    def line(self) -> str:
        """The result as a line."""
        return MARK + json.dumps(asdict(self))

    @staticmethod
    def find(output: str) -> Result | None:
        """The last result in a program's output; None if there is none."""
        found = [line for line in output.splitlines() if MARK in line]
        if not found:
            return None
        data: dict[str, Any] = json.loads(found[-1].partition(MARK)[2])
        rows = tuple(Row(**row) for row in data.pop("rows"))
        return Result(**data | {"rows": rows, "facts": tuple(data["facts"])})


def main(arguments: list[str] | None = None) -> int:
    """Run as one rank; print the result on every rank that was given facts, else on rank 0."""
    parser = argparse.ArgumentParser(prog="python -m allgrad.launch.doctor.self_test")
    parser.add_argument("--facts", action="store_true", help="read this rank's facts from stdin")
    parser.add_argument("--seconds", type=float, default=2.0, help="for all sizes together")
    parser.add_argument("--mib", type=float, default=25.0, help="largest array")
    options = parser.parse_args(arguments)
    if options.facts:
        _end_with_parent()
    facts = sys.stdin.read() if options.facts else ""
    place = discover()
    try:
        result = _join(place, facts, options.mib, options.seconds)
    except (AllgradError, ImportError, RuntimeError) as error:
        result = Result(place.rank, problem=" ".join(str(error).split()))
    if options.facts or result.rank == 0 or result.problem:
        sys.stdout.write(result.line() + "\n")
        sys.stdout.flush()
    return 0


def _end_with_parent() -> None:
    """Ask the kernel to end this process when the doctor ends, however that happens."""
    if sys.platform == "linux":
        import ctypes  # noqa: PLC0415 - only here

        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _join(place: RankEnvironment, facts: str, largest_mib: float, seconds: float) -> Result:
    if place.size > 1:
        with torchrun.meeting(place, os.environ, PATIENCE_S):
            from allgrad.ddp.communicators import mpi  # noqa: PLC0415 - the import starts MPI

        comm, _ = mpi.world()
        rank, size = comm.Get_rank(), comm.Get_size()
        if (rank, size) != (place.rank, place.size):
            return Result(rank, size)  # a finding, with cause and fix
    ddp.init_process_group(timeout=PATIENCE_S)
    c = default_group().communicator
    clock = align(c, now=time.time).seconds
    everybody = c.all_gather_object([clock, facts])
    check(c)
    rows = measure_all(c, [size for size in _SIZES if size <= largest_mib * _KIB * _KIB], seconds)
    result = Result(
        c.rank,
        c.size,
        c.name,
        clock,
        rows=rows if c.rank == 0 else (),
        facts=tuple(_with_world(each, c.size, i) for i, each in enumerate(everybody))
        if facts and c.rank == 0
        else (),
    )
    ddp.destroy_process_group()
    return result


def _with_world(gathered: list[Any], size: int, rank: int) -> str:
    clock, facts = gathered
    world = {"rank": rank, "size": size, "clock_s": clock}
    return json.dumps(json.loads(facts) | {"world": world})


def check(c: Communicator) -> None:
    """Collective. Add up different numbers and look whether the sums are right.

    Raises:
        AllgradError: they are not.
    """
    array = c.allocate(64 * _KIB).view(np.float32)
    array[:] = np.arange(array.size) % 97 + c.rank
    c.all_reduce(array)
    expected = (np.arange(array.size) % 97) * c.size + c.size * (c.size - 1) // 2
    if not np.array_equal(array, expected.astype(np.float32)):
        wrong = int(np.flatnonzero(array != expected)[0])
        raise AllgradError(
            f"all-reduce gives wrong sums: element {wrong} is {array[wrong]}, expected "
            f"{expected[wrong]}"
        )


def measure_all(c: Communicator, sizes: list[int], seconds: float) -> tuple[Row, ...]:
    """Collective. Measure sizes in ascending order, as far as the network is fast enough."""
    rows: list[Row] = []
    for size in sizes:
        if rows and rows[-1].size_bytes >= _KIB * _KIB:
            expected_us = rows[-1].median_us * size / rows[-1].size_bytes
            # Ranks agree: what one of them leaves out, all leave out.
            if max(c.all_gather_object(expected_us)) * _LEAST > max(seconds, 1.0) * 1e6:
                break
        rows.append(measure(c, size, seconds / len(sizes)))
    return tuple(rows)


def measure(c: Communicator, size_bytes: int, budget_s: float) -> Row:
    """Collective. Time all-reduces that average, as gradients are averaged.

    Args:
        c: communicator of the ranks.
        size_bytes: of the array of each rank.
        budget_s: time for all rounds together; there are at least three.
    """
    array = c.allocate(size_bytes).view(np.float32)
    array[:] = 1
    _time(c, array)  # pages are touched, connections made
    times = [_time(c, array) for _ in range(_LEAST)]
    rounds = 1
    while rounds:
        # Half of what would fill the time left, then a new look: the first may be slower or faster
        # than the rest. Ranks agree on the smallest number, so all end together.
        left = (budget_s - sum(times)) / (statistics.mean(times) + 1e-7) / 2
        rounds = max(0, min(c.all_gather_object(int(min(left, _MOST - len(times))))))
        times += [_time(c, array) for _ in range(rounds)]
    micro = [seconds * 1e6 for seconds in times]
    return Row(size_bytes, len(micro), statistics.median(micro), min(micro), max(micro))


def _time(c: Communicator, array: Any) -> float:
    begin = time.perf_counter()
    c.all_reduce(array, "avg")
    return time.perf_counter() - begin


if __name__ == "__main__":
    sys.exit(main())
