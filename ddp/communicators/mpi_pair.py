"""The all-reduce of two ranks as what it is: each sends all that it has, and adds what it receives.

Stage of the flow: below `mpi`, for two ranks (two processes, or the leaders of two hosts). May
import: numpy and `base`; MPI's objects come from `mpi`.

MPI libraries reduce halves and gather them again: the same bytes in two rounds, of which the second
can only start when MPI is called after the first. With one round a rank that computes moves on with
half of the calls. Measured between two hosts at 1 Gbit/s, 1 MiB, with MPICH's own algorithm of one
round (recursive doubling): 7.1 ms instead of 8.7 ms alone, and 2 ms instead of 3.5 ms left to wait
beside 20 ms of matrix products.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from allgrad.ddp.communicators.base import Array, ReduceOp, scale_to_mean


def can_pair(array: Array, op: ReduceOp) -> bool:
    """Whether `start_pair` does this all-reduce: sums of floats, of which two commute."""
    return op in (ReduceOp.SUM, ReduceOp.AVG) and array.dtype.char in "fd"


class Pair:
    """A message each way; a request to those who only test."""

    __slots__ = ("_requests",)

    def __init__(self, requests: list[Any]) -> None:
        self._requests = requests

    def Test(self) -> bool:  # noqa: N802 - MPI's name
        """Push both on; whether both are done."""
        return bool(type(self._requests[0]).Testall(self._requests))


def start_pair(comm: Any, piece: Array, op: ReduceOp) -> tuple[Pair, Callable[[], None]]:
    """Send the piece to the other rank and receive its own.

    Args:
        comm: an MPI communicator of two ranks that carries nothing else.
        piece: contiguous; must not change until the second result was called.
        op: SUM or AVG.

    Returns:
        A request, and what to call once it is done: it puts the result in place.
    """
    other = 1 - comm.Get_rank()
    received = np.empty_like(piece)
    request = Pair([comm.Irecv(received, other, 0), comm.Isend(piece, other, 0)])

    def finish() -> None:
        np.add(piece, received, out=piece)  # the same bits on both, for two addends commute
        if op is ReduceOp.AVG:
            scale_to_mean(piece, 2)

    return request, finish
