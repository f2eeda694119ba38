"""One rank: every collective is the identity. Imports no MPI."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import NoReturn

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
    check_exchange,
    check_gathered,
    check_members,
    check_peer,
    check_reduction,
    check_root,
    check_root_array,
    check_scattered,
)
from allgrad.ddp.communicators.splitting import adopt
from allgrad.errors import DistributedError


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

    def reduce(
        self, array: Array, root: int, op: ReduceOp | str = ReduceOp.SUM, async_op: bool = False
    ) -> Work:
        check_root(self, root)
        return self.all_reduce(array, op, async_op)

    def gather(self, array: Array, out: Array | None, root: int, async_op: bool = False) -> Work:
        check_root(self, root)
        return self.all_gather_into(check_root_array(self, "gather", out), array)

    def scatter(self, out: Array, rows: Array | None, root: int, async_op: bool = False) -> Work:
        check_root(self, root)
        table = check_root_array(self, "scatter", rows)
        check_scattered(self, "scatter", out, table)
        out[...] = table[0]
        return COMPLETED

    def all_to_all(
        self, outputs: Sequence[Array], inputs: Sequence[Array], async_op: bool = False
    ) -> Work:
        check_exchange(self, outputs, inputs)
        outputs[0][...] = inputs[0].reshape(outputs[0].shape)
        return COMPLETED

    def isend(self, array: Array, peer: int, tag: int = 0) -> NoReturn:
        self._refuse("send", array, peer, tag)

    def irecv(self, array: Array, peer: int | None = None, tag: int = 0) -> NoReturn:
        self._refuse("recv", array, peer, tag)

    def _refuse(self, what: str, array: Array, peer: int | None, tag: int) -> NoReturn:
        check_array(self, what, array)
        check_peer(self, what, peer, tag)
        raise DistributedError(f"{self.where} {what}: there is no other rank")

    def split(self, ranks: Sequence[int] | None) -> Communicator | None:
        members = check_members(self, ranks)
        return None if members is None else adopt(self, LocalCommunicator(self.timeout_s), members)

    def abort(self, code: int) -> None:
        sys.exit(code)

    def close(self) -> None:
        return None
