"""What samplers and data sets that serve one of several ranks have in common.

Stage: below the distributed samplers. Ranks are plain integers here; those who do not name theirs
get them through the door `allgrad.distributed`.
"""

from __future__ import annotations

import importlib

import numpy as np

from ...errors import OptionError
from .streams import mix


class Share:
    """One rank's share of the samples of every epoch.

    Attributes:
        num_replicas, rank: which share, of how many.
        seed: the same number on every rank.
        epoch: the coming one, from 0; it counts by itself.
    """

    num_replicas: int
    rank: int
    seed: int
    epoch: int

    def _set_share(self, num_replicas: int | None, rank: int | None, seed: int) -> None:
        """Take rank and number of ranks as given, or from the process group.

        Raises:
            OptionError: no such rank.
            DistributedError: one is missing, and there is no process group.
        """
        if num_replicas is None or rank is None:
            ranks = importlib.import_module("allgrad.distributed")  # see there about doors
            num_replicas = ranks.get_world_size() if num_replicas is None else num_replicas
            rank = ranks.get_rank() if rank is None else rank
        if num_replicas < 1 or not 0 <= rank < num_replicas:
            raise OptionError(
                f"{type(self).__name__}: expected 0 <= rank < num_replicas, came rank={rank}, "
                f"num_replicas={num_replicas}"
            )
        self.num_replicas, self.rank, self.seed = num_replicas, rank, seed
        self.epoch = 0
        self._start = 0  # where the coming epoch begins, after a resume

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch of the next `iter()`; not needed, it counts by itself."""
        if epoch != self.epoch:
            self._start = 0
        self.epoch = epoch

    def epoch_seed(self) -> int:
        """A hash of seed and coming epoch, the same on all ranks; seeds the augmentation."""
        return mix(self.seed, self.epoch)

    def begin_epoch(self) -> tuple[int, int]:
        """Count the epoch. Returns (epoch, start) of the one that begins now."""
        now = self.epoch, self._start
        self.epoch, self._start = self.epoch + 1, 0
        return now

    def _order(self, length: int, epoch: int, shuffle: bool) -> np.ndarray:
        """0, ..., length - 1 in the order of that epoch, the same on all ranks: int64."""
        if not shuffle:
            return np.arange(length)
        return np.random.Generator(np.random.Philox(mix(self.seed, epoch))).permutation(length)
