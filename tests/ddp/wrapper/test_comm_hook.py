"""Hooks of the user's own: when they are called, with what, and what becomes of their result."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from support.ranks import backward, data, grads, network, on_ranks

import allgrad as ag
from allgrad import ddp, nn, optim
from allgrad.ddp import DistributedDataParallel, Future
from allgrad.ddp.futures import future_of
from allgrad.errors import DistributedError, ShapeError
from allgrad.utils.data import DataLoader, TensorDataset


def mean_hook(state: Any, bucket: Any) -> Any:
    """PyTorch's usual form: an all-reduce of the user's, then a division."""
    state.append((bucket.index(), bucket.is_last(), bucket.buffer().numel()))
    tensor = bucket.buffer() / ddp.get_world_size()
    work = ddp.all_reduce(tensor, async_op=True)
    return future_of(work, lambda: [tensor]).then(lambda future: future.value()[0])


def test_unequal_shards_through_a_hook_give_the_gradient_of_the_whole_batch() -> None:
    def body() -> tuple[np.ndarray, list[Any]]:
        seen: list[Any] = []
        model = DistributedDataParallel(network(), bucket_cap_mb=1e-4)
        model.register_comm_hook(seen, mean_hook)
        buckets = len(model._reducer.buckets)
        x, y = data(8)
        mine = slice(0, 5) if ddp.get_rank() == 0 else slice(5, 8)
        backward(model, x[mine], y[mine])
        assert [index for index, _, _ in seen] == list(range(buckets))
        assert [last for _, last, _ in seen] == [False] * (len(seen) - 1) + [True]
        return grads(model), seen

    alone = network()
    backward(alone, *data(8))
    first, second = on_ranks(body)
    assert first[0].tobytes() == second[0].tobytes()
    assert first[1] == second[1]
    np.testing.assert_allclose(first[0], grads(alone), rtol=2e-6, atol=2e-7)


def test_unused_parameters_with_a_hook() -> None:
    class Parts(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            ag.manual_seed(0)
            self.a, self.b, self.c = (nn.Linear(3, 3) for _ in range(3))

        def forward(self, x: Any, parts: str) -> Any:
            for name in parts:
                x = getattr(self, name)(x)
            return x.sum()

    def body() -> None:
        model = DistributedDataParallel(Parts(), bucket_cap_mb=1e-5, unused_parameters="ignore")
        model.register_comm_hook([], mean_hook)
        for _ in range(3):
            model.zero_grad()
            model(ag.ones(2, 3), "ab" if ddp.get_rank() == 0 else "a").backward()
        assert (model.module.b.bias.grad._array == 1).all()  # 2 on rank 0, nothing on rank 1
        assert model.module.c.bias.grad is None

    on_ranks(body)


def test_chains_with_a_second_collective_keep_the_order_of_buckets() -> None:
    """As PowerSGD does: what the first collective gave is the input of a second one."""

    def chained(state: Any, bucket: Any) -> Any:
        buffer = bucket.buffer()

        def again(future: Any) -> Any:
            tensor = future.value() / 2
            ddp.all_reduce(tensor)
            return tensor / 2

        return future_of(ddp.all_reduce(buffer, async_op=True), lambda: buffer).then(again)

    def body() -> np.ndarray:
        model = DistributedDataParallel(network(), bucket_cap_mb=1e-4)
        model.register_comm_hook(None, chained)
        x, y = data(8)
        mine = slice(4 * ddp.get_rank(), 4 * ddp.get_rank() + 4)
        for _ in range(3):
            model.zero_grad()
            backward(model, x[mine], y[mine])
        return grads(model)

    alone = network()
    backward(alone, *data(8))
    for got in on_ranks(body):
        np.testing.assert_allclose(got, grads(alone), rtol=2e-6, atol=2e-7)


def test_a_rank_without_batches_calls_the_hook_as_well() -> None:
    def body() -> bytes:
        rank = ddp.get_rank()
        model = DistributedDataParallel(network(), bucket_cap_mb=1e-4)
        model.register_comm_hook([], mean_hook)
        optimizer = optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        x, y = data(9)
        set_ = TensorDataset(ag.tensor(x[: 4 + 4 * rank]), ag.tensor(y[: 4 + 4 * rank]))
        for _ in range(2):
            for images, labels in DataLoader(set_, batch_size=2):
                optimizer.zero_grad()
                nn.functional.cross_entropy(model(images), labels).backward()
                optimizer.step()
        ddp.barrier()
        return b"".join(p._array.tobytes() for p in model.parameters())

    results = on_ranks(body)
    assert results[0] == results[1]


def test_a_hook_may_complete_at_once_and_its_result_is_taken() -> None:
    def zeros(state: Any, bucket: Any) -> Any:
        future: Any = Future()
        future.set_result(bucket.buffer() * 0 + 3)
        return future

    def body() -> None:
        model = DistributedDataParallel(network())
        model.register_comm_hook(None, zeros)
        backward(model, *data(4))
        assert (grads(model) == 3).all()

    on_ranks(body)


def test_mistakes() -> None:
    def short(state: Any, bucket: Any) -> Any:
        future: Any = Future()
        future.set_result(bucket.buffer()[:-1])
        return future

    def body() -> None:
        model = DistributedDataParallel(network())
        with pytest.raises(TypeError, match="expected a function, came str"):
            model.register_comm_hook(None, "hook")  # type: ignore[arg-type]
        model.register_comm_hook(None, lambda state, bucket: bucket.buffer())
        with pytest.raises(DistributedError, match="one hook per model"):
            model.register_comm_hook(None, mean_hook)
        with pytest.raises(DistributedError, match="must return a Future, came Tensor"):
            backward(model, *data(4))
        other = DistributedDataParallel(network())
        other.register_comm_hook(None, short)
        with pytest.raises(ShapeError, match="elements for bucket 1 of 1"):
            backward(other, *data(4))

    on_ranks(body)
