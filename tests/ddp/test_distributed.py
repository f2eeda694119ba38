"""DistributedDataParallel: shards equal the batch, ranks equal each other, mistakes are named."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from support.ranks import on_ranks

import allgrad as ag
from allgrad import ddp, nn
from allgrad.ddp import DistributedDataParallel
from allgrad.errors import DistributedError, OptionError


def mlp(seed: int = 0) -> nn.Module:
    ag.manual_seed(seed)
    return nn.Sequential(
        nn.Linear(12, 32), nn.ReLU(), nn.Linear(32, 16), nn.ReLU(), nn.Linear(16, 4)
    )


def with_norm(seed: int = 0) -> nn.Module:
    ag.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 5)
    )


def batch(step: int, count: int, shape: tuple[int, ...] = (12,), classes: int = 4) -> Any:
    rng = np.random.default_rng(step)
    x = rng.standard_normal((count, *shape)).astype(np.float32)
    return x, rng.integers(0, classes, count)


def train_step(model: Any, x: np.ndarray, y: np.ndarray) -> float:
    loss = nn.functional.cross_entropy(model(ag.tensor(x)), ag.tensor(y))
    loss.backward()
    return float(loss.item())


def flat(tensors: Any) -> np.ndarray:
    return np.concatenate([t._array.ravel() for t in tensors])


def gradients(model: Any) -> np.ndarray:
    return flat(p.grad for p in model.parameters())


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
@pytest.mark.parametrize("as_view", [True, False])
@pytest.mark.parametrize("ranks", [2, 3])
def test_ranks_times_b_equal_one_rank_times_all(ranks: int, as_view: bool, optimizer: str) -> None:
    def optimizer_for(model: Any) -> Any:
        if optimizer == "sgd":
            return ag.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-4)
        return ag.optim.Adam(model.parameters(), lr=1e-3)

    per_rank = 6

    def body() -> np.ndarray:
        rank = ddp.get_rank()
        model = DistributedDataParallel(
            mlp(rank), bucket_cap_mb=0.001, gradient_as_bucket_view=as_view
        )
        optim = optimizer_for(model)
        for step in range(20):
            x, y = batch(step, per_rank * ranks)
            mine = slice(rank * per_rank, (rank + 1) * per_rank)
            optim.zero_grad()
            train_step(model, x[mine], y[mine])
            optim.step()
        return flat(model.parameters())

    results = on_ranks(body, ranks)
    assert all(r.tobytes() == results[0].tobytes() for r in results)
    alone = mlp(0)
    optim = optimizer_for(alone)
    for step in range(20):
        optim.zero_grad()
        train_step(alone, *batch(step, per_rank * ranks))
        optim.step()
    expected = flat(alone.parameters())
    # Adam divides by the root of tiny squares, so rounding of small gradients is amplified
    scale = np.abs(expected).max()
    np.testing.assert_allclose(results[0], expected, rtol=1e-5, atol=1e-5 * scale)


def test_parameters_and_buffers_start_from_rank_0_and_follow_it() -> None:
    def body() -> list[bytes]:
        rank = ddp.get_rank()
        inner = with_norm(rank)
        model = DistributedDataParallel(inner)
        start = flat(inner.parameters()).tobytes()
        for step in range(3):
            model.zero_grad()
            x, y = batch(10 * step + rank, 8, (1, 8, 8), 5)
            train_step(model, x, y)
        mean = dict(inner.named_buffers())["1.running_mean"]
        assert np.abs(mean._array).max() > 0
        assert int(dict(inner.named_buffers())["1.num_batches_tracked"].item()) == 3
        return [start, flat(inner.buffers()).tobytes()]

    results = on_ranks(body, 3)
    assert results[0] == results[1] == results[2]
    assert results[0][0] == flat(with_norm(0).parameters()).tobytes()


def test_buffers_that_were_replaced_still_follow() -> None:
    def body() -> float:
        inner = with_norm()
        model = DistributedDataParallel(inner)
        train_step(model, *batch(ddp.get_rank(), 8, (1, 8, 8), 5))
        inner[1].running_mean = ag.full((4,), float(ddp.get_rank() + 5))
        train_step(model, *batch(ddp.get_rank(), 8, (1, 8, 8), 5))
        return inner[1].running_mean._array.tobytes()

    results = on_ranks(body)
    assert results[0] == results[1]


def test_buffers_stay_local_when_asked() -> None:
    def body() -> bytes:
        inner = with_norm()
        model = DistributedDataParallel(inner, broadcast_buffers=False)
        train_step(model, *batch(ddp.get_rank(), 8, (1, 8, 8), 5))
        return flat(inner.buffers()).tobytes()

    results = on_ranks(body)
    assert results[0] != results[1]


def test_buckets_are_reduced_during_backward_and_counted() -> None:
    def body() -> None:
        model = DistributedDataParallel(mlp(), bucket_cap_mb=1e-4, broadcast_buffers=False)
        first = model.communication_report()["buckets"]
        assert first >= 3
        train_step(model, *batch(0, 4))
        # the header, one per bucket, and once the broadcast of the order
        assert model.communication_report(reset=True)["collectives"] == first + 2
        for step in range(3):
            train_step(model, *batch(step, 4))
        report = model.communication_report(reset=True)
        assert report["collectives"] == 3 * (1 + report["buckets"])
        assert report["steps"] == 3
        assert report["in_backward_s"] > 0  # buckets were launched before the end of backward
        assert report["communication_s"] > 0
        assert 0 <= report["hidden_share"] <= 1
        assert report["bytes_per_step"] >= 4 * sum(p.numel() for p in model.parameters())
        assert model.communication_report()["steps"] == 0

    on_ranks(body)


def test_gradients_lie_in_the_buckets() -> None:
    def body() -> None:
        model = DistributedDataParallel(mlp())
        for _ in range(3):
            train_step(model, *batch(0, 4))
            memory = model._reducer.memory
            assert all(np.shares_memory(p.grad._array, memory) for p in model.parameters())
            model.zero_grad(set_to_none=True)

    on_ranks(body)


def test_buckets_follow_the_order_in_which_gradients_became_ready() -> None:
    class Backwards(nn.Module):
        """Registered in the order in which they are used last."""

        def __init__(self) -> None:
            super().__init__()
            self.last = nn.Linear(12, 4, bias=False)
            self.first = nn.Linear(12, 12, bias=False)

        def forward(self, x: Any) -> Any:
            return self.last(self.first(x))

    def body() -> list[list[tuple[int, ...]]]:
        model = DistributedDataParallel(Backwards(), bucket_cap_mb=1e-4)

        def order() -> list[list[tuple[int, ...]]]:
            return [[tuple(p.shape) for p in b.params] for b in model._reducer.buckets]

        before = order()
        train_step(model, *batch(0, 4))
        kept = gradients(model).copy()
        model.zero_grad()
        train_step(model, *batch(0, 4))
        assert gradients(model).tobytes() == kept.tobytes()  # carried over, then the same again
        return before + order()

    for result in on_ranks(body):
        assert result == [[(12, 12)], [(4, 12)], [(4, 12)], [(12, 12)]]


def test_no_sync_accumulates_and_the_next_backward_reduces_the_sum() -> None:
    def body() -> None:
        rank = ddp.get_rank()
        model = DistributedDataParallel(mlp())
        twin = mlp()
        with model.no_sync():
            train_step(model, *batch(rank, 4))
        local = gradients(model).copy()
        assert any(
            other.tobytes() != local.tobytes()
            for other in ddp.process_group.default_group().communicator.all_gather_object(local)
        )
        train_step(model, *batch(10 + rank, 4))
        for source in (0, 1, 10, 11):
            train_step(twin, *batch(source, 4))
        np.testing.assert_allclose(gradients(model), gradients(twin) / 2, rtol=1e-4, atol=1e-6)
        assert model.communication_report()["steps"] == 1

    on_ranks(body)


def test_gradients_that_were_not_zeroed_add_up() -> None:
    def body() -> None:
        rank = ddp.get_rank()
        model = DistributedDataParallel(mlp())
        train_step(model, *batch(rank, 4))
        once = gradients(model).copy()
        train_step(model, *batch(rank, 4))
        np.testing.assert_allclose(gradients(model), 2 * once, rtol=1e-5, atol=1e-7)
        model.zero_grad(set_to_none=False)
        train_step(model, *batch(rank, 4))
        np.testing.assert_allclose(gradients(model), once, rtol=1e-5, atol=1e-7)

    on_ranks(body)


def test_a_gradient_set_by_the_user_is_taken_in() -> None:
    def body() -> None:
        model = DistributedDataParallel(mlp())
        for p in model.parameters():
            p.grad = ag.full(tuple(p.shape), float(ddp.get_rank()))
        train_step(model, *batch(0, 4))
        twin = mlp()
        train_step(twin, *batch(0, 4))
        np.testing.assert_allclose(gradients(model), gradients(twin) + 0.5, rtol=1e-5, atol=1e-6)

    on_ranks(body)


def test_frozen_parameters_are_left_out() -> None:
    def body() -> None:
        inner = mlp()
        for p in inner[0].parameters():
            p.requires_grad = False
        model = DistributedDataParallel(inner)
        train_step(model, *batch(ddp.get_rank(), 4))
        assert inner[0].weight.grad is None
        assert inner[2].weight.grad is not None
        assert model.communication_report()["bytes_per_step"] < 32 * 16 * 4 + 1000

    on_ranks(body)


@pytest.mark.parametrize("dtypes", [("float64", "float32"), ("float32", "float64")])
def test_mixed_dtypes(dtypes: tuple[str, str]) -> None:
    class Mixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = nn.Parameter(ag.ones(5, dtype=getattr(ag, dtypes[0])))
            self.b = nn.Parameter(ag.ones(7, dtype=getattr(ag, dtypes[1])))

        def forward(self, factor: float) -> Any:
            return (self.a * factor).sum() + (self.b * factor).sum()

    def body() -> None:
        model = DistributedDataParallel(Mixed())
        for _ in range(3):
            model.zero_grad()
            model(float(ddp.get_rank())).backward()
            for p in model.parameters():
                assert p.grad.dtype == p.dtype
                assert (p.grad._array == 0.5).all()

    on_ranks(body)


# ---- unused parameters --------------------------------------------------------------------------


class Branches(nn.Module):
    """Uses the branches it is told to."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk = nn.Linear(4, 4)
        self.left = nn.Linear(4, 2)
        self.right = nn.Linear(4, 2)

    def forward(self, x: Any, branches: str) -> Any:
        x = self.trunk(x)
        return sum(getattr(self, name)(x).sum() for name in branches.split())


