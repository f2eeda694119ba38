"""Random streams: seeds, positions, one stream per thread."""

from __future__ import annotations

import threading

import numpy as np
import pytest

import allgrad as ag
from allgrad.errors import CheckpointError


def test_a_seed_gives_the_same_numbers() -> None:
    ag.manual_seed(3)
    first = ag.randn(5)
    ag.manual_seed(3)
    assert ag.equal(first, ag.randn(5))
    assert ag.initial_seed() == 3
    ag.manual_seed(4)
    assert not ag.equal(first, ag.randn(5))


@pytest.mark.parametrize("drawn", [0, 1, 3, 7])
def test_a_position_can_be_returned_to(drawn: int) -> None:
    """Also from within Philox's buffer and with half of a 64-bit number used up."""
    ag.manual_seed(0)
    ag.rand(drawn)  # float32: half a number each
    state = ag.get_rng_state()
    expected = ag.rand(9), ag.randint(10, (4,)), ag.randn(3)
    ag.set_rng_state(state)
    for was, now in zip(expected, (ag.rand(9), ag.randint(10, (4,)), ag.randn(3)), strict=True):
        assert ag.equal(was, now)


def test_a_foreign_state_is_refused() -> None:
    with pytest.raises(CheckpointError, match="get_state"):
        ag.set_rng_state(ag.zeros(8, dtype=ag.uint8))


def test_threads_have_streams_of_their_own() -> None:
    drawn: dict[int, np.ndarray] = {}

    def rank(number: int) -> None:
        ag.manual_seed(number)
        drawn[number] = ag.rand(1000).numpy()

    threads = [threading.Thread(target=rank, args=(n,)) for n in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join(30)
    for number, values in drawn.items():
        ag.manual_seed(number)
        np.testing.assert_array_equal(values, ag.rand(1000).numpy())


def test_generators_are_independent_of_the_default() -> None:
    ag.manual_seed(0)
    expected = ag.rand(3)
    ag.manual_seed(0)
    own = ag.Generator(5)
    ag.rand(10, generator=own)
    assert ag.equal(expected, ag.rand(3))
    assert own.initial_seed() == 5
