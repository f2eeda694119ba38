"""All-reduce over several hosts: shared memory inside of each, another communicator between them.

Stage of the flow: a composition of communicators. May import: numpy, `base`.

Note [Hierarchical all-reduce]
    With S ranks on the smallest host, the array is cut into S shares. Rank k of each host (k < S)
    adds up share k over the ranks of its host, then the ranks k of all hosts add up theirs, S
    streams side by side, and each writes its result to all ranks of its host. So between hosts
    travels one array per host instead of one per rank. Each of the three stages has a communicator
    of its own, in which operations keep the order in which the all-reduces were issued: so they may
    be under way at once, whatever arrives first. Sums over a tree (reproducible mode) take the same
    way where the shards of each host make up a node of the tree, so that a host can add up its own
    without a look at the others'. Everything else goes by `flat`, over all ranks.
"""

from __future__ import annotations

import itertools
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from allgrad.ddp.communicators.base import (
    COMPLETED,
    Array,
    Communicator,
    ReduceOp,
    Work,
    check_array,
    check_reduction,
    scale_to_mean,
)
from allgrad.ddp.communicators.tree import TreeSum, nodes_of, shards_of, steps_within

if TYPE_CHECKING:
    from allgrad.ddp.diagnosis.causes import Finding
    from allgrad.errors import DistributedError

_POLL_S, _SPIN_S, _SLEEP_S = 1.0, 2e-3, 1e-4