def test_a_parameter_without_gradient_is_named_with_its_rank_on_every_rank() -> None:
    def body() -> None:
        model = DistributedDataParallel(Branches(), bucket_cap_mb=1e-5, unused_parameters="error")
        x = ag.ones(3, 4)
        used = "left right" if ddp.get_rank() == 0 else "left"
        with pytest.raises(DistributedError) as caught:
            model(x, used).backward()
        assert f"[rank {ddp.get_rank()}/2]" in str(caught.value)
        assert "rank 1: 'right.weight', 'right.bias'." in str(caught.value)
        assert "leave unused_parameters out" in str(caught.value)
        # the ranks are in step, so the program may go on
        model.zero_grad()
        model(x, "left right").backward()

    on_ranks(body)


def test_find_unused_parameters_counts_them_as_zero() -> None:
    def body() -> None:
        model = DistributedDataParallel(Branches(), find_unused_parameters=True, bucket_cap_mb=1e-5)
        x = ag.ones(3, 4)
        for _ in range(3):
            model.zero_grad()
            model(x, "left right" if ddp.get_rank() == 0 else "left").backward()
            inner = model.module
            assert (inner.right.bias.grad._array == 1.5).all()  # 3 on rank 0, nothing on rank 1
            assert (inner.left.bias.grad._array == 3).all()
            model.zero_grad()
            model(x, "left").backward()
            assert inner.right.weight.grad is None  # used nowhere: stays as it is
            assert (inner.left.bias.grad._array == 3).all()

    on_ranks(body)


