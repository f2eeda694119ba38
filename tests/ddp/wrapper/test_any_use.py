"""Whatever ranks do with a model's parts: gradients are the weighted mean, the same bits on all."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import allgrad as ag
from allgrad import ddp, nn

PARTS = "abcd"


class Parts(nn.Module):
    """Layers that are used in the order, and as often, as forward is told."""

    def __init__(self) -> None:
        super().__init__()
        ag.manual_seed(0)
        self.a, self.b, self.c = (nn.Linear(5, 5) for _ in range(3))
        self.d = nn.Linear(5, 5, bias=False)
        self.d.weight = self.a.weight  # shared

    def forward(self, x: Any, uses: str) -> Any:
        for name in uses:
            x = getattr(self, name)(x).tanh()
        return x.square().mean()


# What one rank does in one step: micro-batches of some size, each with some layers.
micro = st.tuples(st.integers(1, 6), st.text(PARTS, min_size=1, max_size=4))


@st.composite
def programs(draw: Any) -> tuple[int, list[list[list[tuple[int, str]]]]]:
    """(ranks, steps -> ranks -> micro-batches); all ranks have as many micro-batches per step."""
    size = draw(st.integers(2, 3))
    steps = []
    for _ in range(draw(st.integers(1, 4))):
        count = draw(st.integers(1, 2))
        steps.append([[draw(micro) for _ in range(count)] for _ in range(size)])
    return size, steps


def batch(step: int, rank: int, number: int, count: int) -> Any:
    rng = np.random.default_rng((step, rank, number))
    return ag.tensor(rng.standard_normal((count, 5)).astype(np.float32))


def run(model: Any, step: int, rank: int, todo: list[tuple[int, str]]) -> None:
    """The last backward is synchronised."""
    for number, (count, uses) in enumerate(todo):
        loss = model(batch(step, rank, number, count), uses)
        if number < len(todo) - 1 and hasattr(model, "no_sync"):
            with model.no_sync():
                loss.backward()
        else:
            loss.backward()


def expected_of(step: int, work: list[list[tuple[int, str]]]) -> list[Any]:
    samples = [sum(count for count, _ in todo) for todo in work]
    means: list[Any] = [None] * 6
    for rank, todo in enumerate(work):
        alone = Parts()
        run(alone, step, rank, todo)
        for i, p in enumerate(alone.parameters()):
            if p.grad is not None:
                part = p.grad._array.astype(np.float64) * samples[rank] / sum(samples)
                means[i] = part if means[i] is None else means[i] + part
    return means


@settings(max_examples=25, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(programs(), st.sampled_from([0, 1e-4, None]), st.booleans())
def test_any_use_of_the_parameters(program: Any, cap: float | None, as_view: bool) -> None:
    size, steps = program

    def body() -> list[list[Any]]:
        ddp.init_process_group(timeout=20)
        rank = ddp.get_rank()
        model = ddp.DistributedDataParallel(
            Parts(), bucket_cap_mb=cap, gradient_as_bucket_view=as_view, unused_parameters="ignore"
        )
        seen = []
        for step, work in enumerate(steps):
            model.zero_grad()
            run(model, step, rank, work[rank])
            seen.append(
                [None if p.grad is None else p.grad._array.copy() for p in model.parameters()]
            )
        ddp.destroy_process_group()
        return seen

    results = ddp.run_ranks(body, size)
    for step, work in enumerate(steps):
        for i, mean in enumerate(expected_of(step, work)):
            grads = [result[step][i] for result in results]
            if mean is None:
                assert all(grad is None for grad in grads)
                continue
            assert all(grad.tobytes() == grads[0].tobytes() for grad in grads)
            np.testing.assert_allclose(grads[0], mean, rtol=2e-5, atol=1e-6)
