"""DistributedDataParallel on GPUs: the same numbers as on the CPU, and no wait of the host."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from support.emulated_gpu import state

import allgrad as ag
from allgrad import ddp, nn, optim
from allgrad.ddp import DistributedDataParallel
from allgrad.errors import DistributedError, OptionError


def net(norm=True):
    ag.manual_seed(3)
    middle = nn.BatchNorm1d(5) if norm else nn.Identity()
    return nn.Sequential(nn.Linear(6, 5), middle, nn.Tanh(), nn.Linear(5, 3))


def batch(rank, size):
    rng = np.random.default_rng(7)
    x, y = (rng.normal(size=(32, n)).astype(np.float32) for n in (6, 3))
    own = slice(32 * rank // size, 32 * (rank + 1) // size)
    return x[own], y[own]


def train(device, steps=3, size=1, rank=0, norm=True, **options):
    model = net(norm).to(device)
    optimizer = optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    wrapped = DistributedDataParallel(model, **options)
    for _ in range(steps):
        x, y = (ag.from_numpy(a).to(device) for a in batch(rank, size))
        optimizer.zero_grad()
        out = wrapped(x)
        out.backward((out.detach() - y) / len(x))
        optimizer.step()
    return {name: t.detach().cpu().numpy() for name, t in model.state_dict().items()}


def ranks(size, backend, device, **options):
    def main():
        ddp.init_process_group(backend)
        trained = train(device, size=size, rank=ddp.get_rank(), **options)
        ddp.destroy_process_group()
        return trained

    return ddp.run_ranks(main, size)


@pytest.mark.parametrize("size", [2, 4])
@pytest.mark.parametrize("backend", ["nccl", "gloo"])
def test_as_on_the_cpu(gpus, size, backend):
    expected = ranks(size, None, "cpu")
    for found in ranks(size, backend, "cuda"):
        for name, value in expected[0].items():
            np.testing.assert_allclose(found[name], value, rtol=2e-5, atol=1e-6, err_msg=name)


def recorded(size, backend, orders=None, steps=3, **options):
    """Per rank, what its streams were asked for in the last backward, and how often a host waited.

    Streams are called "compute" and "comm"; kernels of the backward itself are left out.
    """

    def main():
        ddp.init_process_group(backend)
        rank = ddp.get_rank()
        branches = nn.ModuleList(nn.Linear(4, 40) for _ in range(4)).to("cuda")
        wrapped = DistributedDataParallel(_Branches(branches, orders, rank), **options)
        from allgrad.backend.cuda import device

        names = {device.stream().ptr: "compute", wrapped._reducer._layout.arrays.stream.ptr: "comm"}
        for step in range(steps):
            out = wrapped(ag.ones(2, 4, device="cuda"))
            if step == steps - 1:
                ddp.barrier()
                state.log.clear()
                state.counts["synchronisations"] = 0
                ddp.barrier()
            out.backward(ag.ones_like(out))
        ddp.barrier()
        waits = state.counts["synchronisations"]
        log = [(what, names[ptr]) for what, ptr in list(state.log) if ptr in names]
        ddp.barrier()
        ddp.destroy_process_group()
        return [e for e in log if e[1] == "comm" or e[0] in ("record", "wait_event")], waits

    return ddp.run_ranks(main, size)


class _Branches(nn.Module):
    """Layers side by side, whose gradients become ready in an order of the rank's own."""

    def __init__(self, layers, orders, rank):
        super().__init__()
        self.layers = layers
        self.order = orders[rank] if orders else range(len(layers))

    def forward(self, x):
        outs = [self.layers[i](x) for i in self.order]
        total = outs[0]
        for out in outs[1:]:
            total = total + out
        return total


@pytest.mark.parametrize("orders", [None, [(0, 1, 2, 3), (3, 1, 0, 2)]])
def test_order_of_streams_and_no_wait_of_the_host(gpus, orders):
    found = recorded(2, "nccl", orders, bucket_cap_mb=0)
    calls = [[what for what, _ in log if what.startswith("ncclAllReduce")] for log, _ in found]
    assert calls[0] == calls[1]
    assert len(calls[0]) == 8  # a bucket for each gradient
    for (log, waits), mine in zip(found, calls, strict=True):
        assert waits == 0
        expected = []
        for call in mine:
            expected += [("record", "compute"), ("wait_event", "comm"), (call, "comm")]
            expected.append(("record", "comm"))
        # and only at the end of backward, what comes next waits for all of them
        assert log == expected + [("wait_event", "compute")] * 8


def test_buckets_lie_on_the_gpu(gpus):
    def main():
        ddp.init_process_group("nccl")
        model = net().to("cuda")
        wrapped = DistributedDataParallel(model)
        x, y = (ag.from_numpy(a).to("cuda") for a in batch(ddp.get_rank(), 2))
        out = wrapped(x)
        out.backward(out.detach() - y)
        memory = wrapped._reducer.memory
        places = [p.grad._array.data.ptr - memory.data.ptr for p in model.parameters()]
        inside = all(0 <= place < memory.nbytes for place in places)
        ddp.destroy_process_group()
        return inside, [place % 256 for place in places], memory.data.ptr % 256

    for inside, offsets, start in ddp.run_ranks(main, 2):
        assert inside
        assert set(offsets) == {0}
        assert start == 0


