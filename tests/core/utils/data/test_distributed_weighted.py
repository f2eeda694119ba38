"""Weighted draws shared by ranks: one draw for all, anew in each epoch, with the right chances."""

from __future__ import annotations

import numpy as np
import pytest

from allgrad.errors import OptionError
from allgrad.utils.data import DistributedWeightedSampler


def shares(ranks: int, epoch: int, **options: object) -> list[list[int]]:
    samplers = [
        DistributedWeightedSampler([1, 0, 3], 4000, num_replicas=ranks, rank=rank, **options)
        for rank in range(ranks)
    ]
    for sampler in samplers:
        sampler.set_epoch(epoch)
    return [list(sampler) for sampler in samplers]


def test_the_ranks_share_one_draw_whatever_their_number() -> None:
    whole = shares(1, 0)[0]
    for ranks in (2, 3):
        parts = shares(ranks, 0, pad=False)
        for rank, part in enumerate(parts):
            assert part == whole[rank::ranks]
    counts = np.bincount(whole, minlength=3)
    assert counts[1] == 0
    assert 0.7 < counts[2] / 4000 < 0.8  # 3/4, with a standard deviation of 0.007
    assert shares(1, 1)[0] != whole


def test_it_resumes_with_what_is_left_and_refuses_bad_weights() -> None:
    sampler = DistributedWeightedSampler([1, 2, 3, 4], 12, num_replicas=2, rank=1)
    whole = sampler.indices(0).tolist()
    other = DistributedWeightedSampler([1, 2, 3, 4], 12, num_replicas=2, rank=1)
    other.load_state_dict(sampler.state_dict(), done=2)
    assert list(other) == whole[2:]
    with pytest.raises(OptionError, match="finite and >= 0"):
        DistributedWeightedSampler([1, -1], num_replicas=1, rank=0)
