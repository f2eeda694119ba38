"""Random fillings and draws: their moments, their generators, their graph."""

from __future__ import annotations

import math

import numpy as np
import pytest

import allgrad as ag

N = 40000

# call -> (mean, standard deviation) of the numbers that it gives
MOMENTS = {
    "t.normal_(2, 3)": (2, 3),
    "t.uniform_(-1, 3)": (1, 4 / math.sqrt(12)),
    "t.uniform_(**{'from': 0, 'to': 2})": (1, 2 / math.sqrt(12)),
    "t.bernoulli_(0.2)": (0.2, 0.4),
    "t.bernoulli_(ag.full((N,), 0.5))": (0.5, 0.5),
    "t.exponential_(4)": (0.25, 0.25),
    "t.log_normal_(0, 0.5)": (math.exp(0.125), math.sqrt((math.exp(0.25) - 1) * math.exp(0.25))),
    "t.geometric_(0.25)": (4, math.sqrt(0.75) / 0.25),
    "t.random_(0, 10)": (4.5, math.sqrt(99 / 12)),
    "t.random_(10)": (4.5, math.sqrt(99 / 12)),
    "t.cauchy_(1, 2).sub(1).div(2).atan()": (0, math.pi / math.sqrt(12)),  # uniform angles
    "t.long().random_(-3, 4).double()": (0, 2),
    "t.fill_(0.3).bernoulli()": (0.3, math.sqrt(0.21)),
    "t.bernoulli(0.5)": (0.5, 0.5),
    "ag.poisson(t.fill_(3))": (3, math.sqrt(3)),
    "ag.binomial(t.fill_(10), ag.full((N,), 0.5))": (5, math.sqrt(2.5)),
    "ag.normal(1.0, 2.0, (N,))": (1, 2),
    "ag.normal(t.fill_(1), 2.0)": (1, 2),
    "ag.normal(1.0, t.fill_(2))": (1, 2),
    "ag.tensor([1.0, 0.0, 3.0]).multinomial(N, replacement=True).double()": (1.5, math.sqrt(0.75)),
}


@pytest.mark.parametrize("text", MOMENTS)
def test_moments(text):
    mean, deviation = MOMENTS[text]
    x = eval(text, {"t": ag.zeros(N), "ag": ag, "N": N}).double()
    assert x.shape == (N,)
    # Five standard errors; the numbers are the same in every run.
    assert abs(float(x.mean()) - mean) < 5 * deviation / math.sqrt(N)
    assert abs(float(x.std()) / deviation - 1) < 0.1


FILLINGS = ["normal_()", "uniform_()", "bernoulli_(0.5)", "exponential_()", "log_normal_()",
            "cauchy_()", "geometric_(0.5)", "random_()"]  # fmt: skip


@pytest.mark.parametrize("text", FILLINGS)
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
def test_fillings(text, dtype):
    """In place, reproducible by a generator, and cut from the graph."""
    name, _, args = text.partition("(")
    args = [float(a) for a in args.rstrip(")").split(",") if a]
    t = ag.zeros(3, 4, dtype=getattr(ag, dtype))
    memory = t.data_ptr()
    first = getattr(t, name)(*args, generator=ag.Generator(5))
    assert first is t
    assert t.data_ptr() == memory
    again = getattr(ag.ones(3, 4, dtype=t.dtype), name)(*args, generator=ag.Generator(5))
    assert again.tolist() == t.tolist()
    assert again.dtype is t.dtype
    other = getattr(ag.ones(3, 4, dtype=t.dtype), name)(*args, generator=ag.Generator(6))
    assert other.tolist() != t.tolist()
    leaf = ag.ones(3, 4, requires_grad=True)
    y = leaf * 1
    getattr(y, name)(*args)
    (y.sum() + (leaf * 0).sum()).backward()
    assert not leaf.grad.any()


def test_random_fills_the_range_of_the_dtype():
    for dtype, low, high in ((ag.uint8, 0, 255), (ag.int8, 0, 127), (ag.bool, 0, 1)):
        x = ag.zeros(5000, dtype=dtype).random_().long()
        assert (x.min().item(), x.max().item()) == (low, high)
    assert ag.zeros(100).random_().max() > 2**20


def test_multinomial_without_replacement():
    weights = ag.tensor([[0.0, 1.0, 2.0, 7.0]]).expand(N, 4)
    drawn = weights.multinomial(3)
    assert drawn.shape == (N, 3)
    assert drawn.dtype is ag.int64
    assert (drawn.sort(1).values == ag.tensor([1, 2, 3])).all()  # none twice, none of weight 0
    first = drawn[:, 0].bincount(minlength=4).double() / N
    np.testing.assert_allclose(first.numpy(), [0, 0.1, 0.2, 0.7], atol=0.01)
    second = drawn[drawn[:, 0] == 3][:, 1].bincount(minlength=4).double()
    assert abs(float(second[2] / second.sum()) - 2 / 3) < 0.01
    assert ag.ones(5).multinomial(5).sort().values.tolist() == [0, 1, 2, 3, 4]
    assert ag.tensor([1.0, 0.0]).multinomial(2).tolist() == [0, 1]


def test_normal_of_numbers_has_the_dtype_asked_for():
    assert ag.normal(0, 1, (2, 3)).dtype is ag.float32
    x = ag.normal(0, 1, (2, 3), dtype=ag.float64, requires_grad=True)
    assert (x.dtype, tuple(x.shape), x.requires_grad) == (ag.float64, (2, 3), True)