# ---- construction -------------------------------------------------------------------------------


def test_different_models_are_named() -> None:
    def body() -> None:
        hidden = 32 if ddp.get_rank() != 1 else 31
        with pytest.raises(DistributedError) as caught:
            DistributedDataParallel(nn.Sequential(nn.Linear(3, 8), nn.Linear(8, hidden)))
        text = str(caught.value)
        assert f"[rank {ddp.get_rank()}/3] ranks hold different models" in text
        assert "rank 0, 2: '1.weight' of shape (32, 8), float32, requires_grad=True" in text
        assert "rank 1: '1.weight' of shape (31, 8)" in text

    on_ranks(body, 3)


def test_a_longer_model_is_named() -> None:
    def body() -> None:
        layers = [nn.Linear(3, 3) for _ in range(ddp.get_rank() + 1)]
        with pytest.raises(DistributedError, match=r"rank 0: none, the model ends before it"):
            DistributedDataParallel(nn.Sequential(*layers))

    on_ranks(body)


def test_bad_arguments() -> None:
    with pytest.raises(DistributedError, match=r"call allgrad\.ddp\.init_process_group"):
        DistributedDataParallel(mlp())

    def body() -> None:
        with pytest.raises(OptionError, match=r"device_ids=\[0\].*it lies on cpu"):
            DistributedDataParallel(mlp(), device_ids=[0])
        with pytest.raises(OptionError, match="bucket_cap_mb=-1: expected a number, 0 or above"):
            DistributedDataParallel(mlp(), bucket_cap_mb=-1)
        with pytest.raises(OptionError, match=r"unused_parameters.*'warn'.*'report'"):
            DistributedDataParallel(mlp(), unused_parameters="warn")
        frozen = mlp()
        for p in frozen.parameters():
            p.requires_grad = False
        with pytest.raises(DistributedError, match="no parameter of the module requires grad"):
            DistributedDataParallel(frozen)

    on_ranks(body)


