"""Which samples one of several ranks visits.

Stage: a sampler, a pure function of (length, seed, epoch, rank, number of ranks).
"""

from __future__ import annotations

from collections.abc import Iterator, Sized
from typing import Any

import numpy as np

from ...errors import DatasetError
from .dataset import length_of
from .sampler import Sampler
from .share import Share


class DistributedSampler(Share, Sampler[int]):
    """The share of one rank: every `num_replicas`-th sample of an order all ranks agree on.

    Differences from PyTorch: the epoch advances by itself at every `iter()`, so a forgotten
    `set_epoch` no longer repeats the same order; and `pad=False` visits every sample exactly once
    over all ranks, which is what an evaluation needs.

    Args:
        dataset: the data set; only its length is used.
        num_replicas: number of ranks; default: that of the process group.
        rank: this rank, 0 <= rank < num_replicas; default: that of the process group.
        shuffle: a new order every epoch (default), or 0, 1, 2, ...
        seed: the same number on every rank.
        drop_last: leave out the remainder so that all ranks get equally many.
        pad: if not `drop_last`: repeat the first samples so that all ranks get equally many
            (default, as PyTorch). False repeats none: lengths differ by one at most, and with
            fewer samples than ranks some ranks get nothing.

    Raises:
        OptionError: rank or num_replicas is out of range.
        DistributedError: one is missing, and there is no process group.
        DatasetError: the data set is empty, or `drop_last` would leave every rank with nothing.

    >>> [list(DistributedSampler(range(5), 2, r, shuffle=False)) for r in (0, 1)]
    [[0, 2, 4], [1, 3, 0]]
    >>> [list(DistributedSampler(range(5), 2, r, shuffle=False, pad=False)) for r in (0, 1)]
    [[0, 2, 4], [1, 3]]
    """

    def __init__(
        self,
        dataset: Sized,
        num_replicas: int | None = None,
        rank: int | None = None,
        shuffle: bool = True,
        seed: int = 0,
        drop_last: bool = False,
        pad: bool = True,
    ) -> None:
        self._set_share(num_replicas, rank, seed)
        self.dataset = dataset
        self.shuffle = shuffle
        self.drop_last = drop_last
        self.pad = pad and not drop_last
        length = length_of(dataset, "DistributedSampler")
        if drop_last and length < self.num_replicas:
            raise DatasetError(
                f"DistributedSampler: {self.num_replicas} ranks share {length} samples with "
                "drop_last=True, so every rank would get none; use fewer ranks or drop_last=False"
            )

    @property
    def num_samples(self) -> int:
        """Samples of this rank in the next epoch."""
        return self._share(len(self.dataset) - self._start)

    @property
    def total_size(self) -> int:
        """Samples of all ranks together in the next epoch, repeated ones included."""
        left = len(self.dataset) - self._start
        return self._share(left) * self.num_replicas if self.pad or self.drop_last else left

    def _share(self, left: int) -> int:
        if self.drop_last:
            return left // self.num_replicas
        if self.pad:
            return -(-left // self.num_replicas)
        return max(0, -(-(left - self.rank) // self.num_replicas))

    def __len__(self) -> int:
        return self.num_samples

    def __iter__(self) -> Iterator[int]:
        indices = self.indices(self.epoch)
        self.begin_epoch()
        return iter(indices.tolist())

    def indices(self, epoch: int) -> np.ndarray:
        """This rank's samples in that epoch: int64 (num_samples,). Changes nothing."""
        order = self._order(len(self.dataset), epoch, self.shuffle)[self._start :]
        if self.pad or self.drop_last:
            order = np.resize(order, self.total_size)  # repeats from the front, or cuts
        return order[self.rank :: self.num_replicas]

    def state_dict(self) -> dict[str, Any]:
        """What the next `iter()` depends on; plain numbers."""
        return {
            "seed": self.seed,
            "epoch": self.epoch,
            "start": self._start,
            "num_replicas": self.num_replicas,
        }

    def load_state_dict(self, state: dict[str, Any], done: int = 0) -> None:
        """Return to the state that `state_dict` gave, on any number of ranks.

        Args:
            state: from `state_dict`.
            done: samples that each of the ``state["num_replicas"]`` ranks has finished since;
                the coming epoch then holds only the samples that none of them has seen.
        """
        self.seed = state["seed"]
        self.epoch = state["epoch"]
        self._start = min(state["start"] + done * state["num_replicas"], len(self.dataset))
