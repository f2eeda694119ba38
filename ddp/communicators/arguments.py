"""What collectives and messages with single ranks are given, checked: the same for every transport.

Stage of the flow: at the entry of `exchange` (shared memory) and `mpi_exchange`. May import:
`base`.
"""

from __future__ import annotations

from allgrad.ddp.communicators.base import (
    Array,
    Communicator,
    ReduceOp,
    check_array,
    check_gathered,
    check_peer,
    check_reduction,
    check_root,
    check_root_array,
    check_scattered,
)


def of_reduce(c: Communicator, array: Array, root: int, op: ReduceOp | str) -> ReduceOp:
    """Of `Communicator.reduce`; returns the reduction."""
    check_array(c, "reduce", array, in_place=True)
    check_root(c, root)
    return check_reduction(c, array, op)


def of_gather(c: Communicator, array: Array, out: Array | None, root: int) -> Array | None:
    """Of `Communicator.gather`; returns where the root puts what it gets, None elsewhere."""
    check_root(c, root)
    check_array(c, "gather", array)
    if root != c.rank:
        return None
    rows = check_root_array(c, "gather", out)
    check_gathered(c, "gather", rows, array)
    return rows


def of_scatter(c: Communicator, out: Array, rows: Array | None, root: int) -> Array | None:
    """Of `Communicator.scatter`; returns what the root deals out, None elsewhere."""
    check_root(c, root)
    check_array(c, "scatter", out, in_place=True)
    if root != c.rank:
        return None
    table = check_root_array(c, "scatter", rows)
    check_scattered(c, "scatter", out, table)
    return table


def of_message(c: Communicator, what: str, array: Array, peer: int | None, tag: int) -> None:
    """Of `Communicator.isend` ("send") and `irecv` ("recv")."""
    check_array(c, what, array, in_place=what == "recv")
    check_peer(c, what, peer, tag)