def test_wrapping_twice_is_refused_and_wrapping_again_later_works() -> None:
    def body() -> None:
        inner = mlp()
        model = DistributedDataParallel(inner)
        with pytest.raises(DistributedError, match="belongs to a DistributedDataParallel already"):
            DistributedDataParallel(inner)
        train_step(model, *batch(ddp.get_rank(), 4))
        kept = gradients(inner).copy()
        del model
        assert gradients(inner).tobytes() == kept.tobytes()
        inner.zero_grad()
        train_step(inner, *batch(ddp.get_rank(), 4))  # alone again: no communication
        again = DistributedDataParallel(inner)
        again.zero_grad()
        train_step(again, *batch(ddp.get_rank(), 4))
        assert gradients(inner).tobytes() == kept.tobytes()

    on_ranks(body)


def test_state_has_no_prefix_and_loads_with_either() -> None:
    def body() -> None:
        model = DistributedDataParallel(mlp())
        state = model.state_dict()
        assert set(state) == set(mlp().state_dict())
        other = mlp(7)
        model.load_state_dict(other.state_dict())
        assert flat(model.parameters()).tobytes() == flat(other.parameters()).tobytes()
        prefixed = {f"module.{k}": v for k, v in mlp(8).state_dict().items()}
        model.load_state_dict(prefixed)
        assert flat(model.parameters()).tobytes() == flat(mlp(8).parameters()).tobytes()

    on_ranks(body)


def test_one_rank_adds_nothing() -> None:
    ddp.init_process_group()
    try:
        assert ddp.get_backend() == "local"
        inner = mlp()
        model = DistributedDataParallel(inner)
        assert all(p._ready_hooks is None and p._grad_buffer is None for p in inner.parameters())
        with model.no_sync():
            train_step(model, *batch(0, 4))
        assert model.communication_report()["collectives"] == 0
        twin = mlp()
        train_step(twin, *batch(0, 4))
        assert gradients(inner).tobytes() == gradients(twin).tobytes()
    finally:
        ddp.destroy_process_group()


def test_a_backward_after_a_failed_one_is_refused() -> None:
    def body() -> None:
        model = DistributedDataParallel(mlp())

        def fail(grad: Any) -> None:
            raise ArithmeticError("in a hook")

        handle = model.module[0].weight.register_hook(fail)
        with pytest.raises(ArithmeticError):
            train_step(model, *batch(0, 4))
        handle.remove()
        with pytest.raises(DistributedError, match="became ready twice in one backward"):
            train_step(model, *batch(0, 4))

    on_ranks(body)