@pytest.mark.parametrize("backend", ["nccl", "gloo"])
def test_unequal_batches_and_unused_parameters(gpus, backend):
    """The mean over all samples; a layer that only rank 0 uses."""

    def main():
        ddp.init_process_group(None if device == "cpu" else backend)
        rank = ddp.get_rank()
        ag.manual_seed(1)
        layers = nn.ModuleList([nn.Linear(3, 3), nn.Linear(3, 3), nn.Linear(3, 3)]).to(device)
        model = _Branches(layers, [(0, 1), (0,)], rank)
        wrapped = DistributedDataParallel(model, unused_parameters="ignore")
        for _ in range(3):
            model.zero_grad()
            x = ag.ones(5 - 2 * rank, 3, device=device) * (rank + 1)
            out = wrapped(x)
            out.backward(ag.ones_like(out) / len(x))
        grads = [None if p.grad is None else p.grad.cpu().numpy() for p in model.parameters()]
        ddp.destroy_process_group()
        return grads

    device = "cpu"
    expected = ddp.run_ranks(main, 2)[0]
    device = "cuda"
    for grads in ddp.run_ranks(main, 2):
        for found, wanted in zip(grads, expected, strict=True):
            assert (found is None) == (wanted is None)
            if wanted is not None:
                np.testing.assert_allclose(found, wanted, rtol=1e-6)


@pytest.mark.parametrize("check_every", [2, 7])
def test_replicas_that_differ_are_found(gpus, check_every):
    def main():
        ddp.init_process_group("nccl")
        model = nn.Linear(3, 2).to("cuda")
        wrapped = DistributedDataParallel(model, check_replicas_every=check_every)
        for step in range(2 * check_every):
            if step == 1 and ddp.get_rank() == 1:
                model.weight._array[...] = model.weight._array + 1
            out = wrapped(ag.ones(1, 3, device="cuda"))
            out.backward(ag.ones_like(out))

    with pytest.raises(DistributedError, match=r"replicas of Linear.*'weight' is the first of 1"):
        ddp.run_ranks(main, 2)


def test_parameters_on_two_devices(gpus):
    def main():
        ddp.init_process_group()
        model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2).to("cuda"))
        DistributedDataParallel(model)

    with pytest.raises(DistributedError, match=r"on one device, but '0.bias' on the CPU, '1.bias'"):
        ddp.run_ranks(main, 2)


def test_device_ids(gpus):
    def main():
        ddp.init_process_group("nccl")
        model = nn.Linear(2, 2).to("cuda")
        with pytest.raises(OptionError, match=r"device_ids=\['cpu'\].*it lies on cuda:[01]"):
            DistributedDataParallel(model, device_ids=["cpu"])
        wrapped = DistributedDataParallel(
            model, device_ids=[ddp.get_rank()], output_device=ddp.get_rank()
        )
        out = wrapped(ag.ones(1, 2))  # moved
        ddp.destroy_process_group()
        return out.device.type

    assert ddp.run_ranks(main, 2) == ["cuda", "cuda"]


@pytest.mark.parametrize("size", [2, 4])
def test_ranks_on_one_gpu_are_one_rank_with_the_whole_batch(gpu, size):
    def main():
        ddp.init_process_group()
        found = train("cuda", size=ddp.get_world_size(), rank=ddp.get_rank(), norm=False)
        ddp.destroy_process_group()
        return found

    (alone,) = ddp.run_ranks(main, 1)
    for found in ddp.run_ranks(main, size):
        for name, value in alone.items():
            np.testing.assert_allclose(found[name], value, rtol=1e-5, atol=1e-6, err_msg=name)


@pytest.mark.mpi
def test_processes_share_a_gpu(mpirun, tmp_path):
    """Two processes, one GPU, MPI's shared memory between them."""
    folder = Path(__file__).parents[2]
    done = mpirun(
        2,
        f"""
        import sys; sys.path.insert(0, {str(folder)!r})
        from support.emulated_gpu import emulated_gpu
        import numpy as np, allgrad as ag
        from allgrad import ddp, nn
        with emulated_gpu(1):
            ddp.init_process_group()
            x = ag.ones(3_000_001, device="cuda") * (1 + ddp.get_rank())  # several pieces
            ddp.all_reduce(x)
            assert (x.cpu().numpy() == 3).all()
            model = ddp.DistributedDataParallel(nn.Linear(3, 2).to("cuda"))
            out = model(ag.ones(4, 3, device="cuda") * (1 + ddp.get_rank()))
            out.backward(ag.ones_like(out) / 4)
            assert model.module.weight.grad.cpu().tolist() == [[1.5, 1.5, 1.5]] * 2
            ddp.destroy_process_group()
        """,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("arrays of GPUs travel through main memory, not by NCCL: host") == 1


def test_communication_report_is_of_the_gpu(gpus, monkeypatch):
    monkeypatch.setattr(gpus.cuda, "get_elapsed_time", lambda a, b: 4.0 if a.timing else 0.0)

    def main():
        ddp.init_process_group("nccl")
        wrapped = DistributedDataParallel(nn.Linear(4, 4).to("cuda"))
        for _ in range(16):
            out = wrapped(ag.ones(1, 4, device="cuda"))
            out.backward(ag.ones_like(out))
        wrapped.module.weight.grad.cpu()
        report = wrapped.communication_report()
        ddp.destroy_process_group()
        return report

    for report in ddp.run_ranks(main, 2):
        assert report["steps"] == 16
        assert report["communication_s"] == pytest.approx(16 * 0.004)  # two steps were timed
        assert report["exposed_s"] == report["communication_s"]
