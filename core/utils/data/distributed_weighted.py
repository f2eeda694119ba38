"""Weighted draws that several ranks share.

Stage: a sampler; a pure function of (weights, seed, epoch, rank, number of ranks).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .distributed import DistributedSampler
from .sampler import WeightedRandomSampler
from .streams import mix


class DistributedWeightedSampler(DistributedSampler):
    """The share of one rank of a draw with probabilities proportional to `weights`.

    All ranks make the same draw, anew in every epoch, and each takes every `num_replicas`-th of it.

    Args:
        weights: one number >= 0 per sample of the data set.
        num_samples: draws of all ranks together per epoch; default: one per weight.
        replacement: False draws every sample once at most.
        num_replicas, rank, seed, drop_last, pad: see `DistributedSampler`.

    Raises:
        OptionError: a weight or `num_samples` makes no sense; or see `DistributedSampler`.

    Example:
        >>> shares = [DistributedWeightedSampler([0, 1, 0], 4, True, 2, rank) for rank in (0, 1)]
        >>> [list(share) for share in shares]
        [[1, 1], [1, 1]]
    """

    def __init__(
        self,
        weights: Sequence[float],
        num_samples: int | None = None,
        replacement: bool = True,
        num_replicas: int | None = None,
        rank: int | None = None,
        seed: int = 0,
        drop_last: bool = False,
        pad: bool = True,
    ) -> None:
        count = len(weights) if num_samples is None else num_samples
        checked = WeightedRandomSampler(weights, count, replacement)
        self.probabilities = checked.weights / checked.weights.sum()
        self.replacement = replacement
        super().__init__(range(count), num_replicas, rank, False, seed, drop_last, pad)

    def indices(self, epoch: int) -> np.ndarray:
        """This rank's samples in that epoch: int64 (num_samples,). Changes nothing."""
        random = np.random.Generator(np.random.Philox(mix(self.seed, epoch)))
        count, size = len(self.probabilities), len(self.dataset)
        drawn = random.choice(count, size, self.replacement, self.probabilities)
        return drawn[super().indices(epoch)]
