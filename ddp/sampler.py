"""The sampler that knows its rank by itself. May import: `process_group`, `allgrad.utils.data`."""

from __future__ import annotations

from collections.abc import Sized

from allgrad.ddp.process_group import default_group
from allgrad.utils import data


class DistributedSampler(data.DistributedSampler):
    """`allgrad.utils.data.DistributedSampler` with rank and number of ranks from the process group.

    Args:
        num_replicas, rank: default: those of `init_process_group`.
        Others: see `allgrad.utils.data.DistributedSampler`; `set_epoch` need not be called.

    Raises:
        DistributedError: no process group, and num_replicas or rank not given.
        OptionError, DatasetError: see the base class.
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
        if num_replicas is None:
            num_replicas = default_group().size
        if rank is None:
            rank = default_group().rank
        super().__init__(dataset, num_replicas, rank, shuffle, seed, drop_last, pad)
