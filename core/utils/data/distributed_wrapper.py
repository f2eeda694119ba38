"""Any sampler or batch sampler, dealt to several ranks.

Stage: a sampler; a pure function of (the sampler underneath, seed, epoch, rank, number of ranks).
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from typing import Any

from ...errors import CheckpointError, DatasetError
from .sampler import Sampler
from .share import Share
from .streams import HeldStreams, mix


class DistributedSamplerWrapper(Share, Sampler[Any]):
    """The share of one rank of what another sampler yields, indices or lists of indices.

    All ranks run the same sampler, and each takes every `num_replicas`-th item. What the sampler
    draws from the default generator, `random` or `numpy.random` follows `seed` and the epoch, so it
    is the same on all ranks and anew in every epoch; a generator of its own must be seeded equally
    on all ranks. Lists of a batch sampler are the batches of one rank:

        balanced = MyBatchSampler(labels, batch_size=64)
        DataLoader(data, batch_sampler=DistributedSamplerWrapper(balanced))

    A sampler with a length is run as a whole when an epoch begins. One without is run as the epoch
    goes on and may be endless; there, only the default generator is seeded.

    Args:
        sampler: any iterable that can be iterated over once per epoch.
        num_replicas, rank: default: those of the process group.
        seed: the same number on every rank.
        drop_last: leave out the remainder so that all ranks get equally many items.
        pad: if not `drop_last`: repeat the first items so that all ranks get equally many
            (default). False repeats none: numbers differ by one at most.
        split_batches: every rank gets its share of every list, not every `num_replicas`-th list:
            the sampler then says what all ranks together do in one step. `drop_last` and `pad`
            mean the items of each list.

    Raises:
        OptionError: rank or num_replicas is out of range.
        DistributedError: one is missing, and there is no process group.
        DatasetError: while iterating: with `split_batches`, a list is too short for all ranks.

    Example:
        >>> [list(DistributedSamplerWrapper([7, 3, 5], 2, rank)) for rank in (0, 1)]
        [[7, 5], [3, 7]]
        >>> pairs = [[0, 1], [2, 3]]
        >>> [list(DistributedSamplerWrapper(pairs, 2, rank)) for rank in (0, 1)]
        [[[0, 1]], [[2, 3]]]
        >>> [list(DistributedSamplerWrapper(pairs, 2, r, split_batches=True)) for r in (0, 1)]
        [[[0], [2]], [[1], [3]]]
    """

    def __init__(
        self,
        sampler: Iterable[Any],
        num_replicas: int | None = None,
        rank: int | None = None,
        seed: int = 0,
        drop_last: bool = False,
        pad: bool = True,
        split_batches: bool = False,
    ) -> None:
        self._set_share(num_replicas, rank, seed)
        self.sampler: Any = sampler
        self.drop_last = drop_last
        self.pad = pad and not drop_last
        self.split_batches = split_batches

    @property
    def replacement(self) -> bool:
        """Whether an index may come twice in an epoch, as the sampler underneath says."""
        inner = getattr(self.sampler, "sampler", self.sampler)
        return bool(getattr(inner, "replacement", False))

    def __len__(self) -> int:
        """Items of this rank in the next epoch.

        Raises:
            TypeError: the sampler underneath has no length.
        """
        left = len(self.sampler) - self._start
        if self.split_batches:
            return max(0, left)
        if self.pad:
            return max(0, -(-left // self.num_replicas))
        mine = left if self.drop_last else left + self.num_replicas - 1 - self.rank
        return max(0, mine // self.num_replicas)

    def __iter__(self) -> Iterator[Any]:
        # not a generator function: the sampler runs now, in the thread that begins the epoch
        if hasattr(self.sampler, "set_epoch"):
            self.sampler.set_epoch(self.epoch)
        epoch, start = self.begin_epoch()
        sized = hasattr(self.sampler, "__len__")
        seed = mix(self.seed, epoch)
        streams = HeldStreams(seed, seed, process_wide=sized)
        if sized:
            with streams.running():
                items = list(self.sampler)
            return self._dealt(iter(items[start:]))
        with streams.running():
            running = iter(self.sampler)
        return self._dealt(itertools.islice(_inside(streams, running), start, None))

    def _dealt(self, items: Iterator[Any]) -> Iterator[Any]:
        if not self.split_batches:
            return share_of(items, self)
        return (self._part(batch) for batch in items)

    def _part(self, batch: Iterable[Any]) -> list[Any]:
        part = list(share_of(iter(batch), self))
        if not part:
            raise DatasetError(
                f"DistributedSamplerWrapper: a batch of {len(list(batch))} samples leaves rank "
                f"{self.rank} of {self.num_replicas} without one; take larger batches, or pad=True "
                "and drop_last=False"
            )
        return part

    def state_dict(self) -> dict[str, Any]:
        """What the next `iter()` depends on; plain numbers, and the state of the sampler beneath."""
        state = {
            "seed": self.seed,
            "epoch": self.epoch,
            "start": self._start,
            "num_replicas": self.num_replicas,
            "split_batches": self.split_batches,
        }
        if hasattr(self.sampler, "state_dict"):
            state["sampler"] = self.sampler.state_dict()
        return state

    def load_state_dict(self, state: dict[str, Any], done: int = 0) -> None:
        """Return to the state that `state_dict` gave, on any number of ranks.

        Args:
            state: from `state_dict`.
            done: items that each of the ``state["num_replicas"]`` ranks has finished since; the
                coming epoch then holds only what none of them has seen.

        Raises:
            CheckpointError: it was saved with another `split_batches`.
        """
        if state["split_batches"] != self.split_batches:
            raise CheckpointError(
                f"DistributedSamplerWrapper: the state is of split_batches={state['split_batches']}"
                f", this one has {self.split_batches}; resume with the same"
            )
        self.seed, self.epoch = state["seed"], state["epoch"]
        self._start = state["start"] + done * (1 if self.split_batches else state["num_replicas"])
        if "sampler" in state:
            self.sampler.load_state_dict(state["sampler"])


def share_of(items: Iterator[Any], share: Any) -> Iterator[Any]:
    """Every `num_replicas`-th item, from the rank's own on; needs no length.

    Args:
        items: the same on all ranks.
        share: says `num_replicas`, `rank`, `drop_last` and `pad`.

    Example:
        >>> share = DistributedSamplerWrapper([], 3, 2)
        >>> list(share_of(iter("abcd"), share))
        ['c', 'b']
    """
    size, rank = share.num_replicas, share.rank
    first: list[Any] = []
    while group := list(itertools.islice(items, size)):
        first = first or group
        if len(group) < size:
            if share.drop_last:
                return
            if share.pad:
                group = [*group, *itertools.islice(itertools.cycle(first), size - len(group))]
        if rank < len(group):
            yield group[rank]


def _inside(streams: HeldStreams, items: Iterator[Any]) -> Iterator[Any]:
    """The same items; what is drawn to make them comes from the streams."""
    end = object()
    while True:
        with streams.running():
            item = next(items, end)
        if item is end:
            return
        yield item
