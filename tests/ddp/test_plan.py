"""Bucket plans: every gradient once, nothing overlaps, caps kept, order kept."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from allgrad.ddp.plan import ALIGNMENT_BYTES, Parameter, plan_buckets, total_bytes

DTYPES = [np.dtype(np.float32), np.dtype(np.float64), np.dtype(np.float16)]
parameters = st.lists(
    st.builds(
        Parameter,
        name=st.text(max_size=3),
        shape=st.lists(st.integers(0, 40), max_size=3).map(tuple),
        dtype=st.sampled_from(DTYPES),
    ),
    min_size=1,
    max_size=30,
)


def sizes(*counts: int) -> list[Parameter]:
    return [Parameter(f"p{i}", (count,), DTYPES[0]) for i, count in enumerate(counts)]


@settings(max_examples=200, deadline=None)
@given(parameters, st.integers(1, 5000), st.integers(1, 5000), st.integers(0, 40), st.randoms())
def test_any_plan(ps: list[Parameter], cap: int, first: int, tail: int, random: object) -> None:
    order = list(range(len(ps)))
    random.shuffle(order)  # type: ignore[attr-defined]
    plans = plan_buckets(ps, order, cap_bytes=cap, first_cap_bytes=first, tail_elements=tail)
    assert sorted(s.index for plan in plans for s in plan.slots) == list(range(len(ps)))
    end = 0
    for number, plan in enumerate(plans):
        assert plan.offset_bytes == end
        assert plan.size_bytes % ALIGNMENT_BYTES == 0
        end += plan.size_bytes
        used = 0
        for slot in plan.slots:
            assert ps[slot.index].dtype == plan.dtype
            assert slot.offset_bytes % ALIGNMENT_BYTES == 0
            assert slot.offset_bytes >= used
            used = slot.offset_bytes + ps[slot.index].size_bytes
        is_last = number == len(plans) - 1
        reserved = tail * plan.dtype.itemsize if is_last else 0
        assert used + reserved <= plan.size_bytes
        if len(plan.slots) > 1:
            limit = min(first, cap) if number == 0 else cap
            assert plan.slots[-1].offset_bytes < max(limit, ALIGNMENT_BYTES)
    assert total_bytes(plans) == end
    for dtype in DTYPES:  # within a dtype, gradients keep the order in which they become ready
        listed = [s.index for p in plans if p.dtype == dtype for s in p.slots]
        assert listed == [i for i in order if ps[i].dtype == dtype]


def test_default_order_is_the_reverse_of_registration() -> None:
    plans = plan_buckets(sizes(16, 16, 16), cap_bytes=128, first_cap_bytes=64)
    assert [[s.index for s in plan.slots] for plan in plans] == [[2], [1, 0]]


def test_the_gradient_that_fills_a_bucket_goes_into_it() -> None:
    """As in PyTorch: small gradients before a large one do not wait, nor travel alone."""
    plans = plan_buckets(sizes(16, 1000, 16), cap_bytes=256, first_cap_bytes=256)
    assert [[s.index for s in plan.slots] for plan in plans] == [[2, 1], [0]]
    assert plans[0].size_bytes == 64 + 4032


def test_tail_follows_the_last_bucket() -> None:
    (plan,) = plan_buckets(sizes(16), tail_elements=3)
    assert plan.size_bytes == 128


def test_same_bytes_whatever_the_order() -> None:
    ps = sizes(3, 500, 17, 64, 9)
    a = plan_buckets(ps, cap_bytes=256, tail_elements=1)
    b = plan_buckets(ps, [4, 0, 2, 1, 3], cap_bytes=256, tail_elements=1)
    assert total_bytes(a) == total_bytes(b)


def test_a_wrong_order_is_refused() -> None:
    with pytest.raises(ValueError, match="permutation of 0 to 1, got"):
        plan_buckets(sizes(1, 1), [0, 0])
