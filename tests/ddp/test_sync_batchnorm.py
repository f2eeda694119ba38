"""Batch norm over all ranks: equal to one rank that has the whole batch."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import allgrad as ag
from allgrad import ddp, nn, optim
from allgrad.ddp import run_ranks
from allgrad.ddp.sync_batchnorm import SyncBatchNorm
from allgrad.errors import AllgradError, ArgumentError, DistributedError

CHANNELS = 3
SHAPES = {"NC": (), "NCL": (5,), "NCHW": (4, 3), "NCDHW": (2, 3, 2)}


def data(samples: int, shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.standard_normal((samples, CHANNELS, *shape)) * 3 + 100  # far from 0: cancellation


def cut(array: np.ndarray, parts: tuple[int, ...]) -> list[np.ndarray]:
    return np.split(array, np.cumsum(parts)[:-1])


def model(sync: bool, dims: int, **options: Any) -> nn.Module:
    ag.manual_seed(0)
    kinds = {2: nn.BatchNorm1d, 3: nn.BatchNorm1d, 4: nn.BatchNorm2d, 5: nn.BatchNorm3d}
    first, second = (kinds[dims](CHANNELS, **options).double() for _ in range(2))
    net = nn.Sequential(first, nn.Tanh(), second)
    return SyncBatchNorm.convert_sync_batchnorm(net) if sync else net


def results(net: nn.Module, x: ag.Tensor, target: ag.Tensor) -> dict[str, np.ndarray]:
    """Output, gradients of input and parameters, and statistics of a training step."""
    y = net(x)
    loss = ((y - target) ** 2).mean()
    loss.backward()
    found = {"y": y.detach().numpy(), "x": x.grad.numpy() * len(x)}
    named = getattr(net, "module", net).named_parameters()
    found |= {name: p.grad.numpy().copy() for name, p in named}
    buffers = getattr(net, "module", net).named_buffers()
    return found | {name: b.numpy().copy() for name, b in buffers}


@pytest.mark.parametrize("parts", [(4, 4), (2, 2, 2), (5, 1, 3), (4, 0, 3)])
@pytest.mark.parametrize("kind", SHAPES)
@pytest.mark.parametrize(
    "options",
    [{}, {"affine": False, "momentum": None}, {"track_running_stats": False, "eps": 1e-3}],
)
def test_equals_one_rank_with_the_whole_batch(
    kind: str, parts: tuple[int, ...], options: dict[str, Any]
) -> None:
    shape = SHAPES[kind]
    whole, goal = data(sum(parts), shape), data(sum(parts), shape, seed=1)
    alone = model(False, 2 + len(shape), **options)
    x = ag.tensor(whole, requires_grad=True)
    expected = results(alone, x, ag.tensor(goal))

    def body() -> dict[str, np.ndarray]:
        ddp.init_process_group(timeout=20)
        net: nn.Module = model(True, 2 + len(shape), **options)
        if options.get("affine", True):
            net = ddp.DistributedDataParallel(net, bucket_cap_mb=1e-5)
        rank = ddp.get_rank()
        x = ag.tensor(cut(whole, parts)[rank], requires_grad=True)
        found = results(net, x, ag.tensor(cut(goal, parts)[rank]))
        ddp.destroy_process_group()
        return found

    ranks = run_ranks(body, len(parts))
    assert len(expected) > 2 or not options.get("affine", True)
    for name, value in expected.items():
        if name in ("y", "x"):
            got = np.concatenate([r[name] for r in ranks if r[name].size])
            np.testing.assert_allclose(got, value, rtol=1e-8, atol=1e-8, err_msg=name)
        else:
            for r in ranks:
                np.testing.assert_allclose(r[name], value, rtol=1e-9, atol=1e-10, err_msg=name)


def test_images_in_float32_take_the_fast_kernels_and_train_like_one_rank() -> None:
    images = np.random.default_rng(0).standard_normal((8, 3, 8, 8)).astype(np.float32)
    labels = np.arange(8) % 4

    def train(part: slice, wrap: bool) -> list[np.ndarray]:
        ag.manual_seed(0)
        net: nn.Module = nn.Sequential(
            nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(288, 4)
        )
        if wrap:
            net = ddp.DistributedDataParallel(SyncBatchNorm.convert_sync_batchnorm(net))
        optimizer = optim.SGD(net.parameters(), lr=0.05, momentum=0.9)
        for _ in range(3):
            optimizer.zero_grad()
            x, y = ag.tensor(images[part]), ag.tensor(labels[part])
            nn.functional.cross_entropy(net(x), y).backward()
            optimizer.step()
        return [p.detach().numpy().copy() for p in net.parameters()]

    def body() -> list[np.ndarray]:
        ddp.init_process_group(timeout=20)
        rank = ddp.get_rank()
        found = train(slice(0, 5) if rank == 0 else slice(5, 8), True)
        ddp.destroy_process_group()
        return found

    expected = train(slice(0, 8), False)
    first, second = run_ranks(body, 2)
    for a, b, c in zip(first, second, expected, strict=True):
        np.testing.assert_array_equal(a, b)
        np.testing.assert_allclose(a, c, rtol=2e-4, atol=2e-5)


def test_evaluation_uses_the_running_statistics_without_communication() -> None:
    def body() -> bool:
        ddp.init_process_group(timeout=20)
        layer = SyncBatchNorm(CHANNELS).eval()
        x = ag.tensor(data(4, (2, 2)).astype(np.float32))
        if ddp.get_rank() == 0:  # one rank alone may evaluate
            plain = nn.BatchNorm2d(CHANNELS).eval()
            np.testing.assert_array_equal(layer(x).detach().numpy(), plain(x).detach().numpy())
        ddp.barrier()
        ddp.destroy_process_group()
        return True

    assert run_ranks(body, 2) == [True, True]


def test_without_a_process_group_it_is_a_plain_batch_norm() -> None:
    x = ag.tensor(data(4, (2, 2)).astype(np.float32))
    ours, plain = SyncBatchNorm(CHANNELS), nn.BatchNorm2d(CHANNELS)
    np.testing.assert_array_equal(ours(x).detach().numpy(), plain(x).detach().numpy())
    with pytest.raises(ArgumentError, match="2 dimensions"):
        ours(ag.zeros(3))


def test_conversion_keeps_parameters_names_and_mode() -> None:
    net = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3, momentum=0.3).eval(), nn.ReLU())
    weight, state = net[1].weight, net.state_dict()
    converted = SyncBatchNorm.convert_sync_batchnorm(net)
    assert converted is net
    assert isinstance(net[1], SyncBatchNorm)
    assert net[1].weight is weight
    assert (net[1].momentum, net[1].training, net[1].affine) == (0.3, False, True)
    assert list(net.state_dict()) == list(state)
    alone = SyncBatchNorm.convert_sync_batchnorm(nn.BatchNorm2d(3, affine=False))
    assert isinstance(alone, SyncBatchNorm)
    assert alone.weight is None


def test_too_few_values_are_an_error_on_all_ranks() -> None:
    def body() -> None:
        ddp.init_process_group(timeout=20)
        count = 1 if ddp.get_rank() == 0 else 0
        SyncBatchNorm(CHANNELS)(ag.zeros(count, CHANNELS))

    with pytest.raises(ArgumentError, match="more than one value per channel on all ranks"):
        run_ranks(body, 2)


def test_a_rank_without_batches_ends_the_others_instead_of_hanging() -> None:
    def body() -> None:
        ddp.init_process_group(timeout=10)
        layer = SyncBatchNorm(CHANNELS)
        net = ddp.DistributedDataParallel(nn.Sequential(layer))
        for _ in range(2 + ddp.get_rank()):
            net(ag.tensor(data(4, ()).astype(np.float32))).sum().backward()
        ddp.barrier()

    with pytest.raises(DistributedError, match=r"SyncBatchNorm|fewer|different"):
        run_ranks(body, 2)


def test_second_derivatives_are_refused_in_words() -> None:
    def body() -> None:
        ddp.init_process_group(timeout=20)
        x = ag.tensor(data(4, ()), requires_grad=True)
        y = SyncBatchNorm(CHANNELS).double()(x)
        ag.autograd.grad((y**2).sum(), x, create_graph=True)

    with pytest.raises(AllgradError, match="SyncBatchNorm"):
        run_ranks(body, 2)


@pytest.mark.parametrize("how", ["channels_last", "bfloat16", "frozen"])
def test_layouts_half_precision_and_frozen_parameters(how: str) -> None:
    whole = data(10, (3, 3)).astype(np.float32) - 100
    parts = cut(whole, (5, 2, 3))
    tolerance = 0.02 if how == "bfloat16" else 1e-5

    def step(layer: nn.Module, x: ag.Tensor) -> tuple[np.ndarray, np.ndarray]:
        y = layer(x)
        assert y.dtype == x.dtype
        (y.float() ** 3).sum().backward()
        assert x.grad.dtype == x.dtype
        return y.detach().float().numpy(), x.grad.float().numpy()

    def body() -> tuple[np.ndarray, np.ndarray]:
        ddp.init_process_group(timeout=20)
        layer, x = SyncBatchNorm(CHANNELS), ag.tensor(parts[ddp.get_rank()])
        if how == "channels_last":
            x = x.contiguous(memory_format=ag.channels_last)
        elif how == "bfloat16":
            x = x.bfloat16()
        else:
            layer.requires_grad_(False)
        # a sum's gradient does not depend on how many samples a rank has; see the Note
        found = step(layer, x.detach().requires_grad_())
        assert (layer.weight.grad is None) == (how == "frozen")
        ddp.destroy_process_group()
        return found

    y, _ = step(nn.BatchNorm2d(CHANNELS), ag.tensor(whole, requires_grad=True))
    ranks = run_ranks(body, 3)
    for mine, part in zip(ranks, cut(y, (5, 2, 3)), strict=True):
        np.testing.assert_allclose(mine[0], part, rtol=tolerance, atol=tolerance)
