"""Parts of a wrapped model that are unused, frozen, thawed, added or replaced."""

from __future__ import annotations

import logging
from typing import Any

import pytest
from support.parts import Parts, alone, assert_same, grads, x_of
from support.ranks import on_ranks

import allgrad as ag
from allgrad import ddp, nn
from allgrad.ddp import DistributedDataParallel
from allgrad.errors import DistributedError

# ---- unused ----------------------------------------------------------------------------------


@pytest.mark.parametrize("as_view", [True, False])
def test_unused_on_one_rank_counts_as_zero_and_on_all_stays_none(as_view: bool) -> None:
    def body() -> list[Any]:
        rank = ddp.get_rank()
        model = DistributedDataParallel(
            Parts(), bucket_cap_mb=1e-5, gradient_as_bucket_view=as_view
        )
        for _ in range(4):
            model.zero_grad()
            model(x_of(rank), "ab" if rank == 0 else "a").backward()
        return grads(model.module)

    first, second = Parts(), Parts()
    first(x_of(0), "ab").backward()
    second(x_of(1), "a").backward()
    one, two = grads(first), grads(second)
    expected = [(a + (0 if b is None else b)) / 2 for a, b in zip(one[:4], two[:4], strict=True)]
    for got in on_ranks(body):
        assert_same(got, [*expected, None, None])


def test_it_is_reported_once_by_name_and_rank(caplog: pytest.LogCaptureFixture) -> None:
    def body() -> None:
        rank = ddp.get_rank()
        model = DistributedDataParallel(Parts())
        for _ in range(3):
            model(x_of(rank), "ab" if rank == 1 else "a").backward()

    with caplog.at_level(logging.WARNING, "allgrad.ddp"):
        on_ranks(body)
    (record,) = [r for r in caplog.records if r.name == "allgrad.ddp"]
    text = record.getMessage()
    assert "step 1: no gradient arrived for rank 0: 'b.weight', 'b.bias', 'c.weight'" in text
    assert "rank 1: 'c.weight', 'c.bias'" in text


@pytest.mark.parametrize(
    "options", [{"unused_parameters": "ignore"}, {"find_unused_parameters": 1}]
)
def test_the_report_can_be_silenced(options: Any, caplog: pytest.LogCaptureFixture) -> None:
    def body() -> None:
        model = DistributedDataParallel(Parts(), **options)
        model(x_of(0), "a").backward()

    with caplog.at_level(logging.WARNING, "allgrad.ddp"):
        on_ranks(body)
    assert not [r for r in caplog.records if r.name == "allgrad.ddp"]


def test_parameters_that_are_unused_later_go_to_the_end() -> None:
    """So that they delay no other bucket: it is full, and launched, while backward runs."""

    def body() -> None:
        model = DistributedDataParallel(Parts(), bucket_cap_mb=1e-5)
        for parts in ("abc", "abc", "ab", "ab", "ab"):
            model(x_of(ddp.get_rank()), parts).backward()
        order = [name for bucket in model._reducer.buckets for name in bucket.names]
        assert {name[0] for name in order[:4]} == {"a", "b"}
        assert {name[0] for name in order[4:]} == {"c"}

    on_ranks(body)


def test_a_static_graph_may_not_change() -> None:
    def body() -> None:
        rank = ddp.get_rank()
        model = DistributedDataParallel(Parts(), static_graph=True)
        for _ in range(2):
            model(x_of(rank), "ab").backward()
        with pytest.raises(DistributedError) as caught:
            model(x_of(rank), "abc" if rank == 1 else "ab").backward()
        assert "static_graph=True, but step 3 uses other parameters" in str(caught.value)
        assert "rank 1: 'c.weight' used now, 'c.bias' used now." in str(caught.value)
        assert "rank 0" not in str(caught.value).partition("]")[2]

    on_ranks(body)


# ---- frozen, thawed, added -------------------------------------------------------------------


def test_a_part_that_is_thawed_later_is_averaged_from_then_on() -> None:
    def body() -> tuple[list[Any], list[Any]]:
        rank = ddp.get_rank()
        inner = Parts()
        inner.b.requires_grad_(False)
        model = DistributedDataParallel(inner, bucket_cap_mb=1e-5)
        for _ in range(2):
            model.zero_grad()
            model(x_of(rank)).backward()
        before = grads(inner)
        inner.b.requires_grad_(True)
        for _ in range(2):
            model.zero_grad()
            model(x_of(rank)).backward()
        return before, grads(inner)

    expected = alone("abc", 2, lambda m: m.b.requires_grad_(False)), alone("abc", 2)
    for before, after in on_ranks(body):
        assert_same(before, expected[0])
        assert_same(after, expected[1])


def test_a_part_that_is_frozen_later_gets_no_gradient(caplog: pytest.LogCaptureFixture) -> None:
    def body() -> list[Any]:
        model = DistributedDataParallel(Parts(), bucket_cap_mb=1e-5)
        model(x_of(ddp.get_rank())).backward()
        model.module.c.requires_grad_(False)
        for _ in range(2):
            model.zero_grad()
            model(x_of(ddp.get_rank())).backward()
        return grads(model.module)

    with caplog.at_level(logging.WARNING, "allgrad.ddp"):
        results = on_ranks(body)
    for got in results:
        assert_same(got, alone("abc", 2, lambda m: m.c.requires_grad_(False)))
    assert not caplog.records  # it lacks nothing


def test_a_layer_that_is_added_or_replaced_later_is_averaged() -> None:
    def prepare(model: Any) -> None:
        ag.manual_seed(5)
        model.c = nn.Linear(6, 6)
        model.d = nn.Linear(6, 6)

    def body() -> list[Any]:
        rank = ddp.get_rank()
        model = DistributedDataParallel(Parts(), bucket_cap_mb=1e-5)
        model(x_of(rank)).backward()
        prepare(model.module)
        for _ in range(2):
            model.zero_grad()
            model(x_of(rank), "abcd").backward()
        return grads(model.module)

    for got in on_ranks(body):
        assert_same(got, alone("abcd", 2, prepare))


def test_a_part_that_is_thawed_on_one_rank_only_is_named() -> None:
    def body() -> None:
        rank = ddp.get_rank()
        inner = Parts()
        inner.b.requires_grad_(False)
        model = DistributedDataParallel(inner)
        model(x_of(rank)).backward()
        inner.b.weight.requires_grad_(rank == 1)
        with pytest.raises(DistributedError) as caught:
            model(x_of(rank)).backward()
        assert "ranks have different trainable parameters in Parts" in str(caught.value)
        assert "rank 1: 'b.weight' of shape (6, 6)" in str(caught.value)

    on_ranks(body)


def test_a_part_that_is_frozen_on_one_rank_only_is_named() -> None:
    def body() -> None:
        rank = ddp.get_rank()
        model = DistributedDataParallel(Parts())
        model(x_of(rank)).backward()
        model.module.c.bias.requires_grad_(rank == 1)
        with pytest.raises(DistributedError, match=r"'c.bias' .*requires_grad=False"):
            model(x_of(rank)).backward()

    on_ranks(body)
