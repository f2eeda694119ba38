"""What the wrapper offers, on GPUs as on the CPU: hooks, groups, messages, SyncBatchNorm, ZeRO."""

from __future__ import annotations

import numpy as np
import pytest

import allgrad as ag
from allgrad import ddp, nn, optim
from allgrad.ddp import DistributedDataParallel
from allgrad.ddp.comm_hooks import default_hooks, powerSGD_hook
from allgrad.ddp.process_group import default_group

BACKENDS = ["nccl", "gloo"]


def same(body, size=2, backend="nccl", rtol=2e-5):
    """The arrays that `body(device)` returns are the same on GPUs as on the CPU, rank by rank."""
    found = {}
    for device in ("cpu", "cuda"):

        def main(device=device):
            ddp.init_process_group(backend if device == "cuda" else None)
            result = body(device)
            ddp.destroy_process_group()
            return [np.asarray(v.detach().cpu().numpy()) for v in result]

        found[device] = ddp.run_ranks(main, size)
    for cpu, gpu in zip(found["cpu"], found["cuda"], strict=True):
        assert len(cpu) == len(gpu) > 0
        for a, b in zip(cpu, gpu, strict=True):
            np.testing.assert_allclose(b, a, rtol=rtol, atol=1e-6)
    return found["cuda"]


def steps(wrapped, device, optimizer=None, count=3, rows=4):
    for step in range(count):
        rng = np.random.default_rng(10 * step + ddp.get_rank())
        x = ag.from_numpy(rng.normal(size=(rows, 6)).astype(np.float32)).to(device)
        wrapped.zero_grad()
        out = wrapped(x)
        out.backward(out.detach() / rows)
        if optimizer is not None:
            optimizer.step()


def mlp(device):
    ag.manual_seed(5)
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 4)).to(device)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    "hook", ["allreduce_hook", "fp16_compress_hook", "bf16_compress_hook", "fp16_compress_wrapper"]
)
def test_hooks(gpus, hook, backend):
    def body(device):
        wrapped = DistributedDataParallel(mlp(device))
        function = getattr(default_hooks, hook)
        if hook.endswith("wrapper"):
            function = function(default_hooks.allreduce_hook)
        wrapped.register_comm_hook(None, function)
        steps(wrapped, device)
        return [p.grad for p in wrapped.parameters()]

    same(body, backend=backend, rtol=2e-2 if "bf16" in hook else 2e-3)


@pytest.mark.parametrize("epsilon", [0, 1e-8])
def test_power_sgd(gpus, epsilon):
    def body(device):
        wrapped = DistributedDataParallel(mlp(device))
        state = powerSGD_hook.PowerSGDState(
            None, start_powerSGD_iter=2, orthogonalization_epsilon=epsilon, min_compression_rate=1
        )
        wrapped.register_comm_hook(state, powerSGD_hook.powerSGD_hook)
        steps(wrapped, device, count=5)
        assert state.compression_stats()[0] > 1
        return [p.grad for p in wrapped.parameters()]

    same(body, rtol=1e-4)


@pytest.mark.parametrize("backend", BACKENDS)
def test_sync_batchnorm(gpus, backend):
    def body(device):
        ag.manual_seed(2)
        model = nn.Sequential(nn.Linear(6, 5), nn.SyncBatchNorm(5), nn.Linear(5, 3)).to(device)
        wrapped = DistributedDataParallel(model)
        steps(wrapped, device, rows=3 + ddp.get_rank())
        return [*(p.grad for p in model.parameters()), *model.buffers()]

    same(body, backend=backend, rtol=1e-4)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("attach", [False, True])
def test_zero(gpus, backend, attach):
    def body(device):
        model = mlp(device)
        wrapped = DistributedDataParallel(model)
        optimizer = ddp.ZeroRedundancyOptimizer(model.parameters(), optim.SGD, lr=0.1, momentum=0.9)
        if attach:
            optimizer.attach(wrapped)
        steps(wrapped, device, optimizer)
        norm = optimizer.clip_grad_norm_(0.5)
        return [*model.parameters(), norm]

    same(body, backend=backend)


