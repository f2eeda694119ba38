"""Sums over a tree: the same bits for every number of ranks, on every communicator."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from allgrad import ddp
from allgrad.ddp.communicators.base import Communicator
from allgrad.ddp.communicators.hierarchical import HierarchicalCommunicator, trees_of_hosts
from allgrad.ddp.communicators.local import LocalCommunicator
from allgrad.ddp.communicators.tree import (
    TreeSum,
    middle,
    nodes_of,
    shards_of,
    share_bounds,
    steps_within,
)


def sum_over_tree(leaves: list[np.ndarray], low: int = 0) -> np.ndarray:
    """The definition, recursively."""
    if len(leaves) == 1:
        return leaves[0]
    cut = middle((low, low + len(leaves))) - low
    return sum_over_tree(leaves[:cut], low) + sum_over_tree(leaves[cut:], low + cut)


def leaves_of(shards: int, count: int, dtype: str = "float32") -> list[np.ndarray]:
    rng = np.random.default_rng(shards)
    scale = 10.0 ** rng.integers(-4, 5, (shards, count))
    return list((rng.standard_normal((shards, count)) * scale).astype(dtype))


def reduce_on(
    communicator: Communicator, shards: int, count: int, dtype: str = "float32", window: bool = True
) -> bytes:
    """Sum the leaves on the ranks of the communicator; the bytes of the mean."""
    leaves = leaves_of(shards, count, dtype)
    tree = TreeSum.of(communicator.size, shards)
    owned = shards_of(communicator.rank, communicator.size, shards)
    extra = max(tree.counts) - 1
    size_bytes = leaves[0].nbytes
    spacing = -(-size_bytes // 64) * 64
    memory = communicator.allocate(spacing * (1 + extra))
    if not window:
        memory = memory.copy()
    rows = [memory[i * spacing : i * spacing + size_bytes].view(dtype) for i in range(1 + extra)]
    nodes = nodes_of(owned, shards)
    places = [*rows[1 : len(nodes)], rows[0]]
    for (low, high), place in zip(nodes, places, strict=True):
        place[...] = sum_over_tree(leaves[low:high], low)
    communicator.reduce_tree(tree, rows[0], rows[1:], mean=True).wait()
    return rows[0].tobytes()


def expected(shards: int, count: int, dtype: str = "float32") -> bytes:
    total = sum_over_tree(leaves_of(shards, count, dtype))
    return (total / np.asarray(shards, dtype)).astype(dtype).tobytes()


def test_every_rank_owns_neighbours_and_every_node_is_made_once() -> None:
    for shards in range(1, 20):
        for size in range(1, shards + 1):
            owned = [shards_of(rank, size, shards) for rank in range(size)]
            assert [s for r in owned for s in r] == list(range(shards))
            assert max(map(len, owned)) - min(map(len, owned)) <= 1
            for rank in owned:
                nodes = nodes_of(rank, shards)
                assert [s for low, high in nodes for s in range(low, high)] == list(rank)


def test_the_sum_is_that_of_the_definition_for_all_numbers_of_ranks() -> None:
    for shards in range(1, 20):
        leaves = leaves_of(shards, 5)
        whole = sum_over_tree(leaves)
        for size in range(1, shards + 1):
            tree = TreeSum.of(size, shards)
            nodes = [
                sum_over_tree(leaves[low:high], low).copy()
                for rank in range(size)
                for low, high in nodes_of(shards_of(rank, size, shards), shards)
            ]
            assert len(nodes) == sum(tree.counts)
            assert len(tree.steps) == len(nodes) - 1
            assert tree.add_up(nodes, mean=False).tobytes() == whole.tobytes()


def test_another_order_gives_other_bits() -> None:
    leaves = leaves_of(8, 100)
    assert sum_over_tree(leaves).tobytes() != sum(leaves).tobytes()


def test_nodes_that_do_not_make_up_the_sum_are_refused() -> None:
    with pytest.raises(ValueError, match="no shard"):
        steps_within((0, 4), ((0, 2),))


def test_shares_begin_on_lines_and_cover_all() -> None:
    for count in (1, 15, 16, 1000, 1001):
        bounds = share_bounds(count, 5, 16)
        assert (bounds[0], bounds[-1]) == (0, count)
        assert sorted(bounds) == bounds
        assert all(b % 16 == 0 for b in bounds[:-1])


@pytest.mark.parametrize(("size", "window"), [(2, True), (3, True), (8, True), (3, False)])
def test_ranks_as_threads(size: int, window: bool) -> None:
    def body() -> list[bytes]:
        ddp.init_process_group()
        communicator = ddp.process_group.default_group().communicator
        cases = [(shards, count) for shards in (8, 11) for count in (1, 70_001)]
        return [reduce_on(communicator, *case, window=window) for case in cases]

    wanted = [expected(shards, count) for shards in (8, 11) for count in (1, 70_001)]
    for got in ddp.run_ranks(body, size):
        assert got == wanted


def test_half_precision_and_the_local_communicator() -> None:
    def body() -> bytes:
        ddp.init_process_group()
        return reduce_on(ddp.process_group.default_group().communicator, 4, 999, "float16")

    with np.errstate(over="ignore"):
        wanted = reduce_on(LocalCommunicator(), 4, 999, "float16")
        assert ddp.run_ranks(body, 3) == [wanted] * 3


@pytest.mark.parametrize(
    ("hosts", "shards", "by_hosts"),
    [
        ([[0, 1], [2, 3]], 8, True),
        ([[0, 1], [2, 3]], 4, True),
        ([[0, 1, 2], [3, 4]], 8, False),  # five ranks own 2, 2, 2, 1, 1 shards
        ([[0, 1], [2]], 3, True),
        ([[0, 1], [2]], 11, True),  # 4, 4, 3: a rank with several nodes
        ([[0, 2], [1, 3]], 8, False),  # dealt in turns
    ],
)
@pytest.mark.parametrize("window", [True, False])
def test_hosts_that_add_up_inside_first(
    hosts: list[list[int]], shards: int, by_hosts: bool, window: bool
) -> None:
    def body() -> list[bytes]:
        ddp.init_process_group(timeout=20)
        flat = ddp.process_group.default_group().communicator
        communicator = HierarchicalCommunicator(flat, hosts)
        tree = TreeSum.of(communicator.size, shards)
        assert (trees_of_hosts(tree, hosts, flat.rank) is not None) == by_hosts
        # an all-reduce under way before and after takes the same stages
        works = [communicator.all_reduce(np.ones(100), async_op=True) for _ in range(2)]
        results = [reduce_on(communicator, shards, n, window=window) for n in (1, 5, 70_001)]
        for work in works:
            work.wait()
        return results

    size = sum(map(len, hosts))
    wanted = [expected(shards, count) for count in (1, 5, 70_001)]
    for got in ddp.run_ranks(body, size):
        assert got == wanted


MPI_SCRIPT = """
    import hashlib, sys
    sys.path.insert(0, sys.argv[1])
    from test_tree import expected, reduce_on
    from allgrad import ddp
    from allgrad.ddp.communicators.tree import TreeSum

    ddp.init_process_group(shared_memory=False, timeout=60)
    communicator = ddp.process_group.default_group().communicator
    for shards, count in ((8, 1), (8, 100), (11, 1_000_003)):
        assert reduce_on(communicator, shards, count) == expected(shards, count), (shards, count)

    from allgrad.ddp.communicators.hierarchical import HierarchicalCommunicator
    hosts = [[0, 1], [2]]
    pretended = HierarchicalCommunicator(communicator.split([0, 1, 2]), hosts)
    for shards, count in ((3, 100), (11, 300_003)):
        assert reduce_on(pretended, shards, count) == expected(shards, count), (shards, count)
    pretended.close()

    # many under way at once, ended in another order than begun
    import numpy as np
    tree = TreeSum.of(communicator.size, communicator.size)
    arrays = [np.full(600_000 + i, communicator.rank + i, np.float32) for i in range(6)]
    works = [communicator.reduce_tree(tree, a, [], mean=False) for a in arrays]
    for work in works[::-1] if communicator.rank else works:
        work.wait()
    for i, a in enumerate(arrays):
        assert (a == sum(r + i for r in range(communicator.size))).all()
    ddp.destroy_process_group()
    print("same bits")
"""


@pytest.mark.mpi
def test_plain_mpi(mpirun: Callable[..., subprocess.CompletedProcess[str]]) -> None:
    folder = str(Path(__file__).parent)
    script = MPI_SCRIPT.replace("sys.argv[1]", repr(folder))
    done = mpirun(3, script)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("same bits") == 3
