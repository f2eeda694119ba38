"""Communication hooks: what they send, what arrives, and that training goes on as without them."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import allgrad as ag
from allgrad import ddp, nn, optim
from allgrad.ddp import run_ranks
from allgrad.ddp.comm_hooks import debugging_hooks, default_hooks
from allgrad.ddp.comm_hooks import powerSGD_hook as power
from allgrad.ddp.comm_hooks.bucket import GradBucket
from allgrad.ddp.futures import Future
from allgrad.errors import DtypeError, OptionError, ShapeError

SIZE = 3


def network() -> nn.Module:
    ag.manual_seed(0)
    return nn.Sequential(
        nn.Linear(24, 32), nn.Tanh(), nn.Linear(32, 16), nn.Tanh(), nn.Linear(16, 1)
    )


def batch(rank: int, samples: int = 6) -> tuple[ag.Tensor, ag.Tensor]:
    rng = np.random.default_rng(rank)
    x = rng.standard_normal((samples, 24)).astype(np.float32)
    return ag.tensor(x), ag.tensor(np.sin(x[:, :1] * 2) + x[:, 1:2])


def gradients(hook: Callable[..., Any] | None, state: Any = None, **options: Any) -> list[Any]:
    """The gradients of one step, per rank, in the order of the parameters."""

    def body() -> list[np.ndarray]:
        ddp.init_process_group(timeout=20)
        model = ddp.DistributedDataParallel(network(), bucket_cap_mb=0.003, **options)
        if hook is not None:
            model.register_comm_hook(state, hook)
        x, y = batch(ddp.get_rank())
        nn.functional.mse_loss(model(x), y).backward()
        found = [p.grad.numpy().copy() for p in model.parameters()]
        ddp.destroy_process_group()
        return found

    return run_ranks(body, SIZE)


@pytest.mark.parametrize("as_view", [True, False])
@pytest.mark.parametrize(
    ("hook", "tolerance"),
    [
        (default_hooks.allreduce_hook, 0),
        (default_hooks.fp16_compress_hook, 2e-3),
        (default_hooks.bf16_compress_hook, 2e-2),
        (default_hooks.fp16_compress_wrapper(default_hooks.allreduce_hook), 2e-3),
        (default_hooks.bf16_compress_wrapper(default_hooks.allreduce_hook), 2e-2),
    ],
)
def test_default_hooks_give_the_mean(hook: Any, tolerance: float, as_view: bool) -> None:
    plain = gradients(None)
    hooked = gradients(hook, gradient_as_bucket_view=as_view)
    for rank in range(SIZE):
        for expected, got in zip(plain[0], hooked[rank], strict=True):
            np.testing.assert_allclose(got, expected, rtol=tolerance, atol=tolerance / 10)
    for index in range(len(plain[0])):
        assert hooked[0][index].tobytes() == hooked[1][index].tobytes()


def test_compressed_hooks_send_half_the_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    from allgrad.ddp.communicators.thread import ThreadCommunicator

    sent: list[tuple[str, int]] = []
    original = ThreadCommunicator.all_reduce

    def spy(self: Any, array: np.ndarray, *args: Any, **kwargs: Any) -> Any:
        if self.rank == 0 and array.size > 100:
            sent.append((array.dtype.name, array.nbytes))
        return original(self, array, *args, **kwargs)

    monkeypatch.setattr(ThreadCommunicator, "all_reduce", spy)
    gradients(default_hooks.allreduce_hook)
    plain = sum(size for name, size in sent if name == "float32")
    sent.clear()
    gradients(default_hooks.fp16_compress_hook)
    halves = sum(size for name, size in sent if name == "float16")
    assert plain == 2 * halves > 0


@pytest.mark.parametrize(
    "hook",
    [
        default_hooks.fp16_compress_hook,
        default_hooks.fp16_compress_wrapper(default_hooks.allreduce_hook),
    ],
)
def test_float16_does_not_overflow_where_the_mean_does_not(hook: Any) -> None:
    def body() -> float:
        ddp.init_process_group(timeout=20)
        weight = nn.Linear(1, 1, bias=False)
        model = ddp.DistributedDataParallel(weight)
        model.register_comm_hook(None, hook)
        (model(ag.ones(1, 1)) * 60_000.0).sum().backward()
        grad = weight.weight.grad.item()
        ddp.destroy_process_group()
        return grad

    assert run_ranks(body, 4) == [60_000.0] * 4


def test_the_noop_hook_leaves_every_rank_its_own() -> None:
    first, second, _ = gradients(debugging_hooks.noop_hook)
    assert any(not np.array_equal(a, b) for a, b in zip(first, second, strict=True))


def test_a_bucket_shows_its_gradients_and_can_be_replaced() -> None:
    seen: list[Any] = []

    def hook(state: Any, bucket: GradBucket) -> Future[ag.Tensor]:
        if ddp.get_rank() == 0:
            seen.append((bucket.index(), bucket.is_last()))
            for grad, param in zip(bucket.gradients(), bucket.parameters(), strict=True):
                assert grad.shape == param.shape
        bucket.set_buffer(bucket.buffer() * 0 + 7)
        with pytest.raises(ShapeError, match="elements"):
            bucket.set_buffer(ag.zeros(1))
        with pytest.raises(DtypeError, match="float64"):
            bucket.set_buffer(bucket.buffer().double())
        return default_hooks.allreduce_hook(None, bucket)

    found = gradients(hook)
    assert all((g == 7).all() for g in found[0])
    assert [index for index, _ in seen] == list(range(len(seen)))
    assert [last for _, last in seen] == [False] * (len(seen) - 1) + [True]


# ---- PowerSGD ----------------------------------------------------------------------------------


def reference(
    gradients: list[np.ndarray], errors: list[np.ndarray], q: np.ndarray
) -> tuple[np.ndarray, list[np.ndarray], np.ndarray]:
    """One step for one matrix, all workers at once: Vogels et al. 2019, algorithms 1 and 2."""
    deltas = [g + e for g, e in zip(gradients, errors, strict=True)]
    p = np.linalg.qr(np.mean([d @ q for d in deltas], axis=0))[0]
    rights = [d.T @ p for d in deltas]
    mean = np.mean(rights, axis=0)
    left_over = [d - p @ r.T for d, r in zip(deltas, rights, strict=True)]
    return p @ mean.T, left_over, mean


@pytest.mark.parametrize("batched_shapes", [False, True])
def test_powersgd_equals_the_papers_algorithm(batched_shapes: bool) -> None:
    steps, shape, rank = 4, (30, 20), 2

    def body() -> list[np.ndarray]:
        ddp.init_process_group(timeout=20)
        me = ddp.get_rank()
        layer = nn.Linear(*shape[::-1], bias=False).double()
        model = ddp.DistributedDataParallel(layer)
        state = power.PowerSGDState(
            None, rank, start_powerSGD_iter=2, batch_tensors_with_same_shape=batched_shapes
        )
        state.iter = 2
        model.register_comm_hook(state, power.powerSGD_hook)
        found = []
        for step in range(steps):
            layer.weight.grad = None
            (
                model(ag.eye(shape[1], dtype=ag.float64)) * ag.tensor(gradient(me, step).T)
            ).sum().backward()
            found.append(layer.weight.grad.numpy().copy())
        ddp.destroy_process_group()
        return found

    def gradient(worker: int, step: int) -> np.ndarray:
        return np.random.default_rng([worker, step]).standard_normal(shape)

    found = run_ranks(body, SIZE)
    q = np.random.default_rng(0).standard_normal((shape[1], rank))
    q = np.linalg.qr(q)[0]
    errors = [np.zeros(shape)] * SIZE
    for step in range(steps):
        expected, errors, q = reference([gradient(w, step) for w in range(SIZE)], errors, q)
        for worker in range(SIZE):
            np.testing.assert_allclose(found[worker][step], expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(
    ("hook", "tolerance"),
    [(power.powerSGD_hook, 0.02), (power.batched_powerSGD_hook, 0.2)],  # the second loses more
)
def test_powersgd_with_error_feedback_trains_like_no_compression(
    hook: Any, tolerance: float
) -> None:
    def body() -> tuple[float, float, bytes]:
        ddp.init_process_group(timeout=20)
        losses = []
        for compress in (False, True):
            model = ddp.DistributedDataParallel(network())
            state = power.PowerSGDState(None, 4, start_powerSGD_iter=10)
            if compress:
                model.register_comm_hook(state, hook)
            optimizer = optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
            x, y = batch(ddp.get_rank(), samples=64)
            for _ in range(100):
                optimizer.zero_grad()
                loss = nn.functional.mse_loss(model(x), y)
                loss.backward()
                optimizer.step()
            losses.append(ddp.reduce_sum({"loss": loss})["loss"] / SIZE)
        bits = b"".join(p.detach().numpy().tobytes() for p in model.parameters())
        assert state.compression_stats()[0] > 2
        ddp.destroy_process_group()
        return losses[0], losses[1], bits

    results = run_ranks(body, SIZE)
    plain, compressed, bits = results[0]
    assert all(other == bits for _, _, other in results), "replicas differ"
    assert compressed < plain + tolerance
    assert plain < 0.1


def test_powersgd_starts_late_and_counts_what_it_sends() -> None:
    def body() -> list[tuple[float, int, int]]:
        ddp.init_process_group(timeout=20)
        model = ddp.DistributedDataParallel(network())
        state = power.PowerSGDState(None, 1, start_powerSGD_iter=2)
        model.register_comm_hook(state, power.powerSGD_hook)
        stats = []
        for _ in range(3):
            x, y = batch(ddp.get_rank())
            nn.functional.mse_loss(model(x), y).backward()
            stats.append(state.compression_stats())
        ddp.destroy_process_group()
        return stats

    stats = run_ranks(body, 2)[0]
    assert stats[0] == stats[1] == (0.0, 0, 0)
    before = 24 * 32 + 32 + 32 * 16 + 16 + 16 + 1
    after = (24 + 32) + 32 + (32 + 16) + 16 + 16 + 1
    assert stats[2] == (before / after, before, after)


def test_powersgd_state_goes_through_pickle() -> None:
    state = power.PowerSGDState(None, 2, start_powerSGD_iter=3)
    state.errors[0] = (("weight",), np.arange(3.0))
    again = pickle.loads(pickle.dumps(state))
    assert again.process_group is None
    assert again.start_powerSGD_iter == 3
    np.testing.assert_array_equal(again.errors[0][1], np.arange(3.0))


def test_powersgd_refuses_to_keep_errors_of_buckets_that_will_change() -> None:
    with pytest.raises(OptionError, match="at least 2"):
        power.PowerSGDState(None, start_powerSGD_iter=1)
    power.PowerSGDState(None, start_powerSGD_iter=0, use_error_feedback=False, warm_start=False)


@pytest.mark.parametrize("epsilon", [0, 1e-8])
def test_orthogonalize(epsilon: float, rng: np.random.Generator) -> None:
    matrix = rng.standard_normal((20, 4))
    span = matrix.copy()
    power.orthogonalize(matrix, epsilon)
    np.testing.assert_allclose(matrix.T @ matrix, np.eye(4), atol=1e-6)
    np.testing.assert_allclose(matrix @ (matrix.T @ span), span, atol=1e-6)
