"""Steps with DistributedDataParallel as CUDA graphs: on emulated GPUs, one for each rank."""

from __future__ import annotations

import time

import numpy as np
import pytest

import allgrad as ag
from allgrad import ddp, nn, optim
from allgrad.ddp import DistributedDataParallel
from allgrad.ddp.communicators.thread import current_thread_rank
from allgrad.errors import DistributedError


class Scale(nn.Module):
    """An affine map of each feature, and a buffer that counts its calls."""

    def __init__(self, features):
        super().__init__()
        self.register_buffer("calls", ag.zeros(()))
        self.weight = nn.Parameter(ag.ones(features))
        self.bias = nn.Parameter(ag.zeros(features))

    def forward(self, x):
        if self.training:
            self.calls.add_(1)
        return x * self.weight + self.bias


def captured(step):
    """What replays `step` as a CUDA graph; the step itself is not made."""
    import cupy

    from allgrad.backend.cuda import device

    capture, stream = device.Capture(), cupy.cuda.get_current_stream()
    pool = cupy.cuda.MemoryPool()
    device.begin_capture(capture)
    stream.begin_capture()
    try:
        with cupy.cuda.using_allocator(pool.malloc):
            step()
    finally:
        graph = stream.end_capture()
        device.end_capture()

    def replay(pool=pool):
        for callback in capture.callbacks:
            callback()
        graph.launch(stream)

    return replay


def trained(graph, warm=2, count=6, check_every=3, **options):
    """Parameters after `warm` steps on two ranks, and `count` more, captured or not."""

    def main():
        ddp.init_process_group("nccl")
        ag.manual_seed(1)
        model = nn.Sequential(Scale(4), Scale(4))
        options.setdefault("static_graph", True)
        wrapped = DistributedDataParallel(
            model.to("cuda"), check_replicas_every=check_every, **options
        )
        optimizer = optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        rng = np.random.default_rng(ddp.get_rank())
        x = ag.zeros(3 + ddp.get_rank(), 4, device="cuda")

        def step():
            out = wrapped(x)
            out.backward(out.detach() / len(x))
            optimizer.step()
            model.zero_grad(set_to_none=False)

        def feed():
            x._array.set(rng.normal(size=x.shape).astype(np.float32))

        for _ in range(warm):
            feed()
            step()
        replay = captured(step) if graph else step
        for _ in range(count):
            feed()
            replay()
        steps = wrapped._reducer.steps
        state = {k: v.cpu().numpy().tobytes() for k, v in model.state_dict().items()}
        ddp.destroy_process_group()
        return steps, state

    return ddp.run_ranks(main, 2)


def test_replays_are_the_same_bits(gpus):
    eager, replayed = trained(graph=False), trained(graph=True)
    assert [steps for steps, _ in replayed] == [8, 8]
    assert eager == replayed


@pytest.mark.parametrize(
    ("options", "warm", "words"),
    [
        (
            {"static_graph": False},
            2,
            "wrap the model with DistributedDataParallel.*static_graph=True",
        ),
        ({}, 0, "Make some steps before cuda.capture"),
    ],
)
def test_what_must_be_there_before(gpus, options, warm, words):
    with pytest.raises(DistributedError, match=f"cannot be captured as a CUDA graph: .*{words}"):
        trained(graph=True, warm=warm, **options)


def test_main_memory_cannot_be_captured(gpus, monkeypatch):
    monkeypatch.setattr(
        ddp, "init_process_group", lambda _, real=ddp.init_process_group: real("gloo")
    )
    with pytest.raises(DistributedError, match="its gradients travel through main memory"):
        trained(graph=True)


def test_all_ranks_capture_or_none(gpus):
    def main():
        ddp.init_process_group("nccl")
        model = Scale(2).to("cuda")
        wrapped = DistributedDataParallel(model, static_graph=True)
        x = ag.ones(1, 2, device="cuda")

        def step():
            out = wrapped(x)
            out.backward(ag.ones_like(out))

        step()
        step()
        if ddp.get_rank():
            step()
        else:
            captured(step)

    with pytest.raises(DistributedError, match="some ranks capture or replay a step as a CUDA"):
        ddp.run_ranks(main, 2)


def test_a_rank_that_replays_no_longer_is_found(gpus):
    def main():
        ddp.init_process_group("nccl")
        model = Scale(2).to("cuda")
        wrapped = DistributedDataParallel(model, static_graph=True, check_replicas_every=2)
        x = ag.ones(1, 2, device="cuda")

        def step():
            out = wrapped(x)
            out.backward(ag.ones_like(out))

        step()
        replay = captured(step)
        for _ in range(4 if ddp.get_rank() else 2):
            replay()
        ddp.barrier()

    with pytest.raises(DistributedError, match="rank 0 makes no further step while rank 1 "):
        ddp.run_ranks(main, 2)


def test_a_replay_that_does_not_end_is_found(gpus, monkeypatch):
    from allgrad.ddp.communicators import nccl_watch

    monkeypatch.setattr(nccl_watch, "PERIOD_S", 0.02)

    def main():
        ddp.init_process_group("nccl", timeout=0.5)
        model = Scale(2).to("cuda")
        wrapped = DistributedDataParallel(model, static_graph=True)
        x = ag.ones(1, 2, device="cuda")

        def step():
            out = wrapped(x)
            out.backward(ag.ones_like(out))

        step()
        replay = captured(step)
        replay()
        if ddp.get_rank() == 0:
            replay()
        world, _ = current_thread_rank()
        while world.error is None:
            time.sleep(0.01)
        model.zero_grad()  # nothing is left that anybody would wait for

    with pytest.raises(DistributedError, match=r"replay 2 of a CUDA graph; not .* it: rank 1"):
        ddp.run_ranks(main, 2)


def test_capture_of_a_whole_training_step(gpus):
    """`allgrad.cuda.capture` around a network, its all-reduces and the optimizer."""

    def main(enabled):
        ddp.init_process_group("nccl")
        ag.manual_seed(1)
        model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3))
        wrapped = DistributedDataParallel(model.to("cuda"), static_graph=True)
        optimizer = optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        rng = np.random.default_rng(ddp.get_rank())

        def step(x, y):
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(wrapped(x), y)
            loss.backward()
            optimizer.step()
            return loss

        train = ag.cuda.capture(step, warmup=2, enabled=enabled)
        losses = []
        for _ in range(5):
            x = ag.from_numpy(rng.normal(size=(8, 4)).astype(np.float32)).to("cuda")
            y = ag.from_numpy(rng.integers(0, 3, 8)).to("cuda")
            losses.append(train(x, y).item())
        made = train.replays, wrapped._reducer.steps
        state = {k: v.cpu().numpy().tobytes() for k, v in model.state_dict().items()}
        ddp.destroy_process_group()
        return made, losses, state

    eager = ddp.run_ranks(lambda: main(False), 2)
    replayed = ddp.run_ranks(lambda: main(True), 2)
    assert [made for made, _, _ in replayed] == [(3, 5)] * 2
    assert [found[1:] for found in eager] == [found[1:] for found in replayed]
