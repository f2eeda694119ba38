"""What users do with wrapped models: parts unused, frozen, thawed, shared, several at once."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import allgrad as ag
from allgrad import ddp, nn, optim
from allgrad.ddp import DistributedDataParallel
from allgrad.errors import DistributedError, OptionError


def on_ranks(function: Callable[[], Any], size: int = 2) -> list[Any]:
    def body() -> Any:
        ddp.init_process_group(timeout=20)
        result = function()
        ddp.destroy_process_group()
        return result

    return ddp.run_ranks(body, size)


def x_of(rank: int, count: int = 4) -> Any:
    rng = np.random.default_rng(rank)
    return ag.tensor(rng.standard_normal((count, 6)).astype(np.float32))


def whole(size: int, count: int = 4) -> Any:
    return ag.cat([x_of(rank, count) for rank in range(size)])


def grads(model: Any) -> list[Any]:
    return [None if p.grad is None else p.grad._array.copy() for p in model.parameters()]


def assert_same(got: list[Any], expected: list[Any]) -> None:
    for a, b in zip(got, expected, strict=True):
        assert (a is None) == (b is None)
        if a is not None:
            np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


class Parts(nn.Module):
    """Three layers, of which forward uses those it is told."""

    def __init__(self) -> None:
        super().__init__()
        ag.manual_seed(0)
        self.a, self.b, self.c = (nn.Linear(6, 6) for _ in range(3))

    def forward(self, x: Any, parts: str = "abc") -> Any:
        for name in parts:
            x = getattr(self, name)(x)
        return x.square().mean()


def alone(parts: str, size: int, prepare: Any = None) -> list[Any]:
    model = Parts()
    if prepare is not None:
        prepare(model)
    model(whole(size), parts).backward()
    return grads(model)


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


# ---- shared, used several times, several forwards --------------------------------------------


def test_shared_weights_and_several_uses() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            ag.manual_seed(0)
            self.a, self.b = nn.Linear(6, 6, bias=False), nn.Linear(6, 6, bias=False)
            self.b.weight = self.a.weight

        def forward(self, x: Any) -> Any:
            return self.b(self.a(self.a(x)).tanh()).square().mean()

    def body() -> list[Any]:
        model = DistributedDataParallel(Tied())
        for _ in range(2):
            model.zero_grad()
            model(x_of(ddp.get_rank())).backward()
        return grads(model)

    single = Tied()
    single(whole(2)).backward()
    for got in on_ranks(body):
        assert len(got) == 1
        assert_same(got, grads(single))


def test_several_forwards_before_one_backward_and_several_backwards_per_step() -> None:
    def body() -> tuple[list[Any], list[Any]]:
        rank = ddp.get_rank()
        model = DistributedDataParallel(Parts())
        (model(x_of(rank)) + model(x_of(rank), "ca")).backward()
        once = grads(model)
        model.zero_grad()
        model(x_of(rank)).backward()
        model(x_of(rank), "ca").backward()
        return once, grads(model)

    model = Parts()
    (model(whole(2)) + model(whole(2), "ca")).backward()
    for once, twice in on_ranks(body):
        assert_same(once, grads(model))
        assert_same(twice, grads(model))


def test_a_retained_graph_can_go_backward_twice() -> None:
    def body() -> list[Any]:
        model = DistributedDataParallel(Parts())
        loss = model(x_of(ddp.get_rank()))
        loss.backward(retain_graph=True)
        loss.backward()
        return grads(model)

    expected = [2 * g for g in alone("abc", 2)]
    for got in on_ranks(body):
        assert_same(got, expected)


def test_backward_with_inputs_is_averaged() -> None:
    def body() -> list[Any]:
        model = DistributedDataParallel(Parts(), unused_parameters="ignore")
        model(x_of(ddp.get_rank())).backward(inputs=list(model.module.b.parameters()))
        return grads(model)

    expected = alone("abc", 2)
    for got in on_ranks(body):
        assert_same(got, [None, None, *expected[2:4], None, None])


def test_a_gradient_penalty() -> None:
    """`autograd.grad` averages nothing; the backward of what it gave does."""

    def penalty(model: Any, x: Any) -> Any:
        x.requires_grad = True
        (slope,) = ag.autograd.grad(model(x) * len(x), x, create_graph=True)
        return slope.square().sum(1).mean()

    def body() -> list[Any]:
        model = DistributedDataParallel(Parts())
        before = [p._grad for p in model.parameters()]
        loss = penalty(model, x_of(ddp.get_rank()))
        assert before == [None] * 6
        assert all(p.grad is None for p in model.parameters())
        loss.backward()
        return grads(model)

    parts = []
    for rank in range(2):
        model = Parts()
        penalty(model, x_of(rank)).backward()
        parts.append(grads(model))
    expected = [(a + b) / 2 if a is not None else None for a, b in zip(*parts, strict=True)]
    for got in on_ranks(body):
        assert_same(got[:5], expected[:5])


def test_a_graph_of_averaged_gradients_is_refused() -> None:
    def body() -> None:
        model = DistributedDataParallel(Parts())
        with model.no_sync():
            model(x_of(0)).backward(create_graph=True)
        assert model.module.a.weight.grad.requires_grad
        model.zero_grad()
        with pytest.raises(DistributedError, match=r"averaged gradients have no graph.*autograd"):
            model(x_of(0)).backward(create_graph=True)

    on_ranks(body)


# ---- no_sync ---------------------------------------------------------------------------------


def test_no_sync_one_off_is_an_error_on_all_ranks_with_counts() -> None:
    def body() -> None:
        rank = ddp.get_rank()
        model = DistributedDataParallel(Parts())
        with model.no_sync():
            for _ in range(3 + rank):
                model(x_of(rank)).backward()
        with pytest.raises(DistributedError) as caught:
            model(x_of(rank)).backward()
        text = str(caught.value)
        assert f"[rank {rank}/2]" in text
        assert "backward of Parts (wrapped model 1) a different number of times" in text
        assert "(rank 0: 4, rank 1: 5)" in text
        assert "no_sync() for the same backward calls" in text

    on_ranks(body)


def test_accumulation_equals_one_big_batch() -> None:
    def body() -> list[Any]:
        rank = ddp.get_rank()
        model = DistributedDataParallel(Parts())
        for micro in range(3):
            synchronise = micro == 2
            loss = model(x_of(10 * rank + micro)) / 3
            if synchronise:
                loss.backward()
            else:
                with model.no_sync():
                    loss.backward()
        return grads(model)

    single = Parts()
    single(ag.cat([x_of(10 * r + m) for r in range(2) for m in range(3)])).backward()
    for got in on_ranks(body):
        assert_same(got, grads(single))


# ---- several models in one group -------------------------------------------------------------


class Critic(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        ag.manual_seed(9)
        self.l1, self.l2 = nn.Linear(6, 8), nn.Linear(8, 1)

    def forward(self, x: Any) -> Any:
        return self.l2(self.l1(x).tanh()).mean()


@pytest.mark.parametrize("frozen", [False, True])
def test_gan(frozen: bool) -> None:
    """The generator's backward runs through the critic, whose gradients are averaged as well."""

    class Generator(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            ag.manual_seed(3)
            self.l1, self.l2 = nn.Linear(6, 8), nn.Linear(8, 6)

        def forward(self, z: Any) -> Any:
            return self.l2(self.l1(z).tanh())

    def train(generator: Any, critic: Any, z: Callable[[int], Any]) -> np.ndarray:
        g = optim.SGD(generator.parameters(), lr=0.1, momentum=0.9)
        c = optim.SGD(critic.parameters(), lr=0.1, momentum=0.9)
        for step in range(4):
            for p in critic.parameters():
                p.requires_grad = True
            c.zero_grad()
            fake = generator(z(2 * step)).detach()
            (critic(fake) - critic(z(2 * step + 1))).backward()
            c.step()
            if frozen:
                for p in critic.parameters():
                    p.requires_grad = False
            g.zero_grad()
            (-critic(generator(z(2 * step)))).backward()
            g.step()
        both = [*generator.parameters(), *critic.parameters()]
        return np.concatenate([p._array.ravel() for p in both])

    def body() -> np.ndarray:
        rank = ddp.get_rank()
        options = {"bucket_cap_mb": 1e-5}
        generator = DistributedDataParallel(Generator(), **options)
        critic = DistributedDataParallel(Critic(), **options)
        return train(generator, critic, lambda k: x_of(100 * k + rank))

    results = on_ranks(body)
    assert results[0].tobytes() == results[1].tobytes()
    expected = train(Generator(), Critic(), lambda k: ag.cat([x_of(100 * k), x_of(100 * k + 1)]))
    np.testing.assert_allclose(results[0], expected, rtol=1e-4, atol=1e-5)


def test_ranks_that_train_different_models_are_named() -> None:
    def body() -> None:
        rank = ddp.get_rank()
        models = DistributedDataParallel(Parts()), DistributedDataParallel(Critic())
        with pytest.raises(DistributedError) as caught:
            models[rank](x_of(rank)).backward()
        text = str(caught.value)
        assert "ranks run backward of different models" in text
        assert "rank 0 is in backward of Parts (wrapped model 1) at " in text
        assert "rank 1 is in backward of Critic (wrapped model 2) at " in text

    on_ranks(body)


# ---- buffers, buckets ------------------------------------------------------------------------


def test_averaged_buffers_are_weighted_by_samples() -> None:
    def body() -> list[np.ndarray]:
        rank = ddp.get_rank()
        ag.manual_seed(0)
        norm = nn.BatchNorm1d(6, momentum=1.0)
        model = DistributedDataParallel(norm, buffer_sync="average")
        model(x_of(rank, 6 - 4 * rank)).square().sum().backward()
        assert int(norm.num_batches_tracked.item()) == 1
        return norm.running_mean._array.copy()

    expected = ag.cat([x_of(0, 6), x_of(1, 2)])._array.mean(0)
    for mean in on_ranks(body):
        np.testing.assert_allclose(mean, expected, rtol=1e-5, atol=1e-6)


def test_a_cap_of_0_gives_every_parameter_a_bucket() -> None:
    def body() -> None:
        model = DistributedDataParallel(Parts(), bucket_cap_mb=0)
        assert [len(bucket.params) for bucket in model._reducer.buckets] == [1] * 6
        model(x_of(ddp.get_rank())).backward()
        last = [bucket.is_last for bucket in model._reducer.buckets]
        assert last == [False] * 5 + [True]

    on_ranks(body)


def test_delayed_parameters_are_reduced_last() -> None:
    def body() -> list[Any]:
        inner = Parts()
        named = list(inner.c.named_parameters(prefix="c"))
        model = DistributedDataParallel(
            inner,
            bucket_cap_mb=0,
            delay_all_reduce_named_params=named,
            param_to_hook_all_reduce=inner.a.weight,
        )
        for _ in range(2):
            model.zero_grad()
            model(x_of(ddp.get_rank())).backward()
            order = [name for bucket in model._reducer.buckets for name in bucket.names]
            assert {order[-1], order[-2]} == {"c.weight", "c.bias"}
        with pytest.raises(OptionError, match="give both or none"):
            DistributedDataParallel(Critic(), delay_all_reduce_named_params=named)
        return grads(model)

    for got in on_ranks(body):
        assert_same(got, alone("abc", 2))


def test_different_options_are_named() -> None:
    def body() -> None:
        rank = ddp.get_rank()
        with pytest.raises(DistributedError, match=r"different options.*rank 1: .*cap_bytes=1048"):
            DistributedDataParallel(Parts(), bucket_cap_mb=1 if rank == 1 else None)

    on_ranks(body)
