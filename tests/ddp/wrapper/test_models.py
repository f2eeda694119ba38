"""What users do with wrapped models: shared weights, several uses, several models at once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from support.parts import Parts, alone, assert_same, grads, whole, x_of
from support.ranks import on_ranks

import allgrad as ag
from allgrad import ddp, nn, optim
from allgrad.ddp import DistributedDataParallel
from allgrad.errors import DistributedError, OptionError

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