class HierarchicalCommunicator(Communicator):
    """The ranks of `flat`, of which some share a host. See Note [Hierarchical all-reduce].

    Construction is collective over `flat`.

    Args:
        flat: all ranks; owned and closed by `close`.
        hosts: the ranks of each host; each rank on one of them.
    """

    has_wire = True

    def __init__(self, flat: Communicator, hosts: Sequence[Sequence[int]]) -> None:
        self.rank, self.size, self.name = flat.rank, flat.size, "hierarchical"
        self.timeout_s = flat.timeout_s
        self._flat = flat
        self.streams = min(len(host) for host in hosts)
        mine = next(list(host) for host in hosts if self.rank in host)
        number = mine.index(self.rank)
        across = [host[number] for host in hosts] if number < self.streams else None
        inner, back = flat.split(mine), flat.split(mine)
        assert inner is not None
        assert back is not None
        self.inner, self.back, self.outer = inner, back, flat.split(across)
        self._queue: deque[_HierarchicalWork] = deque()
        self._hosts = [list(host) for host in hosts]
        self._trees: dict[TreeSum, tuple[TreeSum, TreeSum] | None] = {}

    @property
    def flat(self) -> Communicator:
        """All ranks, whatever their host; its next collective is for what this one's is for."""
        self._flat.note, self._flat.step = self.note, self.step
        return self._flat

    @property
    def parts(self) -> list[Communicator]:
        """The communicators that this one is made of."""
        return [c for c in (self.flat, self.inner, self.back, self.outer) if c is not None]

    def allocate(self, size_bytes: int) -> NDArray[np.uint8]:
        return self.inner.allocate(size_bytes)

    def all_reduce(
        self, array: Array, op: ReduceOp | str = ReduceOp.SUM, async_op: bool = False
    ) -> Work:
        check_array(self, "all_reduce", array, in_place=True)
        op = check_reduction(self, array, op)
        wire = ReduceOp.SUM if op is ReduceOp.AVG else op
        flat = array.reshape(-1)
        shares = self._shares(flat)

        def between(mine: Array) -> Work:
            assert self.outer is not None
            return self.outer.all_reduce(mine, wire, async_op=True)

        return self._issue(
            lambda: self.inner.reduce_parts(flat, shares, wire, async_op=True),
            between,
            _Parts(flat, shares, op is ReduceOp.AVG),
            async_op,
        )

    def reduce_tree(self, tree: TreeSum, array: Array, others: Sequence[Array], mean: bool) -> Work:
        if tree not in self._trees:
            self._trees[tree] = trees_of_hosts(tree, self._hosts, self.rank)
        trees = self._trees[tree]
        if trees is None:
            return _FlatWork(self, self.flat.reduce_tree(tree, array, others, mean))
        inside, outside = trees

        def between(mine: Array) -> Work:
            assert self.outer is not None
            return self.outer.reduce_tree(outside, mine, [], mean) if mine.size else COMPLETED

        return self._issue(
            lambda: self.inner.reduce_tree(
                inside, array, others[: max(inside.counts) - 1], mean=False
            ),
            between,
            _Parts(array, self._shares(array), False),
            True,
        )

    def _shares(self, flat: Array) -> list[tuple[tuple[int, int], ...]]:
        """Which elements each rank of this host sees to; see Note [Hierarchical all-reduce]."""
        line = max(1, 64 // flat.itemsize)
        cuts = [flat.size * k // self.streams // line * line for k in range(self.streams)]
        shares: list[tuple[tuple[int, int], ...]] = [
            ((low, high),) for low, high in itertools.pairwise([*cuts, flat.size])
        ]
        return shares + [()] * (self.inner.size - self.streams)

    def _issue(
        self,
        inside: Callable[[], Work],
        between: Callable[[Array], Work],
        parts: _Parts,
        async_op: bool,
    ) -> Work:
        self.label(self.note, self.step)
        work = _HierarchicalWork(self, parts, inside(), between)
        self._queue.append(work)
        self.progress()
        if not async_op:
            work.wait()
        return work

    def label(self, note: str, step: int) -> None:
        """Let the parts of the stages say what their next collectives are for."""
        for part in (self.inner, self.outer, self.back):
            if part is not None:
                part.note, part.step = note, step

    def progress(self) -> None:
        """Push all all-reduces on, each stage in the order of issue."""
        ahead = _DONE
        for work in self._queue:
            work.push_on(ahead)
            ahead = work.stage
        while self._queue and self._queue[0].stage == _DONE:
            self._queue.popleft()

    def finish(self, last: _HierarchicalWork) -> None:
        """Block until a work is done, those before it first."""
        while last.stage != _DONE:
            self._queue[0].block()
            self.progress()

    # ---- all else goes by `flat` -----------------------------------------------------------

    def _by_flat(self, work: Work, async_op: bool) -> Work:
        mine = _FlatWork(self, work)
        if not async_op:
            mine.wait()
        return mine

    def broadcast(self, array: Array, root: int = 0, async_op: bool = False) -> Work:
        return self._by_flat(self.flat.broadcast(array, root, True), async_op)

    def all_gather_into(self, out: Array, array: Array, async_op: bool = False) -> Work:
        return self._by_flat(self.flat.all_gather_into(out, array, True), async_op)

    def reduce_scatter_into(
        self, out: Array, array: Array, op: ReduceOp | str = ReduceOp.SUM, async_op: bool = False
    ) -> Work:
        return self._by_flat(self.flat.reduce_scatter_into(out, array, op, True), async_op)

    def barrier(self, async_op: bool = False) -> Work:
        return self._by_flat(self.flat.barrier(True), async_op)

    def reduce(
        self, array: Array, root: int, op: ReduceOp | str = ReduceOp.SUM, async_op: bool = False
    ) -> Work:
        return self._by_flat(self.flat.reduce(array, root, op, True), async_op)

    def gather(self, array: Array, out: Array | None, root: int, async_op: bool = False) -> Work:
        return self._by_flat(self.flat.gather(array, out, root, True), async_op)

    def scatter(self, out: Array, rows: Array | None, root: int, async_op: bool = False) -> Work:
        return self._by_flat(self.flat.scatter(out, rows, root, True), async_op)

    def all_to_all(
        self, outputs: Sequence[Array], inputs: Sequence[Array], async_op: bool = False
    ) -> Work:
        return self._by_flat(self.flat.all_to_all(outputs, inputs, True), async_op)

    def isend(self, array: Array, peer: int, tag: int = 0) -> Work:
        return self._by_flat(self.flat.isend(array, peer, tag), True)

    def irecv(self, array: Array, peer: int | None = None, tag: int = 0) -> Work:
        return self._by_flat(self.flat.irecv(array, peer, tag), True)

    def split(self, ranks: Sequence[int] | None) -> Communicator | None:
        return self.flat.split(ranks)

    def now(self) -> float:
        return self.flat.now()

    def alarm(self, finding: Finding) -> DistributedError | None:
        return self.flat.alarm(finding)

    def abort(self, code: int) -> None:
        self.flat.abort(code)

    def leave(self) -> None:
        for part in self.parts:
            part.leave()

    def close(self) -> None:
        while self._queue:
            self.finish(self._queue[-1])
        for part in (self.outer, self.back, self.inner, self.flat):
            if part is not None:
                part.close()


_INSIDE, _BETWEEN, _BACK, _DONE = range(4)  # stages


def trees_of_hosts(
    tree: TreeSum, hosts: Sequence[Sequence[int]], rank: int
) -> tuple[TreeSum, TreeSum] | None:
    """The same sum in two steps: over the ranks of this rank's host, then over the hosts.

    Args:
        tree: over all ranks.
        hosts: the ranks of each host.
        rank: on one of them.

    Returns:
        None where the shards of some host do not make up one node of the tree, or the hosts are
        not in the order of their ranks: then a host cannot add up its own alone.

    Example:
        >>> inside, outside = trees_of_hosts(TreeSum.of(4, 8), [[0, 1], [2, 3]], rank=3)
        >>> inside.counts, outside.counts, outside.shards
        ((1, 1), (1, 1), 8)
        >>> trees_of_hosts(TreeSum.of(3, 6), [[0, 2], [1]], rank=0) is None
        True
    """
    if [r for host in hosts for r in host] != list(range(tree.size)):
        return None
    whole = []
    for host in hosts:
        shards = [shards_of(r, tree.size, tree.shards) for r in (host[0], host[-1])]
        whole.append(nodes_of(range(shards[0].start, shards[1].stop), tree.shards))
    if any(len(nodes) > 1 for nodes in whole):
        return None
    tops = tuple(nodes[0] for nodes in whole)
    mine = next(number for number, host in enumerate(hosts) if rank in host)
    held = [nodes_of(shards_of(r, tree.size, tree.shards), tree.shards) for r in hosts[mine]]
    low, high = tops[mine]
    inside = TreeSum(
        len(held),
        high - low,
        tuple(len(nodes) for nodes in held),
        steps_within((low, high), tuple(node for nodes in held for node in nodes)),
    )
    steps = steps_within((0, tree.shards), tops)
    return inside, TreeSum(len(hosts), tree.shards, (1,) * len(hosts), steps)


class _Parts(NamedTuple):
    """The array of an all-reduce, and who sees to which of its elements.

    Attributes:
        array: one-dimensional.
        shares: per rank of this host, stretches of elements; one or none.
        mean: whether the sum is to be divided by the number of ranks.
    """

    array: Array
    shares: list[tuple[tuple[int, int], ...]]
    mean: bool


class _HierarchicalWork:
    """One all-reduce on its way through the stages.

    Args:
        c: the communicator.
        parts: of the array.
        inside: the work of the first stage.
        between: starts the second one on this rank's share.
    """

    def __init__(
        self, c: HierarchicalCommunicator, parts: _Parts, inside: Work,
        between: Callable[[Array], Work],
    ) -> None:  # fmt: skip
        self._c, self._parts, self._array, self._between = c, parts, parts.array, between
        self._purpose = (c.note, c.step)  # of all stages, whatever has been issued meanwhile
        self.stage = _INSIDE
        mine = parts.shares[c.inner.rank]
        self._low, self._high = mine[0] if mine else (0, 0)
        self._mine = self._array[self._low : self._high]
        self._gathered: Array | None = None
        self._work: Work = inside

    def push_on(self, ahead: int) -> None:
        """Go on as far as possible without overtaking a work that has come to stage `ahead`."""
        while self.stage < min(ahead, _DONE) and self._work.test():
            self._next()

    def block(self) -> None:
        """Wait for the end of this stage; called on the first work only."""
        self._work.wait()
        self._next()

    def _next(self) -> None:
        c = self._c
        c.label(*self._purpose)
        self.stage += 1
        if self.stage == _BETWEEN:
            if c.outer is not None:
                self._work = self._between(self._mine)
        elif self.stage == _BACK:
            if self._parts.mean:
                scale_to_mean(self._mine, c.size)
            self._give_back()
        elif self._gathered is not None:
            for row, share in zip(self._gathered, self._parts.shares, strict=True):
                for low, high in share:
                    self._array[low:high] = row[: high - low]

    def _give_back(self) -> None:
        """Bring the results to all ranks of the host."""
        c = self._c
        find: Any = getattr(c.inner, "_shared_views", None)
        views = None if find is None else find(self._array)
        if views is not None:
            for number, view in enumerate(views):
                if number != c.inner.rank:
                    view[self._low : self._high] = self._mine
            # all have read what they needed; once all have come here, all is written
            self._work = c.back.barrier(async_op=True)
            return
        shares = self._parts.shares
        width = max((high - low for share in shares for low, high in share), default=0)
        row = np.zeros(width, self._array.dtype)
        row[: self._mine.size] = self._mine
        self._gathered = np.empty((c.inner.size, width), row.dtype)
        self._work = c.back.all_gather_into(self._gathered, row, async_op=True)

    def test(self) -> bool:
        if self.stage != _DONE:
            self._c.progress()
        return self.stage == _DONE

    def wait(self) -> None:
        if not _polled(self.test):
            self._c.finish(self)


class _FlatWork:
    """A work of `flat`, during which the all-reduces go on: other ranks may wait for those."""

    def __init__(self, c: HierarchicalCommunicator, work: Work) -> None:
        self._c, self._work = c, work

    @property
    def source(self) -> int | None:
        """Of a message that has been received: the sender."""
        return getattr(self._work, "source", None)

    def test(self) -> bool:
        self._c.progress()
        return self._work.test()

    def wait(self, timeout_s: float | None = None) -> None:
        if timeout_s is not None:
            inner: Any = self._work
            inner.wait(timeout_s)
        elif not _polled(self.test):
            self._work.wait()  # notices what would keep it from ending


def _polled(test: Any) -> bool:
    """Ask for a while; whether the work was done by then."""
    begin = time.monotonic()
    while not test():
        waited = time.monotonic() - begin
        if waited > _POLL_S:
            return False
        time.sleep(_SLEEP_S if waited > _SPIN_S else 0)
    return True