@pytest.mark.parametrize("backend", BACKENDS)
def test_reproducible_on_any_number_of_ranks(gpus, backend):
    """The same bits on 1, 2 and 4 ranks, with random numbers that are drawn on the GPU."""

    def main():
        ddp.init_process_group(backend)
        rank, size = ddp.get_rank(), ddp.get_world_size()
        ag.manual_seed(4)
        model = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Dropout(0.4))
        model.append(nn.Linear(8, 4))
        wrapped = DistributedDataParallel(model.to("cuda"), logical_shards=8)
        optimizer = optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        for step in range(3):
            whole = np.random.default_rng(step).normal(size=(16, 6)).astype(np.float32)
            x = ag.from_numpy(whole[16 * rank // size : 16 * (rank + 1) // size]).to("cuda")
            optimizer.zero_grad()
            for part in wrapped.shards(x):
                out = wrapped(part)
                out.backward(out.detach() / len(out))
            optimizer.step()
        state = {k: v.cpu().numpy().tobytes() for k, v in model.state_dict().items()}
        ddp.destroy_process_group()
        return state

    states = [state for size in (1, 2, 4) for state in ddp.run_ranks(main, size)]
    assert len(states) == 7
    for state in states[1:]:
        assert state == states[0]


@pytest.mark.parametrize("backend", BACKENDS)
def test_groups_and_messages(gpus, backend):
    def body(device):
        rank = ddp.get_rank()
        low = ddp.new_group([0, 1])
        high = ddp.new_group([2, 3])
        x = ag.ones(2, device=device) * (rank + 1)
        ddp.all_reduce(x)  # opens the GPUs' part before the next groups
        pairs, _ = ddp.new_subgroups(2)
        ddp.all_reduce(x, group=low if rank < 2 else high)
        ddp.all_reduce(x, group=pairs)
        if device == "cuda":
            part = pairs.communicator.gpu_part
            assert part.name == ("nccl" if backend == "nccl" else "staged")
            assert (part.rank, part.size) == (rank % 2, 2)
        y = ag.zeros(3, device=device)
        ops = [
            ddp.P2POp(ddp.isend, ag.ones(3, device=device) * rank, (rank + 1) % 4),
            ddp.P2POp(ddp.irecv, y, (rank - 1) % 4),
        ]
        for work in ddp.batch_isend_irecv(ops):
            work.wait()
        if rank == 0:
            ddp.send(x, 3)
        elif rank == 3:
            assert ddp.recv(x, 0) == 0
        return [x, y]

    same(body, size=4, backend=backend)


def test_buffers_are_averaged(gpus):
    def body(device):
        ag.manual_seed(2)
        model = nn.Sequential(nn.Linear(6, 5), nn.BatchNorm1d(5)).to(device)
        wrapped = DistributedDataParallel(model, buffer_sync="average")
        steps(wrapped, device)
        return list(model.buffers())

    found = same(body)
    assert all((a == b).all() for a, b in zip(*found, strict=True))


def test_a_rank_without_batches_joins(gpus):
    def body(device):
        model = mlp(device)
        wrapped = DistributedDataParallel(model)
        optimizer = optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        with wrapped.join():
            steps(wrapped, device, optimizer, count=3 - ddp.get_rank())
        steps(wrapped, device, optimizer, count=1)
        return list(model.parameters())

    found = same(body)
    assert all((a == b).all() for a, b in zip(*found, strict=True))


def test_no_sync_and_copies(gpus):
    def body(device):
        wrapped = DistributedDataParallel(mlp(device), gradient_as_bucket_view=False)
        x = ag.ones(2, 6, device=device) * (1 + ddp.get_rank())
        with wrapped.no_sync():
            out = wrapped(x)
            out.backward(out.detach())
        out = wrapped(2 * x)
        out.backward(out.detach())
        return [p.grad for p in wrapped.parameters()]

    same(body)


def test_fingerprint_and_replicas(gpus):
    def main():
        ddp.init_process_group("nccl")
        model = mlp("cuda")
        wrapped = DistributedDataParallel(model)
        ddp.check_replicas(wrapped)
        prints = ddp.fingerprint(wrapped, check=True), ddp.fingerprint(mlp("cpu"))
        ddp.destroy_process_group()
        return prints

    for on_gpu, on_cpu in ddp.run_ranks(main, 2):
        assert on_gpu == on_cpu


def test_one_rank(gpus):
    for backend in (None, "nccl"):
        ddp.init_process_group(backend)
        x = ag.ones(2, device="cuda")
        ddp.all_reduce(x)
        assert x.tolist() == [1, 1]
        part = default_group().communicator.gpu_part
        assert part.name == ("nccl" if backend else "local")
        ddp.destroy_process_group()


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64", "int64", "bool", "complex64"])
@pytest.mark.parametrize("backend", BACKENDS)
def test_types(gpus, dtype, backend):
    def body(device):
        x = ag.tensor([1, 0, 3]).to(getattr(ag, dtype)).to(device)
        ddp.all_reduce(x)
        return [x.float() if dtype == "bfloat16" else x]

    same(body, backend=backend)
