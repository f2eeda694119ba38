"""One step on N ranks, simulated: the reducer's buckets, in its order, over a network.

Pure functions. May import: `profile`, `network`, `plan`, `tail`.

Note [Simulated step]
    All ranks compute alike, so one of them is simulated, on its own clock. After every op of
    backward it counts the ready gradients into the buckets that `plan_buckets` cuts, launches full
    ones in their order once the step header has come, and looks at what is under way, as the
    reducer does. A collective is cut into pieces (`PIECE_BYTES`), of which a few are under way; a
    piece travels in rounds. A round occupies the link for bytes / bandwidth, one after the other in
    order of start, arrives a latency later, and the next round of its piece starts when the rank
    has taken it in: in looks between ops, and during long ones by the thread that calls MPI
    meanwhile (``communicators/mpi_background.py``), which starts no piece. A look takes so much and
    not more (TCP: what one read of a socket brings). Every look and every byte also takes this
    core's time, which delays what it computes.

    Rounds over H hosts, by the usual algorithms: two hosts send each other all (as
    ``communicators/mpi_pair.py``); more halve what is left log2 H times and gather it in as many
    rounds (Rabenseifner), or send everything log2 H times where it is small. Hosts with several
    ranks add up in shared memory before, and meet there again afterwards, so one array per host
    travels (Note [Hierarchical all-reduce]).
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from allgrad.ddp.plan import Parameter, default_cap, plan_buckets
from allgrad.ddp.prediction.network import HostCosts, Network
from allgrad.ddp.prediction.profile import Profile
from allgrad.ddp.tail import Tail

PIECE_BYTES = 2 << 20  # as in communicators/mpi.py
_UNDER_WAY = 4
_SMALL_BYTES = 2048  # MPICH sends the whole array in every round up to here
_HEADER_BYTES = 64  # per rank
_PATIENCE_S, _PERIOD_S = 1e-3, 2.5e-4  # of the thread, as in communicators/mpi_background.py
_WAIT_S = 1e-4  # between two simulated looks of a rank that waits


@dataclass(frozen=True)
class Cluster:
    """Where the ranks run.

    Attributes:
        hosts, ranks_per_host: how many.
        network: between the hosts.
        bucket_cap_bytes: None: that of the wrapper.
        hierarchical: whether the ranks of a host add up in shared memory first; otherwise MPI's
            all-reduce runs over all ranks, host after host.
    """

    hosts: int
    ranks_per_host: int
    network: Network
    bucket_cap_bytes: int | None = None
    hierarchical: bool = True

    @property
    def ranks(self) -> int:
        """In all."""
        return self.hosts * self.ranks_per_host


@dataclass(frozen=True)
class Prediction:
    """A step on a cluster; seconds.

    Attributes:
        cluster: the cluster.
        compute_s: of a rank alone.
        step_s: with all communication, ranks alike.
        slowest_s: what a step takes longer because it waits for the slowest rank, if the times of
            ranks vary as the recorded ones.
        wire_s: during which the link carries bytes.
        exposed_s: from the end of backward until all gradients are there.
        work_s: of this core, for communication during backward.
        buckets: bytes of each.
    """

    cluster: Cluster
    compute_s: float
    step_s: float
    slowest_s: float
    wire_s: float
    exposed_s: float
    work_s: float
    buckets: tuple[int, ...]

    @property
    def efficiency(self) -> float:
        """Work per rank and time, compared with a rank alone, with as much work per rank."""
        return self.compute_s / self.step_s

    @property
    def efficiency_of_slowest(self) -> float:
        """The same with `slowest_s`."""
        return self.compute_s / (self.step_s + self.slowest_s)

    @property
    def hidden_share(self) -> float:
        """Of the time that communication takes of the wire, what backward hides."""
        return max(0.0, 1 - self.exposed_s / self.wire_s) if self.wire_s else 1.0


@dataclass
class Round:
    """One exchange of a piece.

    Attributes:
        wire_bytes: that the busiest link carries in one direction.
        start_s, end_s: time of this core when it starts, and when it has arrived.
    """

    wire_bytes: float
    start_s: float = 0.0
    end_s: float = 0.0


def predict(profile: Profile, cluster: Cluster) -> Prediction:
    """What a step of this profile takes there."""
    if cluster.ranks == 1:
        whole = profile.compute_s
        return Prediction(cluster, whole, whole, 0.0, 0.0, 0.0, 0.0, ())
    buckets = _buckets(profile, cluster)
    rank = _Rank(profile, cluster, buckets)
    rank.run()
    return Prediction(
        cluster,
        profile.compute_s,
        rank.now,
        profile.slowest_of(cluster.ranks),
        rank.wire_s,
        rank.exposed_s,
        rank.work_s,
        tuple(size for size, _ in buckets),
    )


def _buckets(profile: Profile, cluster: Cluster) -> list[tuple[int, int]]:
    """Per bucket, its bytes and the op of backward after which it is full."""
    gradients = profile.gradients
    specs = [
        Parameter(g.name, (g.size_bytes // np.dtype(g.dtype).itemsize,), np.dtype(g.dtype))
        for g in gradients
    ]
    cap = cluster.bucket_cap_bytes
    if cap is None:
        cap = default_cap(profile.gradient_bytes, has_wire=cluster.hosts > 1)
    order = range(len(gradients))
    plans = plan_buckets(specs, order, cap_bytes=cap, tail_elements=Tail.elements(len(specs)))
    return [(p.size_bytes, max(gradients[slot.index].node for slot in p.slots)) for p in plans]


def rounds_of(cluster: Cluster, array_bytes: int) -> list[Round]:
    """The rounds of one all-reduce; see Note [Simulated step]."""
    costs, hosts = cluster.network.costs, cluster.hosts
    if hosts > 1 and cluster.ranks_per_host > 1 and not cluster.hierarchical:
        return _flat(cluster, array_bytes)
    between = [
        Round(size, size * costs.byte_s, size * costs.byte_s)
        for size in _between(hosts, array_bytes)
    ]
    if cluster.ranks_per_host == 1:
        return between
    inside = Round(0, array_bytes * costs.inside_byte_s)
    if hosts == 1:
        return [inside]
    return [inside, *between, Round(0)]


def _between(hosts: int, array_bytes: int) -> list[float]:
    """What each round sends."""
    if hosts <= 1:
        return []
    if hosts == 2:
        return [array_bytes]
    steps = math.ceil(math.log2(hosts))
    if array_bytes <= _SMALL_BYTES:
        return [array_bytes] * steps
    halves = [array_bytes / 2**k for k in range(1, steps + 1)]
    scale = (hosts - 1) / hosts * array_bytes / sum(halves)  # exact also if not a power of two
    halves = [half * scale for half in halves]
    return [*halves, *reversed(halves)]


def _flat(cluster: Cluster, array_bytes: int) -> list[Round]:
    """Over all ranks: partners in the first rounds are neighbours, which share a host.

    In the others all ranks of a host send through its link at once.
    """
    costs, per_host = cluster.network.costs, cluster.ranks_per_host
    rounds = []
    for number, size in enumerate(_between(cluster.ranks, array_bytes)):
        steps = math.ceil(math.log2(cluster.ranks))
        step = min(number, 2 * steps - 1 - number)  # there and back
        byte_s = size * (costs.byte_s if 2**step >= per_host else costs.inside_byte_s)
        rounds.append(Round(size * per_host if 2**step >= per_host else 0.0, byte_s, byte_s))
    return rounds


def broadcast_rounds(cluster: Cluster, array_bytes: int) -> list[Round]:
    """Of the buffers, which follow the gradients: a binomial tree over all ranks."""
    steps = math.ceil(math.log2(cluster.ranks))
    costs = cluster.network.costs
    local = cluster.hosts == 1
    size = 0 if local else array_bytes
    byte_s = costs.inside_byte_s if local else costs.byte_s
    return [Round(size, array_bytes * byte_s) for _ in range(1 if local else steps)]


@dataclass
class _Piece:
    """A part of a collective on its way: when its first round travels, and what is taken in."""

    rounds: deque[Round]
    begins_s: float = 0.0
    arrives_s: float = 0.0
    taken: float = 0.0

    def take(self, now: float, most: float) -> float:
        """Take in what has arrived, `most` bytes at most; return how many they were."""
        size = self.rounds[0].wire_bytes
        if now >= self.arrives_s:
            there = size
        else:
            there = size * max(0.0, now - self.begins_s) / (self.arrives_s - self.begins_s)
        taken = max(0.0, min(most, there - self.taken))
        self.taken += taken
        return taken

    def complete(self, now: float) -> bool:
        """Whether all of the round is there and taken in."""
        return now >= self.arrives_s and self.taken >= self.rounds[0].wire_bytes * (1 - 1e-9)


@dataclass
class _Collective:
    """Pieces that wait, and those under way."""

    waiting: deque[list[Round]]
    under_way: list[_Piece] = field(default_factory=list)

    @property
    def done(self) -> bool:
        return not self.waiting and not self.under_way


class _Rank:
    """One rank and its link, going through a step."""

    def __init__(
        self, profile: Profile, cluster: Cluster, buckets: Sequence[tuple[int, int]]
    ) -> None:
        self._profile, self._cluster, self._buckets = profile, cluster, buckets
        self._costs: HostCosts = cluster.network.costs
        self._link = cluster.network.link
        self.now = self.wire_s = self.exposed_s = self.work_s = 0.0
        self._free_at = 0.0  # of the link
        self._budget = 0.0  # of the look under way
        self._queue: deque[_Collective] = deque()
        self._header: _Collective | None = None
        self._next = 0

    def run(self) -> None:
        """The whole step; `now` is its length afterwards."""
        profile = self._profile
        first = min(gradient.node for gradient in profile.gradients)
        looks = {bucket_node for _, bucket_node in self._buckets}
        self.now = profile.before_s
        for node, seconds in enumerate(profile.nodes_s):
            begin = self.now + seconds
            self._compute(seconds)
            if node == first:
                self._header = self._issue([rounds_of(self._cluster, self._header_bytes())])
            if node in looks:
                self._push(node)
            self._push(node)
            self.work_s += self.now - begin
        self.now += profile.rest_s
        end = self.now
        while self._next < len(self._buckets) or self._queue:
            self._push(len(profile.nodes_s))
            if self._queue:  # looks follow each other; fewer are simulated
                left_s = max(0.0, self._next_arrival() - self.now)
                self.now += min(left_s, max(_WAIT_S, left_s / 20))
        self.exposed_s = self.now - end
        self.now += profile.after_s

    def _compute(self, seconds: float) -> None:
        """An op; when it is long, the thread looks at what is under way."""
        under_way = [piece for collective in self._queue for piece in collective.under_way]
        left_s = seconds - _PATIENCE_S
        while under_way and left_s > 0:
            self.now += seconds - left_s
            seconds = left_s
            self.now += self._costs.poll_s
            self._budget = self._costs.look_bytes
            for piece in under_way:
                while piece.rounds and self._take_in(piece):
                    piece.rounds.popleft()
                    self._start(piece)
            under_way = [piece for piece in under_way if piece.rounds]
            left_s = seconds - _PERIOD_S
        self.now += seconds

    def _header_bytes(self) -> int:
        return _HEADER_BYTES * self._cluster.ranks

    def _push(self, node: int) -> None:
        """Launch what is full by this op, and look at what is under way."""
        if self._header is not None and not self._header.done:
            self._look()
        if self._header is not None and self._header.done:
            while self._next < len(self._buckets) and self._buckets[self._next][1] <= node:
                self._launch(self._buckets[self._next][0])
        if self._queue:
            self._look()

    def _launch(self, size: int) -> None:
        self._next += 1
        cuts = [min(PIECE_BYTES, size - at) for at in range(0, size, PIECE_BYTES)]
        if self._cluster.ranks_per_host > 1 and self._cluster.hierarchical:
            cuts = [size]  # its stages are those of the whole bucket
        self._issue([rounds_of(self._cluster, cut) for cut in cuts])
        if self._next == len(self._buckets) and self._profile.buffer_bytes:
            self._issue([broadcast_rounds(self._cluster, self._profile.buffer_bytes)])

    def _issue(self, pieces: Sequence[list[Round]]) -> _Collective:
        self.now += self._costs.launch_s
        collective = _Collective(deque(pieces))
        self._queue.append(collective)
        self._look()
        return collective

    def _look(self) -> None:
        """Go on with all that has arrived by now, in order of issue."""
        self.now += self._costs.poll_s
        self._budget = self._costs.look_bytes
        for collective in self._queue:
            self._go_on(collective)
            if collective.waiting:
                break  # a later one starts when all pieces of this one have
        while self._queue and self._queue[0].done:
            self._queue.popleft()

    def _go_on(self, collective: _Collective) -> None:
        left = []
        for piece in collective.under_way:
            while piece.rounds and self._take_in(piece):
                piece.rounds.popleft()
                self._start(piece)
            if piece.rounds:
                left.append(piece)
        collective.under_way = left
        while collective.waiting and len(collective.under_way) < _UNDER_WAY:
            piece = _Piece(deque(collective.waiting.popleft()))
            self._start(piece)
            collective.under_way.append(piece)

    def _take_in(self, piece: _Piece) -> bool:
        """Take in what has arrived of a round; whether that was the last of it."""
        taken = piece.take(self.now, self._budget)
        self._budget -= taken
        one = piece.rounds[0]
        if taken:
            self.now += one.end_s * taken / one.wire_bytes
        return piece.complete(self.now)

    def _start(self, piece: _Piece) -> None:
        """Start the first round that is left of the piece."""
        if not piece.rounds:
            return
        one = piece.rounds[0]
        self.now += one.start_s
        piece.taken = 0.0
        if not one.wire_bytes:
            self.now += one.end_s
            piece.arrives_s = self.now
            return
        seconds = one.wire_bytes / self._link.bandwidth_bytes_per_s
        piece.begins_s = max(self.now, self._free_at)
        self._free_at = piece.begins_s + seconds
        self.wire_s += seconds
        piece.arrives_s = self._free_at + self._link.latency_s

    def _next_arrival(self) -> float:
        return min(
            (p.arrives_s for collective in self._queue for p in collective.under_way),
            default=self.now,
        )
