"""One rank: every collective is the identity. Imports no MPI."""

from __future__ import annotations

import sys

import numpy as np
from numpy.typing import NDArray

from allgrad.ddp.communicators.base import (
    COMPLETED,
    DEFAULT_TIMEOUT_S,
    Array,
    Communicator,
    ReduceOp,
    Work,
    aligned_zeros,
    check_array,
    check_gathered,
    check_reduction,
    check_root,
    check_scattered,
)


class LocalCommunicator(Communicator):
    """The communicator of a script that runs as plain ``python script.py``."""

    def __init__(self, timeout_s: float = DEFAULT_TIMEOUT_S) -> None:
        self.rank, self.size, self.name, self.timeout_s = 0, 1, "local", timeout_s

    def allocate(self, size_bytes: int) -> NDArray[np.uint8]:
        return aligned_zeros(size_bytes)

    def all_reduce(
        self, array: Array, op: ReduceOp | str = ReduceOp.SUM, async_op: bool = False
    ) -> Work:
        check_array(self, "all_reduce", array, in_place=True)
        check_reduction(self, array, op)
        return COMPLETED

    def broadcast(self, array: Array, root: int = 0, async_op: bool = False) -> Work:
        check_array(self, "broadcast", array, in_place=True)
        check_root(self, root)
        return COMPLETED

    def all_gather_into(self, out: Array, array: Array, async_op: bool = False) -> Work:
        check_gathered(self, "all_gather", out, array)
        out[0] = array
        return COMPLETED

    def reduce_scatter_into(
        self, out: Array, array: Array, op: ReduceOp | str = ReduceOp.SUM, async_op: bool = False
    ) -> Work:
        check_scattered(self, "reduce_scatter", out, array)
        check_reduction(self, array, op)
        out[...] = array[0]
        return COMPLETED

    def barrier(self, async_op: bool = False) -> Work:
        return COMPLETED

    def abort(self, code: int) -> None:
        sys.exit(code)

    def close(self) -> None:
        return None
