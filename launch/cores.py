"""How the cores of this host are divided among ranks: pure functions of the affinity mask."""

from __future__ import annotations

import os


def available_cores() -> tuple[int, ...]:
    """Return the numbers of the cores that this process may use, ascending."""
    if hasattr(os, "sched_getaffinity"):
        return tuple(sorted(os.sched_getaffinity(0)))
    return tuple(range(os.cpu_count() or 1))


def threads_per_rank(cores: int, nproc: int) -> int:
    """Return how many threads each rank may use so that all together use each core once.

    Example:
        >>> threads_per_rank(8, 3), threads_per_rank(2, 4)
        (2, 1)
    """
    return max(1, cores // nproc)


def bind_to_cores(cores: tuple[int, ...], nproc: int, threads: int) -> tuple[tuple[int, ...], ...]:
    """Return the cores of each rank: ``threads`` neighbours each; beyond the last, from the first.

    Example:
        >>> bind_to_cores((0, 1, 4, 5), nproc=2, threads=2)
        ((0, 1), (4, 5))
        >>> bind_to_cores((0, 1), nproc=3, threads=1)
        ((0,), (1,), (0,))
    """
    count = len(cores)
    width = min(threads, count)
    return tuple(
        tuple(sorted(cores[(rank * width + i) % count] for i in range(width)))
        for rank in range(nproc)
    )
