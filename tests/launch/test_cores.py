"""Dividing cores among ranks."""

from __future__ import annotations

import os

import pytest

from allgrad.launch import cores


def test_available_cores_are_those_of_the_affinity_mask():
    mask = os.sched_getaffinity(0)
    assert set(cores.available_cores()) == mask
    try:
        os.sched_setaffinity(0, {min(mask)})
        assert cores.available_cores() == (min(mask),)
    finally:
        os.sched_setaffinity(0, mask)


@pytest.mark.parametrize("count", [1, 2, 3, 8, 64])
@pytest.mark.parametrize("nproc", [1, 2, 3, 8])
def test_shares(count, nproc):
    threads = cores.threads_per_rank(count, nproc)
    assert threads >= 1
    mask = tuple(range(10, 10 + count))
    places = cores.bind_to_cores(mask, nproc, threads)
    assert len(places) == nproc
    assert all(len(set(place)) == threads and set(place) <= set(mask) for place in places)
    if nproc <= count:
        used = [core for place in places for core in place]
        assert len(used) == len(set(used))
