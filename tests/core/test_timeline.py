"""The timeline: what core writes into it, and that without one nothing is written."""

from __future__ import annotations

import sys
import threading
import types
from time import perf_counter

import numpy as np
import pytest

import allgrad as ag
from allgrad import nn, timeline
from allgrad.autograd import call_after_nodes
from allgrad.errors import GradientError, OptionError
from allgrad.nvtx import NvtxTimeline
from allgrad.timeline import Step, Timeline
from allgrad.utils.data import DataLoader, TensorDataset


@pytest.fixture
def steps():
    """The steps that were recorded; a timeline is active on this thread."""
    found: list[Step] = []
    timeline.activate(Timeline(found.append))
    yield found
    timeline.activate(None)


def train(count, optimizer_class=ag.optim.SGD):
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    optimizer = optimizer_class(model.parameters(), lr=0.1)
    data = TensorDataset(ag.tensor(np.ones((4 * count, 4), np.float32)))
    for (x,) in DataLoader(data, batch_size=4):
        with timeline.span("augment", sides=2):
            x = x * 1
        optimizer.zero_grad()
        model(x).sum().backward()
        optimizer.step()
    return model


def categories(step):
    return [event[1] for event in step.events]


def test_a_step_has_data_spans_backward_by_node_and_the_optimizer(steps):
    train(3)
    assert [s.index for s in steps] == [0, 1, 2]
    for step in steps:
        kinds = categories(step)
        assert kinds.count("data") == 1
        assert kinds.count("backward") == 1
        assert kinds.count("optimizer") == 1
        assert kinds.count("node") >= 3
        assert step.dropped == 0
        for name, category, begin, end, details in step.events:
            assert step.begin_s <= begin <= end <= step.end_s
            if category == "user":
                assert (name, details) == ("augment", {"sides": 2})
        backward = next(e for e in step.events if e[1] == "backward")
        nodes = [e for e in step.events if e[1] == "node"]
        assert all(backward[2] <= n[2] <= n[3] <= backward[3] for n in nodes)
    assert steps[1].begin_s == steps[0].end_s


def test_nodes_carry_the_names_of_parameters(steps):
    model = nn.Linear(3, 2)
    timeline.active().names.update({id(p): name for name, p in model.named_parameters()})
    model(ag.ones(1, 3)).sum().backward()
    timeline.active().flush()
    assert any(e[1] == "node" and e[0].endswith(" weight") for e in steps[0].events)


def test_an_optimizer_whose_step_calls_its_base_class_is_one_event(steps):
    class Louder(ag.optim.SGD):
        def step(self, closure=None):
            return super().step(closure)

    train(2, Louder)
    assert len(steps) == 2
    assert all(categories(s).count("optimizer") == 1 for s in steps)


def test_with_two_optimizers_the_first_ends_the_steps(steps):
    a, b = nn.Linear(2, 2), nn.Linear(2, 2)
    first, second = (ag.optim.SGD(m.parameters(), lr=0.1) for m in (a, b))
    for _ in range(3):
        for model, optimizer in ((a, first), (b, second)):
            model(ag.ones(1, 2)).sum().backward()
            optimizer.step()
    assert len(steps) == 3
    assert categories(steps[1]).count("optimizer") == 2


def test_a_script_without_optimizer_ends_its_steps_itself(steps):
    for _ in range(2):
        with timeline.span("by hand"):
            pass
        timeline.active().end_step()
    assert [s.index for s in steps] == [0, 1]


def test_only_the_steps_asked_for_are_kept():
    found = []
    timeline.activate(Timeline(found.append, first=1, last=3))
    try:
        train(5)
    finally:
        timeline.activate(None)
    assert [s.index for s in found] == [1, 2]


def test_an_endless_step_is_cut(steps, monkeypatch):
    monkeypatch.setattr(timeline, "MOST_EVENTS", 10)
    for _ in range(25):
        timeline.active().add("x", "user", 0.0, 1.0)
    timeline.active().flush()
    assert len(steps[0].events) == 10
    assert steps[0].dropped == 15


def test_a_data_loader_that_ends_or_fails_is_recorded_too(steps):
    list(DataLoader(TensorDataset(ag.ones(2, 1)), batch_size=2))
    timeline.active().flush()
    assert categories(steps[0]) == ["data", "data"]  # the batch, and the look past the end


def test_threads_do_not_see_each_other(steps):
    seen = []
    thread = threading.Thread(target=lambda: seen.append(timeline.active()))
    thread.start()
    thread.join()
    assert seen == [None]


def test_without_a_timeline_a_span_does_nothing():
    assert timeline.active() is None
    begin = perf_counter()
    with timeline.span("nothing"):
        pass
    assert perf_counter() - begin < 1
    train(1)


def test_call_after_nodes_counts_nodes_of_this_run_only():
    calls = []
    x = ag.ones(3, requires_grad=True)
    hooked = []

    def hook(grad):
        if not hooked:
            hooked.append(True)
            call_after_nodes(lambda: calls.append(1))

    y = x * 2
    y.register_hook(hook)
    (y * 3).sum().backward()
    assert len(calls) == 1  # sum and the second product came before
    (x * 2).sum().backward()
    assert len(calls) == 1
    with pytest.raises(GradientError, match="no backward"):
        call_after_nodes(print)


class FakeNvtx:
    """Records ranges as CuPy's module would be told them."""

    def __init__(self):
        self.open, self.seen = [], []

    def RangePush(self, name):  # noqa: N802 - CuPy's name
        self.open.append(name)
        self.seen.append("/".join(self.open))

    def RangePop(self):  # noqa: N802 - CuPy's name
        self.open.pop()


def test_nvtx_ranges_nest_as_the_work_does():
    nvtx = FakeNvtx()
    timeline.activate(NvtxTimeline(lambda step: None, nvtx=nvtx))
    try:
        with timeline.span("epoch"):
            train(1)
    finally:
        timeline.activate(None)
    assert nvtx.open == []
    assert {"epoch/batch", "epoch/augment", "epoch/backward", "epoch/SGD.step"} <= set(nvtx.seen)
    assert any(name.startswith("epoch/backward/") for name in nvtx.seen)


def test_nvtx_without_cupy_says_what_to_install(monkeypatch):
    for name in ("cupy", "cupy.cuda.nvtx"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(OptionError, match="need CuPy"):
        NvtxTimeline(lambda step: None)


def test_nvtx_uses_cupys_functions(monkeypatch):
    fake = FakeNvtx()
    module = types.ModuleType("cupy.cuda.nvtx")
    module.RangePush, module.RangePop = fake.RangePush, fake.RangePop
    for name in ("cupy", "cupy.cuda"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    monkeypatch.setitem(sys.modules, "cupy.cuda.nvtx", module)
    line = NvtxTimeline(lambda step: None)
    line.end(line.begin("x"), "x", "user")
    assert fake.seen == ["x"]
    assert fake.open == []
