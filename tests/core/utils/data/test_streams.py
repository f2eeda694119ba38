"""Random numbers of samples: one by one and in batches they are the same."""

from __future__ import annotations

import random

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

import allgrad as ag
from allgrad.random import default_generator
from allgrad.utils.data.streams import (
    BatchDraws,
    GeneratorDraws,
    SampleDraws,
    all_streams,
    current,
    mix,
    sample_keys,
    sample_stream,
)

keys = st.lists(st.integers(0, 2**64 - 1), min_size=1, max_size=6)


@given(keys=keys, low=st.integers(-5, 5), span=st.integers(1, 2**31))
def test_batch_and_single_draws_agree(keys: list[int], low: int, span: int) -> None:
    batch = BatchDraws(np.array(keys, np.uint64))
    singles = [SampleDraws(k) for k in keys]
    for _ in range(2):
        assert batch.uniform().tolist() == [s.uniform() for s in singles]
        integers = batch.integer(low, low + span).tolist()
        assert integers == [s.integer(low, low + span) for s in singles]
        assert all(low <= i < low + span for i in integers)
    assert batch.state() == [s.state() for s in singles]
    assert batch.take(np.array([0])).uniform()[0] == singles[0].uniform()


def test_draws_look_uniform_and_samples_independent() -> None:
    draws = BatchDraws(sample_keys(mix(1), np.arange(20000)))
    first, second = draws.uniform(), draws.uniform()
    for values in (first, second):
        assert abs(values.mean() - 0.5) < 0.01
        assert abs(values.var() - 1 / 12) < 0.003
    assert abs(np.corrcoef(first, second)[0, 1]) < 0.03
    assert abs(np.corrcoef(first[:-1], first[1:])[0, 1]) < 0.03
    counts = np.bincount(draws.integer(0, 9), minlength=9)
    assert counts.min() > 2000


@given(st.lists(st.integers(-(2**200), 2**200), min_size=1, max_size=3))
def test_mix_is_a_64_bit_number(parts: list[int]) -> None:
    assert 0 <= mix(*parts) < 2**64


def test_outside_a_loader_the_default_generator_is_used() -> None:
    assert isinstance(current(), GeneratorDraws)
    ag.manual_seed(3)
    first = (current().uniform(), current().integer(0, 10**6))
    ag.manual_seed(3)
    assert first == (current().uniform(), current().integer(0, 10**6))
    with sample_stream(SampleDraws(1)):
        assert isinstance(current(), SampleDraws)
    assert isinstance(current(), GeneratorDraws)


def test_all_streams_are_seeded_and_put_back() -> None:
    def three() -> list[float]:
        return [random.random(), float(np.random.rand()), default_generator().numpy.random()]

    random.seed(1)
    np.random.seed(2)
    ag.manual_seed(3)
    expected = three()
    random.seed(1)
    np.random.seed(2)
    ag.manual_seed(3)
    with all_streams(9):
        inside = three()
    with all_streams(9):
        assert three() == inside
        # even after these calls the states outside are the old ones
    assert three() == expected
