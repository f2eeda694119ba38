"""Captured steps: the same bits as eager ones, no Python in between, errors that explain."""

from __future__ import annotations

import gc

import numpy as np
import pytest

import allgrad as ag
import allgrad.nn.functional as F
from allgrad import nn

pytestmark = pytest.mark.usefixtures("gpu")

BATCH, STEPS = 4, 100


class Net(nn.Module):
    """Everything that a small network for images has."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.drop = nn.Dropout(0.3)
        self.fc = nn.Linear(4 * 3 * 3, 5)

    def forward(self, x):
        x = F.max_pool2d(F.relu(self.norm(self.conv(x))), 2)
        return self.fc(self.drop(x.flatten(1)))


def batches():
    rng = np.random.default_rng(5)
    for _ in range(STEPS):
        yield (
            ag.tensor(rng.standard_normal((BATCH, 1, 6, 6)).astype(np.float32)),
            ag.tensor(rng.integers(0, 5, BATCH)),
        )


def train(enabled, optimizer=lambda p: ag.optim.SGD(p, lr=0.05, momentum=0.9, nesterov=True)):
    """(losses, final state, the step) of a training with a learning rate that changes."""
    ag.manual_seed(1)
    ag.cuda.manual_seed(7)
    net = Net().cuda()
    opt = optimizer(net.parameters())
    schedule = ag.optim.lr_scheduler.CosineAnnealingLR(opt, STEPS)

    def step(x, y):
        opt.zero_grad()
        loss = F.cross_entropy(net(x), y, label_smoothing=0.1)
        loss.backward()
        opt.step()
        return loss

    step = ag.cuda.capture(step, warmup=2, enabled=enabled)
    losses = []
    for x, y in batches():
        losses.append(step(x.cuda(), y.cuda()).clone())
        schedule.step()
    state = {k: v.cpu().numpy() for k, v in net.state_dict().items()}
    return [float(v) for v in losses], state, step


def test_eager_and_captured_give_the_same_bits():
    losses, state, eager = train(False)
    captured_losses, captured_state, captured = train(True)
    assert eager.eager_calls == STEPS
    assert (captured.eager_calls, captured.replays) == (2, STEPS - 2)
    assert captured_losses == losses
    for name, value in state.items():
        np.testing.assert_array_equal(captured_state[name], value, err_msg=name)
    assert len(set(losses)) > STEPS / 2


def test_clipping_and_adam_are_part_of_a_recording():
    def trained(enabled):
        ag.manual_seed(2)
        net = nn.Linear(6, 3).cuda()
        opt = ag.optim.AdamW(net.parameters(), lr=0.01)

        def step(x):
            opt.zero_grad()
            (net(x) ** 2).sum().backward()
            norm = nn.utils.clip_grad_norm_(net.parameters(), 0.5)
            opt.step()
            return norm

        step = ag.cuda.capture(step, warmup=1, enabled=enabled)
        rng = np.random.default_rng(0)
        norms = []
        for i in range(8):
            opt.param_groups[0]["lr"] = 0.01 / (i + 1)
            x = ag.tensor(rng.standard_normal((4, 6)).astype(np.float32), device="cuda")
            norms.append(step(x).clone())
        return [float(n) for n in norms], net.weight.detach().cpu().numpy()

    norms, weight = trained(False)
    captured_norms, captured_weight = trained(True)
    assert captured_norms == norms
    np.testing.assert_array_equal(captured_weight, weight)
    assert min(norms) > 0.5  # it did clip


def test_dropout_differs_from_replay_to_replay():
    x = ag.ones(1000, device="cuda")
    drop = ag.cuda.capture(lambda: F.dropout(x, 0.5), warmup=1)
    seen = [tuple((drop() != 0).cpu().tolist()) for _ in range(4)]
    assert drop.replays == 3
    assert len(set(seen)) == 4


def test_arguments_are_copied_and_nests_come_back():
    calls = []

    def step(batch, *, scale):
        calls.append(1)
        return {"twice": batch["x"] * scale, "pair": (batch["x"] + 1,)}

    step = ag.cuda.capture(step, warmup=1)
    for value in range(4):
        out = step({"x": ag.full((3,), float(value))}, scale=2.0)  # from main memory
        assert out["twice"].tolist() == [2.0 * value] * 3
        assert out["pair"][0].tolist() == [value + 1.0] * 3
    assert len(calls) == 2
    assert out["twice"].is_cuda


def test_another_shape_or_number_is_another_recording():
    step = ag.cuda.capture(lambda x, k: x.sum() * k, warmup=1)
    for n, k in [(2, 1.0), (3, 1.0), (2, 5.0)] * 3:
        assert float(step(ag.ones(n, device="cuda"), k)) == n * k
    assert (step.eager_calls, step.replays) == (3, 6)


def test_too_many_recordings_are_refused():
    step = ag.cuda.capture(lambda x: x + 1, warmup=1)
    for n in range(1, 9):
        for _ in range(2):
            step(ag.ones(n, device="cuda"))
    nine = ag.ones(9, device="cuda")
    step(nine)
    with pytest.raises(RuntimeError, match=r"more than 8 different shapes.*drop_last"):
        step(nine)


@pytest.mark.parametrize("look", [
    lambda t: t.item(), lambda t: float(t.sum()), lambda t: t.cpu(), lambda t: t.tolist(),
    lambda t: bool(t.sum() > 1), lambda t: t + ag.ones(3).cuda(), lambda t: t[t > 0],
], ids=["item", "float", "cpu", "tolist", "if", "upload", "mask"])  # fmt: skip
def test_what_cannot_be_recorded_is_said_and_nothing_is_broken(look):
    def step(x):
        y = x * 2
        if ag.cuda.is_current_stream_capturing():
            look(y)
        return y

    step = ag.cuda.capture(step, warmup=1)
    x = ag.ones(3, device="cuda")
    step(x)
    with pytest.raises(RuntimeError) as caught:
        step(x)
    assert any("CUDA graph" in note for note in caught.value.__notes__)
    assert not ag.cuda.is_current_stream_capturing()
    assert gc.isenabled()
    assert (x + 1).tolist() == [2.0] * 3  # the stream works again


def test_pieces():
    static = ag.zeros(3, device="cuda")
    for _ in range(2):
        out = static * 2 + 1
    g = ag.cuda.CUDAGraph()
    with pytest.raises(RuntimeError, match="nothing was recorded"):
        g.replay()
    with ag.cuda.graph(g):
        out = static * 2 + 1
    static.fill_(4)
    g.replay()
    assert out.tolist() == [9.0] * 3
    with pytest.raises(RuntimeError, match="reset"), ag.cuda.graph(g):
        pass


def test_nothing_is_allocated_by_replays(gpu):
    x = ag.ones(1000, device="cuda")
    step = ag.cuda.capture(lambda: (x * 2).sum(), warmup=1)
    for _ in range(2):
        step()
    before = gpu.get_default_memory_pool().used_bytes()
    for _ in range(5):
        step()
    assert gpu.get_default_memory_pool().used_bytes() == before


def test_without_a_gpu_every_call_is_eager(monkeypatch):
    from allgrad.backend.cuda import availability

    monkeypatch.setattr(availability, "_noted", [])
    step = ag.cuda.capture(lambda x: x + 1)
    for _ in range(5):
        assert step(ag.ones(1)).tolist() == [2.0]
    assert (step.eager_calls, step.replays) == (5, 0)
    with pytest.raises(ValueError, match="warmup"):
        ag.cuda.capture(lambda: None, warmup=0)
